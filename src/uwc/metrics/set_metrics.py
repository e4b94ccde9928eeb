"""Metrics of whole sets: tests, areas under curves and harmonic means."""

import numpy as np
import scipy  # its parts are imported on first use

from uwc.metrics.registry import set_metrics
from uwc.models.token_scores import Floats

UTILITY_SETS = ("retain", "real_authors", "world_facts")
MEMBERSHIP_ATTACKS = ("loss", "zlib", "reference", "min_k", "min_k_plus_plus", "gradient_norm")


@set_metrics.register(
    "forget_quality",
    source="arXiv:2401.06121",
    needs=("forget:truth_ratio_geometric", "retrained/forget:truth_ratio_geometric"),
    range=(0.0, 1.0),
    higher_remembers=False,
    label="forget quality",
    interval=False,
)
def forget_quality(unlearned: Floats, retrained: Floats) -> float:
    """The p-value of a Kolmogorov-Smirnov test between the truth ratios of the model and of a retrained one.

    Two-sided, two samples: the truth ratios on the forget set. Below 0.05 the models differ significantly. It decreases
    with the number of examples, so that only values for equally many are comparable. Monotone transformations of the
    truth ratio do not change it.

    Args:
        unlearned: [E] truth ratios of the model.
        retrained: [E'] truth ratios of the retrained model.
    """
    return float(scipy.stats.ks_2samp(unlearned, retrained).pvalue)


def harmonic_means(means: Floats) -> Floats:
    """[...] the harmonic means ``I / sum_i 1 / m_i`` over the first axis of [I, ...]; 0 where any m_i is 0."""
    above = means.min(axis=0) > 0
    found: Floats = np.where(above, scipy.stats.hmean(np.where(above, means, 1.0), axis=0), 0.0)
    return found


@set_metrics.register(
    "model_utility",
    source="arXiv:2401.06121",
    needs=tuple(
        f"{name}:{metric}"
        for name in UTILITY_SETS
        for metric in (
            "rouge_l_ascii",
            "probability" if name == "retain" else "probability_normalised",
            "truth_ratio_utility",
        )
    ),
    range=(0.0, 1.0),
    higher_remembers=True,
    label="model utility",
    interval=True,
    of_means=harmonic_means,
)
def model_utility(*values: Floats) -> float:
    """TOFU's model utility: the harmonic mean of nine means on data to be kept.

    {retain, real authors, world facts} x {ROUGE-L recall as in TOFU, probability (normalised for the last two), truth
    ratio ``max(0, 1 - R)``}. It is 0 if any mean is 0. Answers without a value of `rouge_l_ascii` are left out and
    counted.

    Args:
        values: nine arrays, each with the values of one metric on one set.
    """
    return harmonic_mean([float(v.mean()) for v in values])


def harmonic_mean(values: list[float]) -> float:
    """``n / sum_i 1 / v_i``; 0 if any value is 0."""
    return float(harmonic_means(np.array(values)))


def auc(members: Floats, others: Floats) -> float:
    """The area under the ROC curve of membership inference.

    ``P(others > members) + P(equal) / 2``, the Mann-Whitney statistic divided by the number of pairs: 1 if every member
    scores lower than all others, 0.5 for chance.

    Args:
        members: [E] scores of the examples in question.
        others: [E'] scores of examples that were never trained on.
    """
    ordered = np.sort(members)  # the statistic of scipy's mannwhitneyu, 100 times faster
    below, up_to = (np.searchsorted(ordered, others, side=side).sum() for side in ("left", "right"))
    return float((below + up_to) / 2 / (len(members) * len(others)))


for _attack in MEMBERSHIP_ATTACKS:
    set_metrics.register(
        f"auc_{_attack}",
        source="arXiv:2506.12618",
        needs=(f"forget:mia_{_attack}", f"holdout:mia_{_attack}"),
        range=(0.0, 1.0),
        higher_remembers=True,
        label=f"AUC: {_attack.replace('_', '-')}",
        interval=True,
    )(auc)


