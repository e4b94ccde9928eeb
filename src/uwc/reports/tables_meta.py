"""The robustness of metrics in words by attack, and their meta-evaluation in the field's units."""

from collections.abc import Iterator
from itertools import chain

from uwc.reports.format import MISSING, Table, known, listed, number, stacked
from uwc.results import ES, FORGET, MetaEvaluation, MetricEvaluation, StudyResults

HOLDS = 0.8
"""PCC on every set from which a metric is said to hold under an attack."""


def meta_evaluation_table(results: StudyResults) -> Table | None:
    """The faithfulness and robustness of each metric in the field's units; None without pools of models."""
    found = results.robustness.meta_evaluation if results.robustness else None
    if found is None or not found.metrics:
        return None
    rows = tuple(
        (
            _label(results, row),
            stacked(row.faithfulness),
            stacked(row.relearning),
            stacked(row.quantization),
            number(row.robustness),
            number(row.overall),
            number(row.quantization_recovery.value),
            number(row.recovery_overall),
            number(row.symmetric_relearning.value),
            number(row.symmetric_quantization.value),
            number(row.symmetric_overall),
            number(row.published),
            f"{row.models}/{row.models + row.too_little_utility + row.not_unlearned}",
        )
        for row in found.metrics
    )
    groups = {
        "measured": ("faithfulness", "R", "Q", "robustness", "overall"),
        "recovery": ("Q", "overall"),
        "symmetric": ("R", "Q", "overall", "published"),
    }
    return Table(
        "Faithfulness and robustness of the metrics",
        ("metric", *chain(*groups.values()), "models"),
        rows,
        "\n".join(_remarks(results, found)),
        groups=(("", 1), *((name, len(columns)) for name, columns in groups.items()), ("", 1)),
    )


def _remarks(results: StudyResults, found: MetaEvaluation) -> Iterator[str]:
    first, utility = found.metrics[0], results.metric_label(found.utility)
    yield (
        f"faithfulness: AUC over {first.knowing} models fine-tuned with the forget set and {first.ignorant} without "
        "it, with the 95% interval for so many models."
    )
    yield (
        f"R ({found.relearning}): min of 1 and the change in retrained over the change in the unlearned model. "
        f"Q ({found.quantization}): min of 1 and the metric after over before, low where it falls. Means over models, "
        "with 95% bootstrap intervals over models. robustness: harmonic mean of R and Q; overall: of faithfulness and "
        "robustness."
    )
    yield (
        "recovery: Q in its other published form, min of 1 and the metric before over after, which is low where "
        "quantization brings answers back, and the overall number with it."
    )
    yield (
        "symmetric: 1 - |a - b| / (|a| + |b|) in place of both, which is also low where a model regains less than "
        "retrained, and where quantization adds. The published numbers (arXiv:2605.24614, TOFU forget10, "
        "Llama-3.2-1B-Instruct) are symmetric."
    )
    yield (
        f"models: the unlearned models that R and Q are over, of all of them: those with at least "
        f"{found.least_utility:g} of the original's {utility} on retain, and not above the value of the metric that "
        "best separates the two pools."
    )
    if none := [_label(results, row) for row in found.metrics if row.models and not known(row.quantization.value)]:
        yield f"{listed(none)}: no Q, as the values have no bound or sign that makes their ratio meaningful."


def _label(results: StudyResults, row: MetricEvaluation) -> str:
    label = results.metric_label(row.metric)
    return label if row.set == FORGET else f"{label} ({results.set_label(row.set)})"


def meta_evaluation_words(results: StudyResults) -> list[str]:
    """Which metrics are best in the field's units, and whether that agrees with the published table."""
    found = results.robustness.meta_evaluation if results.robustness else None
    if found is None:
        return []
    return list(_meta_words(results, found))


