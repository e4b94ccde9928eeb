"""Agreement of a judge with labels by people: Cohen's kappa, with an interval."""

from collections.abc import Sequence

import numpy as np

from uwc.metrics.stats import RESAMPLES, aggregate, bootstrap_interval, cluster_codes, draw_blocks
from uwc.models.token_scores import Floats
from uwc.results import Agreed, Confusion, Estimate


def cohen_kappa(counts: Floats) -> Floats:
    """[...] Cohen's kappa of two raters, from counts of pairs of answers.

    ``(p_o - p_e) / (1 - p_e)`` with ``p_o`` the share of equal answers, and ``p_e = p_1 q_1 + (1 - p_1)(1 - q_1)`` what
    it would be by chance, p_1 and q_1 the shares of yes of either rater. 1 is complete agreement, 0 that of chance.

    Args:
        counts: [..., 4] the numbers of (yes, yes), (yes, no), (no, yes) and (no, no).

    Returns:
        Kappa; NaN if ``p_e = 1``: both always give the same answer.

    Source: Cohen 1960, doi:10.1177/001316446002000104.
    """
    both, first, second, neither = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    total = both + first + second + neither
    with np.errstate(invalid="ignore", divide="ignore"):
        observed, one, other = (both + neither) / total, (both + first) / total, (both + second) / total
        chance = one * other + (1.0 - one) * (1.0 - other)
        kappa: Floats = np.where(chance < 1.0, (observed - chance) / (1.0 - chance), np.nan)
    return kappa


def agreement(
    verdicts: Floats, labels: Floats, subjects: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES
) -> Agreed:
    """The agreement of verdicts with labels, with 95 % intervals of a bootstrap over clusters.

    Args:
        verdicts: [E] 0 or 1; NaN where there is none, which is left out and counted.
        labels: [E] 0 or 1.
        subjects: [E]; examples that share one are a cluster.
        seed: of the bootstrap.
        resamples: number of draws; those without a kappa are left out of its interval.
    """
    known = ~np.isnan(verdicts)
    cells = np.stack(
        [
            verdicts * labels,
            verdicts * (1.0 - labels),
            (1.0 - verdicts) * labels,
            (1.0 - verdicts) * (1.0 - labels),
        ],
        axis=1,
    )[known]
    codes = np.unique(cluster_codes(subjects)[known], return_inverse=True)[1]
    clusters = int(codes.max(initial=-1)) + 1
    by_cluster = np.zeros((clusters, 4))
    np.add.at(by_cluster, codes, cells)
    kappa, low, high = float(cohen_kappa(cells.sum(axis=0))), float("nan"), float("nan")
    if clusters > 1 and np.isfinite(kappa):
        drawn = [cohen_kappa(draws @ by_cluster) for _, draws in draw_blocks(clusters, seed=seed, resamples=resamples)]
        found = np.concatenate(drawn)
        finite = found[np.isfinite(found)]
        low, high = bootstrap_interval(finite, clusters=clusters) if len(finite) > 1 else (low, high)
    same = np.where(known, (verdicts == labels).astype(np.float64), np.nan)
    counts = [int(count) for count in cells.sum(axis=0)]
    return Agreed(
        kappa=Estimate(value=kappa, low=low, high=high),
        share=aggregate(same, subjects, seed=seed),
        confusion=Confusion(both_yes=counts[0], judge_yes=counts[1], label_yes=counts[2], both_no=counts[3]),
    )
