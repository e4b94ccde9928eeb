"""Meta-evaluation of metrics in the field's units: faithfulness, robustness to relearning and to quantization."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import ArrayLike, NDArray

from uwc.metrics.set_metrics import harmonic_mean
from uwc.metrics.stats import bootstrap_interval
from uwc.published import published
from uwc.results import Estimate, Faithfulness, MetaEvaluation, MetricEvaluation, MetricInfo
from uwc.robustness import faithfulness_auc

Floats = NDArray[np.float64]
RESAMPLES = 2000
NAN = float("nan")


def remembered(values: ArrayLike, info: MetricInfo) -> Floats:
    """Values of a metric in the direction in which a high one means that answers are remembered.

    ``x`` where it does already, else ``low + high - x`` in a bounded range, as 1 - UDS, else ``1 / x`` for an average
    that is geometric, as the probability for perplexity, else ``-x``. Applied twice it gives the values back.

    Args:
        values: [...] of the metric.
        info: its direction, range and average.

    Raises:
        ValueError: neither direction means that answers are remembered.
    """
    x = np.asarray(values, dtype=np.float64)
    low, high = info.range
    if info.higher_remembers is None:
        raise ValueError(f"{info.label}: neither high nor low values mean that answers are remembered")
    if info.higher_remembers:
        return x
    if isfinite(low) and isfinite(high):
        return low + high - x
    if info.average == "geometric":
        inverse = np.full(x.shape, np.nan)
        np.divide(1.0, x, out=inverse, where=x > 0)
        return inverse
    return -x


def has_ratio(info: MetricInfo) -> bool:
    """Whether `remembered` gives no negative values, so that one of them can be divided by another."""
    low, high = info.range
    if info.higher_remembers or (isfinite(low) and isfinite(high)):
        return low >= 0
    return info.average == "geometric"


def relearning_robustness(
    before: ArrayLike, after: ArrayLike, *, retrained_before: float, retrained_after: float
) -> Floats:
    """How much less a metric of the retrained model rises by relearning than that of each unlearned model.

    ``R = min((r_before - r_after) / (m_before - m_after), 1)``: 1 if the unlearned model regains no more than a model
    that never knew learns. Where the two move apart it is 0, as in public code, and where the unlearned model does not
    move 1. The direction of the metric has no effect.

    Args:
        before: [n] the metric of each unlearned model before relearning.
        after: [n] after it.
        retrained_before: the metric of the retrained model before relearning.
        retrained_after: after it.

    Returns:
        [n] in 0..1; NaN where a value is missing.

    Source: arXiv:2506.12618.
    """
    rise = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    ratio = np.ones(rise.shape)
    np.divide(retrained_after - retrained_before, rise, out=ratio, where=rise != 0)
    return np.where(np.isfinite(rise), np.clip(ratio, 0.0, 1.0), np.nan)


def quantization_robustness(before: ArrayLike, after: ArrayLike) -> Floats:
    """The share of a metric that is left after quantization, ``Q = min(m_after / m_before, 1)``.

    It is low where the metric falls, and 1 where it rises. With the arguments exchanged it is the other published form,
    ``min(m_before / m_after, 1)``: low where quantization brings answers back. `symmetric_robustness` is low for both.

    Args:
        before: [n] the metric of each unlearned model, in the direction of `remembered`.
        after: [n] the same after quantization.

    Returns:
        [n] in 0..1; 1 where the metric was 0; NaN where a value is missing or negative.

    Source: arXiv:2506.12618, whose equation is read in both ways by the public code of arXiv:2605.24614.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    ratio = np.ones(first.shape)
    np.divide(second, first, out=ratio, where=first > 0)
    return np.where((first >= 0) & (second >= 0), np.minimum(ratio, 1.0), np.nan)


def symmetric_robustness(first: ArrayLike, second: ArrayLike) -> Floats:
    """``1 - |a - b| / (|a| + |b|)``, 1 if both are 0: low where a metric falls and where it rises.

    For relearning a and b are the changes of the metric in the unlearned and in the retrained model, for quantization
    the metric after and before it.

    Args:
        first: [n] a.
        second: [n] b, or one for all.

    Returns:
        [n] in 0..1; NaN where a value is missing.

    Source: arXiv:2605.24614.
    """
    a, b = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    size = np.abs(a) + np.abs(b)
    distance = np.zeros(a.shape)
    np.divide(np.abs(a - b), size, out=distance, where=size != 0)
    return np.where(np.isfinite(size), 1.0 - distance, np.nan)


