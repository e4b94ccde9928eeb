"""What attacks bring back, and which metrics hold under them, as plain tables and words."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from uwc.reports.grid import Table
from uwc.reports.records import ES, Record, known
from uwc.reports.words import MISSING, listed, number, with_interval

FORGET = "forget"
Pair = tuple[str, str]

ENOUGH = 10
"""Checkpoints below which the report draws no conclusion from a correlation."""

WEIGHTS_ALONE = "Attacks that leave the weights alone"
WEIGHTS_CHANGED = "Attacks that change the weights"


def headline_metric(results: Record) -> str:
    """The metric that the recovery tables show: extraction strength, where it was measured."""
    names = dict.fromkeys(m for chain in results["attacks"]["chains"] for m in chain["metrics"])
    return ES if ES in names else next(iter(names))


def label_of(results: Record, metric: str) -> str:
    """What tables call a metric."""
    return str((results["metrics"].get(metric) or {}).get("label", metric))


def shown(chain: str) -> str:
    """A chain's name, with places where a narrow column may break it."""
    return chain.replace("_", " ").replace("+", " + ")


def method_of_runs(results: Record) -> dict[str, str]:
    """Run -> its method; runs of one method count as one row where there are several."""
    return {record["name"]: record["method"] or record["name"] for record in results["unlearned"]}


# --- What comes back ---------------------------------------------------------------------------------------------


def recovery_table(results: Record) -> Table:
    """For each method (averaged over its runs), the original and gold: the score before and under each attack."""
    metric, columns = headline_metric(results), _attack_columns(results)
    rows = []
    for name, models in _grouped(results).items():
        before = fmean(m["before"][_set(results)][metric]["mean"] for m in models)
        cells = [_recovery_cell(models, chain, which, metric, _set(results)) for chain, which in columns]
        rows.append((name, number(before, metric), *cells))
    titles = [shown(chain) if not which else f"{shown(chain)}, {which}" for chain, which in columns]
    label = label_of(results, metric)
    title = f"{label} on the {_set(results)} set under attack (below, in brackets: how much more than from gold)"
    return Table(title, ("model", "before", *titles), tuple(rows), "\n".join(_recovery_remarks(results)))


def recovery_words(results: Record) -> list[str]:
    """Which attack gets most out of which unlearned model, beyond what it gets from gold."""
    metric, of_set = headline_metric(results), _set(results)
    found = [
        (over["mean"], over, name, chain)
        for name, models in _grouped(results).items()
        if len(models) == 1 and models[0]["kind"] == "unlearned"
        for chain, which in _attack_columns(results)
        if which != "strongest" and (over := _over(_of(models[0], chain, of_set).get(metric) or {}, which))
        and known(over["mean"])
    ]  # fmt: skip
    if not found:
        return []
    _, over, name, chain = max(found, key=lambda f: f[0])
    return [f"Most is left in {name}: under {chain} it scores {with_interval(over, metric)} above gold."]


def runs_table(results: Record) -> Table:
    """Every attacked model by itself: the score under each attack with its interval, and how far it lies over gold."""
    metric, of_set = headline_metric(results), _set(results)
    rows = []
    for model in results["attacks"]["models"]:
        for chain, which in _attack_columns(results):
            outcome = ((model["outcomes"].get(chain) or {}).get(of_set) or {}).get(metric)
            if outcome is None:
                rows.append((model["name"], chain, MISSING, model["failed"].get(chain, MISSING), MISSING, MISSING))
                continue
            after, over = _after(outcome, which), _over(outcome, which)
            before = model["before"][of_set][metric]
            name = shown(chain) if not which else f"{shown(chain)}, {which}"
            rows.append(
                (
                    model["name"], name, with_interval(before, metric), with_interval(after, metric),
                    with_interval(over, metric) if over else MISSING, str(after["n"]),
                )
            )  # fmt: skip
    columns = ("model", "attack", "before", "after", "over gold", "n")
    return Table("Every model under every attack", columns, tuple(rows), "95% intervals, bootstrap over subjects.")


