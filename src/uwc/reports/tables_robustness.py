"""Which metrics hold under attacks, as tables and in words."""

from collections.abc import Sequence

from uwc.reports.format import MISSING, Table, known, listed, number, with_interval
from uwc.reports.tables_attacks import shown
from uwc.results import ES, FORGET, Cell, Robustness, StudyResults

ENOUGH = 10
"""Checkpoints below which the report draws no conclusion from a correlation."""

WEIGHTS = {False: "Attacks that leave the weights alone", True: "Attacks that change the weights"}


def ranking_tables(results: StudyResults) -> list[Table]:
    """The metrics by mean PCC: under attacks that leave the weights alone, and under those that do not."""
    found, tables = _robustness(results), []
    for touches, title in WEIGHTS.items():
        raw = {rank.metric: rank.pcc for rank in found.without_logarithms if rank.touches_weights == touches}
        rows = tuple(
            (
                str(rank.place),
                results.metric_label(rank.metric),
                number(rank.pcc),
                number(rank.worst),
                number(rank.distance_from_one),
                number(raw.get(rank.metric)),
                f"{rank.cells - rank.missing} of {rank.cells}",
            )
            for rank in found.ranking
            if rank.touches_weights == touches
        )
        columns = (
            "place",
            "metric",
            "mean PCC",
            "lowest PCC",
            "mean |slope - 1|",
            "mean PCC without logarithms",
            "PCC exists in",
        )
        tables += [Table(title, columns, rows)] if rows else []
    return tables


def pcc_table(results: StudyResults) -> Table:
    """PCC of each metric under each attack, retain / forget, with the published ones below where there are any."""
    found = _robustness(results).cells
    cells = {(cell.metric, cell.attack, cell.split): cell for cell in found}
    metrics = list(dict.fromkeys(cell.metric for cell in found))
    attacks = _attacks(results)
    splits = [name for name in ("retain", FORGET) if any(cell.split == name for cell in found)]
    rows = []
    for metric in metrics:
        at = [[cells.get((metric, attack, split)) for split in splits] for attack in attacks]
        rows.append((results.metric_label(metric), *map(_pcc_cell, at)))
    title = f"PCC before against after, {' / '.join(splits)}; published in brackets"
    caption = "Published: arXiv:2406.09179, review discussion, on TOFU with Phi-1.5 and Llama-2-7B."
    return Table(title, ("metric", *map(shown, attacks)), tuple(rows), caption)


def _robustness(results: StudyResults) -> Robustness:
    if results.robustness is None:
        raise ValueError("the results have no robustness of metrics")
    return results.robustness


def _attacks(results: StudyResults) -> list[str]:
    """The attacks in their order in the study, compared or not."""
    compared = [cell.attack for cell in _robustness(results).cells]
    carried_out = [attack.name for attack in results.attacks.attacks] if results.attacks else []
    return list(dict.fromkeys([*carried_out, *compared]))


def _pcc_cell(cells: Sequence[Cell | None]) -> str:
    ours = " / ".join(_two_decimals(cell.agreement.pcc.value if cell else None) for cell in cells)
    published = [cell.published if cell else None for cell in cells]
    return f"{ours}\n({' / '.join(map(_two_decimals, published))})" if any(map(known, published)) else ours


def _two_decimals(value: float | None) -> str:
    return f"{value:.2f}" if known(value) else MISSING


def agreement_table(results: StudyResults) -> Table:
    """Every statistic with its interval over checkpoints, and its warnings."""
    found, rows = _robustness(results), []
    for cell in found.cells:
        agreement = cell.agreement
        values = (
            agreement.pcc,
            agreement.spearman,
            agreement.slope,
            agreement.intercept,
            agreement.distance,
        )
        first = results.metric_label(cell.metric), cell.attack, cell.split, str(agreement.n)
        rows.append((*first, *map(with_interval, values), "; ".join(agreement.warnings)))
    columns = ("metric", "attack", "set", "n", "PCC", "Spearman", "slope", "intercept", "distance", "warning")
    caption = "95% intervals, bootstrap over checkpoints. distance: mean distance from the line after = before."
    if found.log_metrics:
        names = listed([results.metric_label(name) for name in found.log_metrics])
        caption += f"\nOn logarithms, as they span magnitudes: {names}."
    return Table("Before against after, over checkpoints", columns, tuple(rows), caption)


def faithfulness_table(results: StudyResults) -> Table | None:
    """How well each metric separates the original from the retrained model; None where there is none."""
    found = _robustness(results).faithfulness
    if not found:
        return None
    sets = list(dict.fromkeys(row.set for row in found))
    auc = {(row.metric, row.set): row.auc for row in found}
    metrics = dict.fromkeys(row.metric for row in found)
    rows = tuple((results.metric_label(m), *(number(auc.get((m, s))) for s in sets)) for m in metrics)
    caption = (
        f"AUC over {found[0].subjects} subjects of each model: how often one that the original was trained on has a "
        "score that shows more knowledge than one that retrained never saw; 0.5 is chance, 1 is always."
    )
    return Table("Faithfulness", ("metric", *map(results.set_label, sets)), rows, caption)


def robustness_words(results: StudyResults) -> list[str]:
    """Whether extraction strength holds best here, as the paper found, and in how many pairs our order is the same."""
    found = _robustness(results)
    if found.checkpoints < ENOUGH:
        return [
            f"{found.checkpoints} models are too few to say which metric holds: correlations need at least "
            f"{ENOUGH}. The shipped study robustness has 36."
        ]
    sentences = []
    for touches, where in ((False, "that leave the weights alone"), (True, "that change the weights")):
        ranks = [rank for rank in found.ranking if rank.touches_weights == touches]
        es = next((rank for rank in ranks if rank.metric == ES), None)
        if es is None or len(ranks) < 2:
            continue
        best, agrees = ranks[0], es.place == 1
        place = "is the most robust metric" if agrees else f"is number {es.place} of {len(ranks)} metrics"
        lead = "" if agrees else f"; {results.metric_label(best.metric)} leads with {number(best.pcc)}"
        verdict = "agrees with" if agrees else "differs from"
        sentences.append(
            f"Under attacks {where}, ES {place}, with a mean PCC of {number(es.pcc)}{lead}. "
            f"This {verdict} the paper, in which ES is the most robust."
        )
    if found.orders:
        same = sum(order.same for order in found.orders)
        sentences.append(
            f"Of {len(found.orders)} pairs of metrics whose published PCC under one of these attacks differ, {same} "
            "have the published order here."
        )
    if found.log_metrics:
        names = listed([results.metric_label(name) for name in found.log_metrics])
        sentences.append(
            f"{names} span magnitudes and are compared on logarithms; as they are, a few models far from the others "
            "decide the correlation, which the tables give too."
        )
    warned = sum(bool(cell.agreement.warnings) for cell in found.cells)
    if warned:
        sentences.append(
            f"{warned} of {len(found.cells)} comparisons carry a warning (too few models, or little spread between "
            "them); their correlations mean little."
        )
    return sentences