def best_threshold(knowing: Sequence[float], ignorant: Sequence[float]) -> float:
    """The threshold above which most models know, and up to which most do not.

    Of the midpoints of neighbouring values the one that classifies most models of the two pools correctly; the
    lowest of several.

    Args:
        knowing: the metric of models that know, in the direction of `remembered`.
        ignorant: of models that do not.

    Returns:
        The threshold; NaN if a pool is empty or all values are the same.

    Source: arXiv:2506.12618.
    """
    know, ignore = (np.asarray(pool, dtype=np.float64) for pool in (knowing, ignorant))
    know, ignore = know[~np.isnan(know)], ignore[~np.isnan(ignore)]
    values = np.unique([*know, *ignore])
    if not len(know) or not len(ignore) or len(values) < 2:
        return NAN
    middles = (values[1:] + values[:-1]) / 2
    right = (know[:, None] > middles).sum(axis=0) + (ignore[:, None] <= middles).sum(axis=0)
    return float(middles[int(right.argmax())])


def auc_interval(auc: float, knowing: int, ignorant: int) -> tuple[float, float]:
    """The 95 % interval of an area under the ROC curve, from the number of models in each pool.

    The AUCs A with ``|auc - A| <= 1.96 sqrt(V(A))``, where with ``N = (m + n) / 2 - 1``
    ``V(A) = A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A)) / (m n)``: it has a width also for an AUC of 0 or 1.

    Args:
        auc: as observed.
        knowing: the number of models that know, m.
        ignorant: of those that do not, n.

    Returns:
        The ends, in 0..1; NaN if the AUC is NaN or a pool is empty.

    Source: Newcombe 2006, Statistics in Medicine 25, 559-573, method 5.
    """
    if isnan(auc) or not knowing or not ignorant:
        return NAN, NAN
    half, z = (knowing + ignorant) / 2 - 1, float(scipy.stats.norm.ppf(0.975))

    def beyond(a: float) -> float:
        spread = 1 + half * (1 - a) / (2 - a) + half * a / (1 + a)
        return (auc - a) ** 2 - z**2 * a * (1 - a) * spread / (knowing * ignorant)

    least = 1e-12
    low = 0.0 if auc == 0 else float(scipy.optimize.brentq(beyond, 0.0, min(auc, 1.0 - least)))
    high = 1.0 if auc == 1 else float(scipy.optimize.brentq(beyond, max(auc, least), 1.0))
    return low, high


def pool_faithfulness(
    metric: str, of_set: str, info: MetricInfo, *, knowing: Sequence[float], ignorant: Sequence[float]
) -> Faithfulness:
    """The faithfulness of a metric over two pools of models: AUC with an interval.

    Args:
        metric: its name.
        of_set: the set on which it was measured.
        info: its description.
        knowing: its values for models that know; NaN if it has none.
        ignorant: the same for models that do not.
    """
    known, unknown = ([v for v in pool if not isnan(v)] for pool in (knowing, ignorant))
    auc = faithfulness_auc(remembered(known, info).tolist(), remembered(unknown, info).tolist())
    low, high = auc_interval(auc, len(known), len(unknown))
    return Faithfulness(
        metric=metric,
        set=of_set,
        knowing=len(known),
        ignorant=len(unknown),
        auc=auc,
        low=low,
        high=high,
        over="models",
        knowing_values=tuple(known),
        ignorant_values=tuple(unknown),
    )


Change = tuple[float, float]
"""A metric before and after an attack; NaN if it has no value."""
NO_CHANGE: Change = (NAN, NAN)


@dataclass(frozen=True)
class Stressed:
    """One metric of an unlearned model.

    Attributes:
        value: as delivered, on the same questions as the values of the pools.
        utility: the model's utility as a share of the original's.
        relearning: before and after relearning.
        quantization: before and after quantization.
    """

    value: float
    utility: float
    relearning: Change = NO_CHANGE
    quantization: Change = NO_CHANGE