def budget_table(results: Record) -> Table | None:
    """The score at each budget of the attacks that were scored at several; None where there is none."""
    metric, of_set = headline_metric(results), _set(results)
    rows, efforts = [], set()
    for model in results["attacks"]["models"]:
        for chain in results["attacks"]["chains"]:
            outcome = ((model["outcomes"].get(chain["name"]) or {}).get(of_set) or {}).get(metric)
            if outcome is None or not any(s.get("budgets") for s in chain["settings"].values()):
                continue
            by_effort: dict[float, list[float]] = {}
            for variant in outcome["variants"]:
                by_effort.setdefault(variant["effort"], []).append(variant["mean"])
            efforts |= set(by_effort)
            before = model["before"][of_set][metric]["mean"]
            rows.append((model["name"], chain["name"], before, by_effort))
    if not rows:
        return None
    ordered = sorted(efforts)
    cells = tuple(
        (name, chain, number(before, metric), *(number(fmean(at[e]) if e in at else None, metric) for e in ordered))
        for name, chain, before, at in rows
    )
    columns = ("model", "attack", "0", *(f"{e:g}" for e in ordered))
    return Table(f"{label_of(results, metric)} on the {of_set} set over the attacker's effort (steps)", columns, cells)


def _set(results: Record) -> str:
    sets = results["attacks"]["sets"]
    return FORGET if FORGET in sets else str(next(iter(sets)))


def _attack_columns(results: Record) -> list[Pair]:
    """(chain, "mean" or "strongest" where it has several variants, otherwise "")."""
    metric, columns = headline_metric(results), []
    for chain in results["attacks"]["chains"]:
        outcomes = [m["outcomes"].get(chain["name"]) for m in results["attacks"]["models"]]
        found = [o[_set(results)][metric] for o in outcomes if o and metric in o[_set(results)]]
        several = any("strongest" in outcome for outcome in found)
        columns += [(chain["name"], which) for which in (("mean", "strongest") if several else ("",))]
    return columns


def _grouped(results: Record) -> dict[str, list[Record]]:
    methods = method_of_runs(results)
    groups: dict[str, list[Record]] = {}
    runs = list(methods.values())
    for model in results["attacks"]["models"]:
        if not model["outcomes"]:
            continue
        method = methods.get(model["run"])
        name = model["name"]
        if method is not None and runs.count(method) > 1:
            name = method + (", calibrated" if model["kind"] == "calibrated" else "")
            name += f" ({runs.count(method)} runs)"
        groups.setdefault(name, []).append(model)
    return groups


def _after(outcome: Record, which: str) -> Record:
    found: Record = outcome["strongest"] if which == "strongest" and "strongest" in outcome else outcome["after"]
    return found


def _over(outcome: Record, which: str) -> Record | None:
    found: Record | None = outcome.get("strongest_over_gold" if which == "strongest" else "over_gold")
    return found


def _recovery_cell(models: Sequence[Record], chain: str, which: str, metric: str, of_set: str) -> str:
    outcomes = [m["outcomes"][chain][of_set][metric] for m in models if metric in _of(m, chain, of_set)]
    if not outcomes:
        return MISSING
    after = fmean(_after(o, which)["mean"] for o in outcomes)
    above = [o["mean"] for o in (_over(outcome, which) for outcome in outcomes) if o and known(o["mean"])]
    if not above or models[0]["kind"] == "gold":
        return number(after, metric)
    return f"{number(after, metric)}\n({fmean(above):+.3f})"


def _of(model: Record, chain: str, of_set: str) -> Record:
    found: Record = (model["outcomes"].get(chain) or {}).get(of_set) or {}
    return found


def _recovery_remarks(results: Record) -> Iterator[str]:
    attacks = results["attacks"]
    yield (
        f"Scored: {attacks['sets'][_set(results)]} questions about subjects that the attacker does not have. "
        f"The attacker has {attacks['attacker']['train']} other forgotten examples and "
        f"{attacks['attacker']['retain']} retained ones."
    )
    if any(which for _, which in _attack_columns(results)):
        yield (
            "mean, strongest: of an attack's variants (templates, depths). The strongest is taken for each question "
            "afresh, which no attacker can know: an upper bound."
        )
    shown = [chain["name"] for chain in attacks["chains"] if chain["trains_on_scored"]]
    if shown:
        yield f"{listed(shown)}: the attacker trains on the scored answers too; only what exceeds gold is a leak."
    if not any(model["kind"] == "gold" for model in attacks["models"]):
        yield "No gold model was attacked, so what an attack gets from a model that never knew is unknown."


# --- Which metrics hold ------------------------------------------------------------------------------------------


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
    """How surely each metric tells what the original knows from what gold does not; None without a gold model."""
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
        "more knowing score than one that gold never saw; 0.5 is chance, 1 is always."
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
