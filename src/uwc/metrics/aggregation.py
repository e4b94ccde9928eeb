"""Averages with their sample count, standard error and bootstrap interval, clustered by subject."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from uwc.models.token_scores import Floats

Average = Literal["arithmetic", "geometric"]
RESAMPLES = 2000


@dataclass(frozen=True)
class Aggregate:
    """A mean over examples, and how sure it is.

    Attributes:
        mean: the average of the scored examples; NaN if there is none.
        n: how many examples were scored.
        not_scored: how many were not (NaN: the metric does not apply to them).
        clusters: how many independent groups the scored examples form.
        se: the standard error of the mean, from the spread between clusters.
        low: lower end of the 95 % bootstrap interval.
        high: its upper end.
    """

    mean: float
    n: int
    not_scored: int
    clusters: int
    se: float
    low: float
    high: float


def cluster_codes(subjects: Sequence[str]) -> NDArray[np.int64]:
    """[E] the number of each example's cluster; an example without a subject is a cluster of its own."""
    keys = [("", str(i)) if not s else (s, "") for i, s in enumerate(subjects)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def aggregate(
    values: Floats,
    subjects: Sequence[str],
    *,
    average: Average = "arithmetic",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Aggregate:
    """The mean over examples with a cluster-robust standard error and an expanded percentile bootstrap interval.

    With clusters c of size n_c and sum s_c, C of them, n in all and m the mean: ``se^2 = C/(C-1) sum_c (s_c - m n_c)^2
    / n^2``, which for clusters of one is the usual ``s^2 / n``; the bootstrap draws whole clusters. A geometric average
    is taken on logarithms and transformed back (its standard error by the delta method).

    Args:
        values: [E], NaN where not scored.
        subjects: [E]; examples that share one are drawn together.
        average: which mean.
        seed: of the bootstrap.
        resamples: number of bootstrap draws.

    Returns:
        The aggregate; with fewer than two clusters `se`, `low` and `high` are NaN, for there is no spread to see.
    """
    scored = ~np.isnan(values)
    n = int(scored.sum())
    if n == 0:
        return Aggregate(np.nan, 0, len(values), 0, np.nan, np.nan, np.nan)
    with np.errstate(divide="ignore"):
        used = np.log(values[scored]) if average == "geometric" else values[scored]
    codes = np.unique(cluster_codes(subjects)[scored], return_inverse=True)[1]
    sums, sizes = np.bincount(codes, weights=used), np.bincount(codes)
    mean, clusters = float(sums.sum() / n), len(sums)
    se = low = high = np.nan
    if clusters > 1 and np.isfinite(mean):
        se = float(np.sqrt(clusters / (clusters - 1) * np.sum((sums - mean * sizes) ** 2)) / n)
        draws = _draws(clusters, seed, resamples)
        low, high = bootstrap_interval((draws @ sums) / (draws @ sizes), clusters=clusters)
    if average == "geometric":
        mean, se, low, high = np.exp(mean), np.exp(mean) * se, np.exp(low), np.exp(high)
    return Aggregate(float(mean), n, len(values) - n, clusters, float(se), float(low), float(high))


@lru_cache(maxsize=8)
def _draws(clusters: int, seed: int, resamples: int) -> NDArray[np.int64]:
    """[resamples, C] how often each cluster is drawn; kept, for many metrics share them."""
    draws = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    draws.setflags(write=False)
    return draws


def bootstrap_interval(draws: Floats, *, clusters: int) -> tuple[float, float]:
    """The 95 % interval of a bootstrap: percentiles, taken further out for few clusters (Hesterberg, arXiv:1411.5279).

    The tails are ``Phi(-sqrt(C / (C - 1)) t)`` with t the 97.5 % quantile of Student's t with C - 1 degrees of freedom:
    the plain percentile interval is too narrow by as much as the normal one is.

    Args:
        draws: the statistic in each draw of clusters; all finite.
        clusters: how many clusters are drawn, C; of several sets drawn apart, the smallest number.

    Returns:
        Its ends; NaN for fewer than two clusters, which have no spread to see.
    """
    if clusters < 2:
        return float("nan"), float("nan")
    tail = stats.norm.cdf(-np.sqrt(clusters / (clusters - 1)) * stats.t.ppf(0.975, clusters - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_sureness(share: float, *, clusters: int, resamples: int) -> float:
    """How sure a share of bootstrap draws makes one of what they show, with few clusters: nearer to one half.

    ``T(Phi^-1(share) / sqrt(C / (C - 1)))`` with T the distribution function of Student's t with C - 1 degrees of
    freedom: the rule of `bootstrap_interval` the other way round, so that 0.975 is reached where that interval ends.
    From fewer than five clusters no 1,000 draws, however one they are, make it 0.975.

    Args:
        share: of draws, 0 to 1; no nearer to either than half a draw.
        clusters: C, as there; a single one tells nothing, which is 0.5.
        resamples: how many draws there are.
    """
    if clusters < 2:
        return 0.5
    half = 0.5 / resamples
    normal = stats.norm.ppf(min(max(share, half), 1 - half))
    return float(stats.t.cdf(normal / np.sqrt(clusters / (clusters - 1)), clusters - 1))
