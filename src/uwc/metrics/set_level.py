"""Numbers for whole sets of examples: tests, areas under curves, harmonic means."""

import numpy as np
from scipy import stats

from uwc.metrics.registry import set_metrics
from uwc.models.token_scores import Floats

UTILITY_SETS = ("retain", "real_authors", "world_facts")
MEMBERSHIP_ATTACKS = ("loss", "zlib", "reference", "min_k", "min_k_plus_plus", "gradient_norm")


@set_metrics.register(
    "forget_quality", source="arXiv:2401.06121",
    needs=("forget:truth_ratio_geometric", "retrained/forget:truth_ratio_geometric"),
    range=(0.0, 1.0), higher_remembers=False, label="forget quality", interval=False,
)  # fmt: skip
def forget_quality(unlearned: Floats, retrained: Floats) -> float:
    """The p-value of the Kolmogorov-Smirnov test that the truth ratios are those of a model that never saw the data.

    Two-sided, two samples: the truth ratios on the forget set of the model and of a retrained one. Near 1: no
    difference was found; below 0.05: the models differ. It falls with the number of examples, so compare like with
    like. Every monotone form of the truth ratio gives the same value.

    Args:
        unlearned: [E] truth ratios of the model.
        retrained: [E'] truth ratios of the retrained model.
    """
    return float(stats.ks_2samp(unlearned, retrained).pvalue)


def harmonic_means(means: Floats) -> Floats:
    """[...] the harmonic means ``I / sum_i 1 / m_i`` over the first axis of [I, ...]; 0 where any m_i is 0."""
    above = means.min(axis=0) > 0
    found: Floats = np.where(above, stats.hmean(np.where(above, means, 1.0), axis=0), 0.0)
    return found


@set_metrics.register(
    "model_utility", source="arXiv:2401.06121",
    needs=tuple(
        f"{name}:{metric}"
        for name in UTILITY_SETS
        for metric in ("rouge_l_ascii", "probability" if name == "retain" else "probability_normalised",
                       "truth_ratio_utility")
    ),
    range=(0.0, 1.0), higher_remembers=True, label="model utility", interval=True,
    of_means=harmonic_means,
)  # fmt: skip
def model_utility(*values: Floats) -> float:
    """What the model still can: the harmonic mean of nine means on data to keep.

    {retain, real authors, world facts} x {ROUGE-L recall in TOFU's form, probability (normalised for the last two),
    truth ratio ``max(0, 1 - R)``}. Any mean of 0 makes it 0. Answers that TOFU's form of ROUGE cannot read are left out
    and counted, see `rouge_l_ascii`.

    Args:
        values: nine arrays, each with the values of one metric on one set.
    """
    return harmonic_mean([float(v.mean()) for v in values])


def harmonic_mean(values: list[float]) -> float:
    """``n / sum_i 1 / v_i``; 0 if any value is 0."""
    return float(harmonic_means(np.array(values)))


def auc(members: Floats, others: Floats) -> float:
    """The chance that a random example never trained on has a higher loss-like score than a random member.

    ``P(others > members) + P(equal) / 2``, exactly, which is the Mann-Whitney statistic over the number of pairs: 1
    when every member scores lower, 0.5 when the scores tell nothing.

    Args:
        members: [E] scores of the examples in question.
        others: [E'] scores of examples that were never trained on.
    """
    ordered = np.sort(members)  # scipy's mannwhitneyu gives the same statistic, and takes 100 times as long
    below, up_to = (np.searchsorted(ordered, others, side=side).sum() for side in ("left", "right"))
    return float((below + up_to) / 2 / (len(members) * len(others)))


for _attack in MEMBERSHIP_ATTACKS:
    set_metrics.register(
        f"auc_{_attack}", source="arXiv:2506.12618", needs=(f"forget:mia_{_attack}", f"holdout:mia_{_attack}"),
        range=(0.0, 1.0), higher_remembers=True, label=f"AUC: {_attack.replace('_', '-')}", interval=True,
    )(auc)  # fmt: skip


@set_metrics.register(
    "privleak", source="arXiv:2407.06460",
    needs=("forget:mia_min_k", "holdout:mia_min_k", "retrained/forget:mia_min_k", "retrained/holdout:mia_min_k"),
    range=(-100.0, np.inf), higher_remembers=None, label="PrivLeak", interval=True,
)  # fmt: skip
def privleak(
    members: Floats,
    others: Floats,
    retrained_members: Floats | None = None,
    retrained_others: Floats | None = None,
) -> float:
    """How much better or worse than for a retrained model membership can be inferred, in percent.

    ``100 ((1 - AUC) - (1 - AUC_retrained)) / (1 - AUC_retrained)`` with the `auc` of min-k; AUC_retrained is 0.5 where
    no retrained model is given. Near 0 is good; far below: the data can still be recognised as trained on; far above:
    they stand out as never seen.

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