def evaluate_metric(
    found: Faithfulness,
    info: MetricInfo,
    unlearned: Sequence[Stressed],
    *,
    retrained: Change,
    least_utility: float = 0.8,
    seed: int = 0,
) -> MetricEvaluation:
    """The faithfulness and robustness of a metric on a set.

    R and Q are means over the unlearned models that pass two filters: a utility of at least `least_utility` of the
    original's, and a metric up to the threshold of the pools, that is, a model that is unlearned by this metric.
    Robustness is the harmonic mean of R and Q, the overall number that of faithfulness and robustness. Q is published
    in two forms, and the overall number is given for both.

    Args:
        found: its faithfulness over pools of models.
        info: its description.
        unlearned: the unlearned models.
        retrained: the metric of the retrained model before and after relearning.
        least_utility: the bound of the first filter.
        seed: of the bootstrap over models.

    Source: arXiv:2506.12618; the symmetric numbers arXiv:2605.24614.
    """
    threshold = best_threshold(
        remembered(found.knowing_values, info).tolist(), remembered(found.ignorant_values, info).tolist()
    )
    useful = [model for model in unlearned if model.utility >= least_utility]
    passing = [model for model in useful if float(remembered(model.value, info)) <= threshold]
    relearning = remembered([model.relearning for model in passing], info).reshape(-1, 2)
    quantization = remembered([model.quantization for model in passing], info).reshape(-1, 2)
    control = remembered(retrained, info)
    r = relearning_robustness(
        relearning[:, 0], relearning[:, 1], retrained_before=float(control[0]), retrained_after=float(control[1])
    )
    before, after = quantization.T if has_ratio(info) else np.full(quantization.T.shape, np.nan)
    both = {
        "relearning": r,
        "quantization": quantization_robustness(before, after),
        "quantization_recovery": quantization_robustness(after, before),
        "symmetric_relearning": symmetric_robustness(relearning[:, 1] - relearning[:, 0], control[1] - control[0]),
        "symmetric_quantization": symmetric_robustness(quantization[:, 1], quantization[:, 0]),
    }
    means = {name: mean_over_models(values, seed=seed) for name, values in both.items()}
    robustness = _harmonic(means["relearning"].value, means["quantization"].value)
    recovery = _harmonic(means["relearning"].value, means["quantization_recovery"].value)
    symmetric = _harmonic(means["symmetric_relearning"].value, means["symmetric_quantization"].value)
    return MetricEvaluation(
        metric=found.metric,
        set=found.set,
        faithfulness=Estimate(value=found.auc, low=found.low, high=found.high),
        knowing=found.knowing,
        ignorant=found.ignorant,
        threshold=float(remembered(threshold, info)),
        models=len(passing),
        too_little_utility=len(unlearned) - len(useful),
        not_unlearned=len(useful) - len(passing),
        robustness=robustness,
        overall=_harmonic(found.auc, robustness),
        recovery_overall=_harmonic(found.auc, recovery),
        symmetric_robustness=symmetric,
        symmetric_overall=_harmonic(found.auc, symmetric),
        published=published_overall(found.metric, found.set),
        **means,
    )


def mean_over_models(values: Floats, *, seed: int = 0) -> Estimate:
    """The mean of one value a model, NaN left out, with a bootstrap interval over models; NaN for fewer than two."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Estimate(value=NAN, low=NAN, high=NAN)
    draws = np.random.default_rng(seed).integers(len(kept), size=(RESAMPLES, len(kept)))
    low, high = bootstrap_interval(kept[draws].mean(axis=1), clusters=len(kept))
    return Estimate(value=float(kept.mean()), low=low, high=high)


def _harmonic(first: float, second: float) -> float:
    return NAN if isnan(first) or isnan(second) else harmonic_mean([first, second])


def meta_evaluation(
    rows: Sequence[MetricEvaluation], *, relearning: str, quantization: str, utility: str, least_utility: float
) -> MetaEvaluation:
    """All metrics by their overall number, and the correlation of their order with the published one.

    Args:
        rows: one for each metric and set.
        relearning, quantization: the names of the attacks.
        utility: the metric of utility.
        least_utility: the bound on it.
    """
    ordered = sorted(rows, key=lambda row: (isnan(row.overall), -row.overall if not isnan(row.overall) else 0.0))
    common = [row for row in ordered if row.published is not None and not isnan(row.symmetric_overall)]
    spearman = NAN
    if len(common) > 2:
        ours, theirs = [row.symmetric_overall for row in common], [row.published for row in common]
        ranks = scipy.stats.rankdata(ours), scipy.stats.rankdata(theirs)
        spearman = float(np.corrcoef(*ranks)[0, 1]) if len(set(ours)) > 1 else NAN
    return MetaEvaluation(
        relearning=relearning,
        quantization=quantization,
        utility=utility,
        least_utility=least_utility,
        metrics=tuple(ordered),
        common=len(common),
        spearman=spearman,
    )


OUR_METRICS: Mapping[tuple[str, str], str] = {
    ("extraction_strength", "forget"): "es",
    ("exact_memorization", "forget"): "em",
    ("probability", "forget"): "prob",
    ("paraphrase_probability", "forget"): "paraprob",
    ("truth_probability", "forget"): "truth_ratio",
    ("rouge_l", "forget"): "rouge",
    ("rouge_l", "forget_paraphrased"): "para_rouge",
}
"""Our metric and set -> its name in the published table; another metric on the forget set has its own name there."""

_PUBLISHED: Mapping[str, float] = {row["metric"]: row["overall"] for row in published("meta-evaluation").rows}


def published_overall(metric: str, of_set: str) -> float | None:
    """The published overall number of a metric, with the symmetric robustness; None where there is none."""
    name = OUR_METRICS.get((metric, of_set), metric if of_set == "forget" else "")
    return _PUBLISHED.get(name)