def true_positive_rate(members: Floats, others: Floats, *, bound: float) -> float:
    """The largest true positive rate of membership inference whose false positive rate is at most a bound.

    ``max_t {TPR(t) : FPR(t) <= bound}`` with TPR(t) and FPR(t) the shares of members and others that score at most t.
    Of n others ``k = floor(bound n)`` may be taken for members, so that it is the share of members below the (k+1)-th
    lowest other. A member that ties with that other is not counted, and nothing is interpolated. With fewer than
    ``1 / bound`` others k is 0: the rate is then that without any false positive.

    Args:
        members: [E] scores of the examples in question; low values indicate members.
        others: [E'] scores of examples that were never trained on.
        bound: of the false positive rate, in 0..1.
    """
    allowed = _allowed(len(others), bound)
    if allowed >= len(others):
        return 1.0
    return float((members < np.partition(others, allowed)[allowed]).mean())


def _allowed(others: int, bound: float) -> int:
    """The largest number of false positives among so many others."""
    return int(np.floor(bound * others + 1e-9))


def tpr_1_in_100(members: Floats, others: Floats) -> float:
    """The true positive rate of membership inference at a false positive rate of at most 1 %.

    ``max_t {TPR(t) : FPR(t) <= 0.01}`` with TPR(t) and FPR(t) the shares of members and of others that score at most t,
    without interpolation: of n others the ``floor(n / 100)`` lowest are false positives, and members below the next one
    are found; a tie with it is not. With fewer than 100 others it is the rate without any false positive.

    Args:
        members: [E] scores of the examples in question.
        others: [E'] scores of examples that were never trained on.
    """
    return true_positive_rate(members, others, bound=0.01)


def tpr_1_in_1000(members: Floats, others: Floats) -> float:
    """The true positive rate of membership inference at a false positive rate of at most 0.1 %.

    As `tpr_1_in_100` with ``FPR(t) <= 0.001``. With fewer than 1,000 others it is the rate without any false positive.

    Args:
        members: [E] scores of the examples in question.
        others: [E'] scores of examples that were never trained on.
    """
    return true_positive_rate(members, others, bound=0.001)


BOUNDS = {"1_in_100": (0.01, "1%", tpr_1_in_100), "1_in_1000": (0.001, "0.1%", tpr_1_in_1000)}
"""Name of a bound of the false positive rate -> the bound, as text, and the metric."""

for _name, (_bound, _percent, _rate) in BOUNDS.items():
    for _attack in MEMBERSHIP_ATTACKS:
        set_metrics.register(
            f"tpr_{_name}_{_attack}",
            source="arXiv:2112.03570",
            needs=(f"forget:mia_{_attack}", f"holdout:mia_{_attack}"),
            range=(0.0, 1.0),
            higher_remembers=True,
            label=f"TPR at {_percent} FPR: {_attack.replace('_', '-')}",
            interval=True,
            fewest={"holdout": round(1 / _bound)},
        )(_rate)


@set_metrics.register(
    "privleak",
    source="arXiv:2407.06460",
    needs=("forget:mia_min_k", "holdout:mia_min_k", "retrained/forget:mia_min_k", "retrained/holdout:mia_min_k"),
    range=(-100.0, np.inf),
    higher_remembers=None,
    label="PrivLeak",
    interval=True,
)
def privleak(
    members: Floats,
    others: Floats,
    retrained_members: Floats | None = None,
    retrained_others: Floats | None = None,
) -> float:
    """MUSE's PrivLeak: the AUC of membership inference relative to that of a retrained model, in percent.

    ``100 ((1 - AUC) - (1 - AUC_retrained)) / (1 - AUC_retrained)`` with the `auc` of min-k; AUC_retrained is 0.5 if no
    retrained model is given. Values near 0 are best; with large negative values the forget set can still be recognised
    as trained on, with large positive ones it stands out as never seen.

    Args:
        members: [E] min-k of the forget set.
        others: [E'] min-k of data never trained on.
        retrained_members: the same of the retrained model.
        retrained_others: the same of the retrained model.
    """
    retrained = 0.5
    if retrained_members is not None and retrained_others is not None:
        retrained = auc(retrained_members, retrained_others)
    if retrained == 1.0:
        return float("nan")
    return 100.0 * (retrained - auc(members, others)) / (1.0 - retrained)