def _meta_words(results: StudyResults, found: MetaEvaluation) -> Iterator[str]:
    ranked = [row for row in found.metrics if known(row.overall)]
    if ranked:
        best = ranked[0]
        yield (
            f"In the field's units {_label(results, best)} comes first of {len(ranked)} metrics: overall "
            f"{number(best.overall)}, from faithfulness {number(best.faithfulness.value)}, R "
            f"{number(best.relearning.value)} and Q {number(best.quantization.value)}."
        )
        place = next((i for i, row in enumerate(ranked, start=1) if (row.metric, row.set) == (ES, FORGET)), 1)
        if place > 1:
            es = ranked[place - 1]
            yield (
                f"ES is number {place} of them: overall {number(es.overall)}, from faithfulness "
                f"{number(es.faithfulness.value)}, R {number(es.relearning.value)} and Q "
                f"{number(es.quantization.value)}."
            )
    sure = [row for row in found.metrics if row.faithfulness.low > 0.5]
    unsure = [_label(results, row) for row in found.metrics if row not in sure]
    if unsure:
        yield (
            f"{listed(unsure)}: the interval of faithfulness includes 0.5 or lies below it, so that it is not shown "
            "that the metric separates models that know from models that do not."
        )
    if none := [_label(results, row) for row in found.metrics if not row.models]:
        yield (f"{listed(none)}: no unlearned model passes both filters, so there are no R and Q.")
    if found.common > 2:
        yield _agreement(results, found)


def _agreement(results: StudyResults, found: MetaEvaluation) -> str:
    """Whether the metric that is published as the best of the common ones is best here, and the correlation."""
    common = [row for row in found.metrics if known(row.published) and known(row.symmetric_overall)]
    theirs = max(common, key=lambda row: row.published or 0.0)
    ours = max(common, key=lambda row: row.symmetric_overall)
    verdict = (
        f"{_label(results, ours)} is best in both"
        if ours is theirs
        else f"{_label(results, theirs)} is best there, and {_label(results, ours)} here"
    )
    agrees = "agrees" if ours is theirs else "differs"
    spearman = f"{found.spearman:.2f}" if known(found.spearman) else MISSING
    few = ", which is too few to mean much" if found.common < 10 else ""
    return (
        f"{found.common} of these metrics are in the field's published table. By its symmetric formulas {verdict}: "
        f"this {agrees}. Spearman's correlation of the two orders is {spearman}, over {found.common} metrics{few}."
    )


def holding_words(results: StudyResults) -> list[str]:
    """Under each attack the metrics that hold, the one that holds least, and the place of extraction strength."""
    if results.robustness is None:
        return []
    least: dict[str, dict[str, float]] = {}
    means: dict[str, dict[str, list[float]]] = {}
    for cell in results.robustness.cells:
        pcc = cell.agreement.pcc.value
        pcc = pcc if known(pcc) else 0.0
        of_attack = least.setdefault(cell.attack, {})
        of_attack[cell.metric] = min(pcc, of_attack.get(cell.metric, 1.0))
        means.setdefault(cell.attack, {}).setdefault(cell.metric, []).append(pcc)
    return [_holding(results, attack, found, means[attack]) for attack, found in least.items()]


def _holding(results: StudyResults, attack: str, least: dict[str, float], means: dict[str, list[float]]) -> str:
    holding = [results.metric_label(metric) for metric, pcc in least.items() if pcc >= HOLDS]
    names = listed(holding) if len(holding) < len(least) else f"all {len(least)} metrics"
    held = f"{names} hold" if len(holding) != 1 else f"{names} alone holds"
    text = f"{attack}: {held} (PCC of at least {HOLDS:g} on every set)" if holding else f"{attack}: no metric holds"
    worst = min(least, key=lambda metric: least[metric])
    if least[worst] < HOLDS:
        text += f"; {results.metric_label(worst)} holds least ({least[worst]:.2f})"
    order = sorted(means, key=lambda metric: -sum(means[metric]) / len(means[metric]))
    if ES in order and len(order) > 1:
        text += f"; ES is number {order.index(ES) + 1} of {len(order)} by mean PCC"
    return f"{text}."
