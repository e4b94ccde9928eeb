"""Which metrics hold under attacks, as plain tables and words."""

from collections.abc import Sequence
from typing import Any

from uwc.reports.grid import Table
from uwc.reports.records import ES, Record, known, label_of
from uwc.reports.words import MISSING, listed, number, with_interval

FORGET = "forget"

ENOUGH = 10
"""Checkpoints below which the report draws no conclusion from a correlation."""

WEIGHTS_ALONE = "Attacks that leave the weights alone"
WEIGHTS_CHANGED = "Attacks that change the weights"


def shown(chain: str) -> str:
    """A chain's name, with places where a narrow column may break it."""
    return chain.replace("_", " ").replace("+", " + ")


def ranking_tables(results: Record) -> list[Table]:
    """The metrics by mean PCC: under attacks that leave the weights alone, and under those that do not."""
    tables = []
    for touches, title in ((False, WEIGHTS_ALONE), (True, WEIGHTS_CHANGED)):
        ranks = [r for r in results["robustness"]["ranking"] if r["touches_weights"] == touches]
        if not ranks:
            continue
        raw = {
            r["metric"]: r["pcc"]
            for r in results["robustness"]["without_logarithms"]
            if r["touches_weights"] == touches
        }
        rows = tuple(
            (
                str(r["place"]), label_of(results, r["metric"]), number(r["pcc"]), number(r["worst"]),
                number(r["distance_from_one"]), number(raw.get(r["metric"])),
                f"{r['cells'] - r['missing']} of {r['cells']}",
            )
            for r in ranks
        )  # fmt: skip
        columns = (
            "place", "metric", "mean PCC", "lowest PCC", "mean |slope - 1|", "mean PCC without logarithms",
            "PCC exists in",
        )  # fmt: skip
        tables.append(Table(title, columns, rows))
    return tables


def pcc_table(results: Record) -> Table:
    """PCC of each metric under each attack, retain / forget, with the published ones below where there are any."""
    cells = {(c["metric"], c["attack"], c["split"]): c for c in results["robustness"]["cells"]}
    metrics = list(dict.fromkeys(c["metric"] for c in results["robustness"]["cells"]))
    chains = [chain["name"] for chain in results["attacks"]["chains"]]
    splits = [s for s in ("retain", FORGET) if any(key[2] == s for key in cells)]
    rows = []
    for metric in metrics:
        row = [label_of(results, metric)]
        for chain in chains:
            found = [cells.get((metric, chain, split)) for split in splits]
            ours = _pair([c["agreement"]["pcc"]["value"] if c else None for c in found])
            published = [c["published"] if c else None for c in found]
            row.append(ours if not any(map(known, published)) else f"{ours}\n({_pair(published)})")
        rows.append(tuple(row))
    title = f"PCC before against after, {' / '.join(splits)}; published in brackets"
    caption = "Published: arXiv:2406.09179, review discussion, on TOFU with Phi-1.5 and Llama-2-7B."
    return Table(title, ("metric", *map(shown, chains)), tuple(rows), caption)


def _pair(values: Sequence[Any]) -> str:
    return " / ".join(f"{v:.2f}" if known(v) else MISSING for v in values)


def agreement_table(results: Record) -> Table:
    """Every statistic with its interval over checkpoints, and its warnings."""
    names = ("pcc", "spearman", "slope", "intercept", "distance")
    rows = []
    for cell in results["robustness"]["cells"]:
        found = cell["agreement"]
        values = [with_interval({"mean": found[n]["value"], **found[n]}) for n in names]
        rows.append(
            (
                label_of(results, cell["metric"]), cell["attack"], cell["split"], str(found["n"]), *values,
                "; ".join(found["warnings"]),
            )
        )  # fmt: skip
    columns = ("metric", "attack", "set", "n", "PCC", "Spearman", "slope", "intercept", "distance", "warning")
    logged = [label_of(results, name) for name in results["robustness"]["log_metrics"]]
    caption = "95% intervals, bootstrap over checkpoints. distance: mean distance from the line after = before."
    if logged:
        caption += f"\nOn logarithms, as they span magnitudes: {listed(logged)}."
    return Table("Before against after, over checkpoints", columns, tuple(rows), caption)


def faithfulness_table(results: Record) -> Table | None:
    """How well each metric separates the original from the retrained model; None where there is none."""
    found = results["robustness"]["faithfulness"]
    if not found:
        return None
    sets = list(dict.fromkeys(row["set"] for row in found))
    auc = {(row["metric"], row["set"]): row["auc"] for row in found}
    metrics = dict.fromkeys(row["metric"] for row in found)
    rows = tuple((label_of(results, m), *(number(auc.get((m, s))) for s in sets)) for m in metrics)
    labels = [results["sets"][s]["label"] for s in sets]
    caption = (
        f"AUC over {found[0]['subjects']} subjects of each model: how often one that the original was trained on has a "
        "more knowing score than one that retrained never saw; 0.5 is chance, 1 is always."
    )
    return Table("Faithfulness", ("metric", *labels), rows, caption)


def robustness_words(results: Record) -> list[str]:
    """Whether extraction strength holds best here, as the paper found, and in how many pairs our order is the same."""
    found = results["robustness"]
    if found["checkpoints"] < ENOUGH:
        return [
            f"{found['checkpoints']} models are too few to say which metric holds: correlations need at least "
            f"{ENOUGH}. The shipped study `robustness` has 36."
        ]
    sentences = []
    for touches, where in ((False, "that leave the weights alone"), (True, "that change the weights")):
        ranks = [r for r in found["ranking"] if r["touches_weights"] == touches]
        es = next((r for r in ranks if r["metric"] == ES), None)
        if es is None or len(ranks) < 2:
            continue
        best, agrees = ranks[0], es["place"] == 1
        place = "is the most robust metric" if agrees else f"is number {es['place']} of {len(ranks)} metrics"
        lead = "" if agrees else f"; {label_of(results, best['metric'])} leads with {number(best['pcc'])}"
        verdict = "agrees with" if agrees else "differs from"
        sentences.append(
            f"Under attacks {where}, ES {place}, with a mean PCC of {number(es['pcc'])}{lead}. "
            f"This {verdict} the paper, in which ES is the most robust."
        )
    if orders := found["orders"]:
        same = sum(order["same"] for order in orders)
        sentences.append(
            f"Of {len(orders)} pairs of metrics whose published PCC under one of these attacks differ, {same} have the "
            "published order here."
        )
    if found["log_metrics"]:
        names = listed([label_of(results, name) for name in found["log_metrics"]])
        sentences.append(
            f"{names} span magnitudes and are compared on logarithms; as they are, a few models far from the others "
            "decide the correlation, which the tables give too."
        )
    warned = sum(bool(cell["agreement"]["warnings"]) for cell in found["cells"])
    if warned:
        sentences.append(
            f"{warned} of {len(found['cells'])} comparisons carry a warning (too few models, or little spread between "
            "them); their correlations mean little."
        )
    return sentences
