"""Averages, paired differences and set metrics, with standard errors and bootstrap intervals over clusters."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc.errors import DataError
from uwc.models.token_scores import Floats
from uwc.results import Aggregate, Difference

Average = Literal["arithmetic", "geometric"]
RESAMPLES, SET_RESAMPLES = 2000, 500
"""Bootstrap draws of an average over examples, and of a metric of whole sets."""
BLOCK = 1 << 22
"""The most numbers (of eight bytes) in a block of bootstrap draws."""
KEPT = 1 << 26
"""The most numbers (of a byte) of all draws that are kept for other metrics; more are drawn again for each."""


def cluster_codes(subjects: Sequence[str]) -> NDArray[np.int64]:
    """[E] the number of each example's cluster; an example without a subject is a cluster of its own."""
    keys = cluster_keys(subjects)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def cluster_keys(subjects: Sequence[str]) -> list[tuple[str, str]]:
    """[E] what identifies each example's cluster: its subject, or its place if it has none."""
    return [("", str(i)) if not s else (s, "") for i, s in enumerate(subjects)]


def clustered_mean(sums: Floats, sizes: Floats) -> tuple[float, float]:
    """The mean over examples and its cluster-robust standard error, from sums and sizes by cluster.

    ``m = sum_c s_c / n`` and ``se^2 = C/(C-1) sum_c (s_c - m n_c)^2 / n^2``; the standard error is NaN for fewer than
    two clusters, or if the mean is not finite.
    """
    n, clusters = float(sizes.sum()), len(sums)
    with np.errstate(invalid="ignore"):
        mean = float(sums.sum() / n)
    if clusters < 2 or not np.isfinite(mean):
        return mean, float("nan")
    return mean, float(np.sqrt(clusters / (clusters - 1) * np.sum((sums - mean * sizes) ** 2)) / n)


def aggregate(
    values: Floats,
    subjects: Sequence[str],
    *,
    average: Average = "arithmetic",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Aggregate:
    """The mean over examples with a cluster-robust standard error and an expanded percentile bootstrap interval.

    With C clusters c of size n_c and sum s_c, n examples and mean m: ``se^2 = C/(C-1) sum_c (s_c - m n_c)^2 / n^2``,
    which for clusters of size one is ``s^2 / n``; the bootstrap draws whole clusters. A geometric average is computed
    on logarithms and transformed back (its standard error by the delta method).

    Args:
        values: [E], NaN if not scored.
        subjects: [E]; examples that share one are a cluster.
        average: "arithmetic" or "geometric".
        seed: of the bootstrap.
        resamples: number of bootstrap draws.

    Returns:
        The aggregate; with fewer than two clusters `se`, `low` and `high` are NaN.
    """
    scored = ~np.isnan(values)
    n = int(scored.sum())
    if n == 0:
        return Aggregate(mean=np.nan, n=0, not_scored=len(values))
    with np.errstate(divide="ignore"):
        used = np.log(values[scored]) if average == "geometric" else values[scored]
    codes = np.unique(cluster_codes(subjects)[scored], return_inverse=True)[1]
    sums: Floats = np.bincount(codes, weights=used).astype(np.float64)
    sizes: Floats = np.bincount(codes).astype(np.float64)
    (mean, se), clusters = clustered_mean(sums, sizes), len(sums)
    low = high = np.nan
    if not np.isnan(se):
        means = np.empty(resamples)
        for part, drawn in draw_blocks(clusters, seed=seed, resamples=resamples):
            means[part] = (drawn @ sums) / (drawn @ sizes)
        low, high = bootstrap_interval(means, clusters=clusters)
    if average == "geometric":
        mean, se, low, high = np.exp(mean), np.exp(mean) * se, np.exp(low), np.exp(high)
    return Aggregate(
        mean=float(mean),
        n=n,
        not_scored=len(values) - n,
        clusters=clusters,
        se=float(se),
        low=float(low),
        high=float(high),
    )


def mean_draws(
    values: Floats,
    subjects: Sequence[str],
    *,
    average: Average = "arithmetic",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Floats, Floats, int]:
    """The means of R rows of values for the same examples, and the same in bootstrap draws of whole clusters.

    Args:
        values: [R, E], NaN if not scored.
        subjects: [E]; examples that share one are a cluster.
        average: "geometric" takes means of logarithms, which are not transformed back.
        seed: of the bootstrap.
        resamples: number of bootstrap draws, D.

    Returns:
        [R] the means, [D, R] those of the draws, and the number of clusters; of fewer than two there is no draw. A mean
        of no value is NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.log(values) if average == "geometric" else values
        codes = cluster_codes(subjects)
        scored = ~np.isnan(used)
        sums: Floats = np.stack([np.bincount(codes, weights=row) for row in np.where(scored, used, 0.0)])
        sizes: Floats = np.stack([np.bincount(codes, weights=row) for row in scored])
        means: Floats = sums.sum(axis=1) / sizes.sum(axis=1)
        clusters = sums.shape[1]
        draws: Floats = np.empty((resamples if clusters > 1 else 0, len(values)))
        if clusters > 1:
            for part, drawn in draw_blocks(clusters, seed=seed, resamples=resamples):
                draws[part] = (drawn @ sums.T) / (drawn @ sizes.T)
    return means, draws, clusters


def draw_blocks(
    clusters: int, *, seed: int, resamples: int, width: int | None = None
) -> Iterator[tuple[slice, Floats]]:
    """The bootstrap draws of whole clusters, in blocks of bounded memory.

    Up to `KEPT` numbers, which is 2,000 draws of 33,554 clusters, the draws are kept. More would grow with the clusters
    and are drawn again by each call, so that memory is that of a block.

    Args:
        clusters: the number of clusters, C.
        seed: of the draws, which are the same for the same seed and clusters.
        resamples: the number of draws.
        width: how many numbers the caller makes of each draw, if more than C.

    Yields:
        The indices of some draws, and for each of them, [R, C], how often each cluster is drawn.
    """
    rows = max(1, BLOCK // max(clusters, width or 0))
    if clusters * resamples > KEPT:
        yield from _redrawn(clusters, seed, resamples, rows)
        return
    counts = (_few if clusters * resamples <= BLOCK else _many)(clusters, seed, resamples)
    for start in range(0, resamples, rows):
        yield slice(start, start + rows), counts[start : start + rows].astype(np.float64)


def _redrawn(clusters: int, seed: int, resamples: int, rows: int) -> Iterator[tuple[slice, Floats]]:
    """The draws of many clusters, each by C uniform indices, which is several times faster than C binomial numbers."""
    random = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        part = slice(start, min(start + rows, resamples))
        drawn = np.empty((part.stop - start, clusters))
        for row in drawn:
            row[:] = np.bincount(random.integers(clusters, size=clusters), minlength=clusters)
        yield part, drawn


def _counts(clusters: int, seed: int, resamples: int) -> NDArray[np.uint8] | NDArray[np.int64]:
    """[resamples, C] the number of times each cluster is drawn, in bytes where they are large enough."""
    random, shares, rows = np.random.default_rng(seed), np.full(clusters, 1 / clusters), max(1, BLOCK // clusters)
    counts: NDArray[np.uint8] | NDArray[np.int64] = np.empty((resamples, clusters), np.uint8)
    for start in range(0, resamples, rows):
        drawn = random.multinomial(clusters, shares, size=min(rows, resamples - start))
        if counts.dtype == np.uint8 and drawn.max() > np.iinfo(np.uint8).max:
            counts = counts.astype(np.int64)
        counts[start : start + rows] = drawn
    counts.setflags(write=False)
    return counts


_few = lru_cache(maxsize=8)(_counts)
_kept: dict[tuple[int, int, int], NDArray[np.uint8] | NDArray[np.int64]] = {}


def _many(clusters: int, seed: int, resamples: int) -> NDArray[np.uint8] | NDArray[np.int64]:
    """The same; the last ones are kept, and dropped before others are drawn."""
    if (key := (clusters, seed, resamples)) not in _kept:
        _kept.clear()
        _kept[key] = _counts(*key)
    return _kept[key]


def paired_difference(
    first: Floats,
    second: Floats,
    subjects: Sequence[str],
    *,
    average: Average = "arithmetic",
    seed: int = 0,
) -> Difference:
    """The paired difference of two models; the bootstrap draws whole clusters of pairs.

    The average of ``second - first``; for geometric averages the ratio ``second / first`` of the averages.

    Args:
        first: [E] values of the first model, NaN if not scored.
        second: [E] values of the second on the same examples in the same order.
        subjects: [E]; examples that share one are a cluster.
        average: "geometric" compares logarithms and returns a ratio.
        seed: of the bootstrap.

    Returns:
        The difference over the examples with a value for both models. Its p-value is two-sided, for no difference, by
        Student's t with C - 1 degrees of freedom; NaN for fewer than two clusters.

    Raises:
        DataError: the two do not have the same number of examples.
    """
    if len(first) != len(second) or len(first) != len(subjects):
        raise DataError(
            f"paired comparison of {len(first)} with {len(second)} values for {len(subjects)} examples; "
            "score both models on the same examples"
        )
    if average == "geometric":
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.log(second) - np.log(first)
    else:
        gap = second - first
    on_line = aggregate(gap, subjects, seed=seed)
    p_value = float("nan")
    if on_line.clusters > 1 and on_line.se > 0:
        p_value = float(2 * scipy.stats.t.sf(abs(on_line.mean / on_line.se), on_line.clusters - 1))
    elif on_line.clusters > 1 and on_line.se == 0:
        p_value = float(on_line.mean == 0)
    if average == "geometric":
        on_line = aggregate(np.exp(gap), subjects, average="geometric", seed=seed)
    kind: Literal["difference", "ratio"] = "ratio" if average == "geometric" else "difference"
    return Difference(**on_line.model_dump(), kind=kind, p_value=p_value)


def confidence_higher(first: Aggregate, second: Aggregate) -> float:
    """The confidence that the first of two averages over independent examples is higher, by their standard errors.

    By Student's t with C - 1 degrees of freedom, C the smaller number of clusters; NaN for fewer than two clusters.
    """
    gap, se = first.mean - second.mean, float(np.hypot(first.se, second.se))
    if se > 0:
        return float(scipy.stats.t.cdf(gap / se, min(first.clusters, second.clusters) - 1))
    return float(np.heaviside(gap, 0.5)) if se == 0 else float("nan")


def aggregate_sets(
    function: Callable[..., float],
    values: Sequence[Floats],
    subjects: Sequence[Sequence[str]],
    *,
    groups: Sequence[str],
    interval: bool = True,
    seed: int = 0,
    resamples: int = SET_RESAMPLES,
) -> Aggregate:
    """A metric of whole sets with a bootstrap over clusters, in which arguments of one group are resampled together.

    Args:
        function: from the arrays of values to one number.
        values: the arguments, each [E_i], NaN if not scored; such examples are left out of that argument.
        subjects: for each argument [E_i]; examples that share one are a cluster.
        groups: for each argument the set of its examples; arguments of one set have the same examples.
        interval: whether to compute a standard error and a 95 % interval (see `bootstrap_interval`).
        seed: of the bootstrap.
        resamples: number of draws.

    Returns:
        The aggregate, with n the number of distinct examples and not_scored the number of missing values. Its mean is
        NaN if an argument has no value.
    """
    sizes = {group: len(v) for group, v in zip(groups, values, strict=True)}
    clusters = {group: _Clusters.of(cluster_codes(s)) for group, s in zip(groups, subjects, strict=True)}
    missing = int(sum(np.isnan(v).sum() for v in values))
    number = sum(len(c) for c in clusters.values())

    def measure(chosen: dict[str, NDArray[np.int64]] | None) -> float:
        drawn = [v if chosen is None else v[chosen[g]] for v, g in zip(values, groups, strict=True)]
        kept = [v[~np.isnan(v)] for v in drawn]
        return function(*kept) if all(len(v) for v in kept) else float("nan")

    mean = measure(None)
    se = low = high = float("nan")
    fewest = min(len(c) for c in clusters.values())
    if interval and np.isfinite(mean) and fewest > 1:
        random = np.random.default_rng(seed)
        draws = [measure({g: c.drawn(random) for g, c in clusters.items()}) for _ in range(resamples)]
        finite = np.array([d for d in draws if np.isfinite(d)])
        if len(finite) > 1:
            se = float(finite.std(ddof=1))
            low, high = bootstrap_interval(finite, clusters=fewest)
    return Aggregate(mean=mean, n=sum(sizes.values()), not_scored=missing, clusters=number, se=se, low=low, high=high)


def _weighted(means: Floats) -> Floats:
    ratio: Floats = np.exp(-means[0] / means[1])
    return ratio


def _bits(means: Floats) -> Floats:
    ratio: Floats = -means[0] / (means[1] * np.log(2))
    return ratio


def _mean(means: Floats) -> Floats:
    mean: Floats = means.mean(axis=0)
    return mean


COMBINATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "mean_of_tasks": _mean,
    "weighted_perplexity": _weighted,
    "bits_per_byte": _bits,
}
"""How the means [I, ...] of several inputs give a task's score: the mean of a group's tasks; and of the sums of
log-likelihoods l and of words or bytes w, ``exp(-l / w)`` and ``-l / (w log 2)``."""


def aggregate_combined(average: str, rows: Sequence[Floats], names: Sequence[str], *, seed: int) -> Aggregate:
    """The aggregate of one of `COMBINATIONS`, from [E] values by question of each input; inputs of one name have the
    same questions, which are drawn together."""
    return aggregate_sets(
        lambda *values: float(COMBINATIONS[average](np.array([v.mean() for v in values]))),
        rows,
        [[""] * len(row) for row in rows],
        groups=names,
        seed=seed,
    )


@dataclass(frozen=True)
class _Clusters:
    """The examples by cluster: [E] their indices, and for each of C clusters its first place there and its size."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, codes: NDArray[np.int64]) -> "_Clusters":
        """From [E] numbers of clusters."""
        sizes = np.bincount(codes)
        return cls(np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes, sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def drawn(self, random: np.random.Generator) -> NDArray[np.int64]:
        """Indices of the examples of C clusters, drawn with replacement."""
        chosen = random.integers(0, len(self), len(self))
        sizes = self.sizes[chosen]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        indices: NDArray[np.int64] = self.order[np.repeat(self.starts[chosen], sizes) + within]
        return indices


def bootstrap_interval(draws: Floats, *, clusters: int) -> tuple[float, float]:
    """The expanded percentile interval (95 %) of a bootstrap (Hesterberg, arXiv:1411.5279).

    The tails are ``Phi(-sqrt(C / (C - 1)) t)`` with t the 97.5 % quantile of Student's t with C - 1 degrees of freedom,
    which corrects the plain percentile interval for few clusters.

    Args:
        draws: the statistic in each draw of clusters; all finite.
        clusters: the number of clusters, C; the smallest one for several independent sets.

    Returns:
        Its ends; NaN for fewer than two clusters.
    """
    if clusters < 2:
        return float("nan"), float("nan")
    tail = scipy.stats.norm.cdf(-np.sqrt(clusters / (clusters - 1)) * scipy.stats.t.ppf(0.975, clusters - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_confidence(share: float, *, clusters: int, resamples: int) -> float:
    """The confidence that follows from a share of bootstrap draws, corrected for few clusters.

    ``T(Phi^-1(share) / sqrt(C / (C - 1)))`` with T the distribution function of Student's t with C - 1 degrees of
    freedom: the inverse of the rule of `bootstrap_interval`, so that it is 0.975 at an end of that interval. With fewer
    than five clusters 1,000 draws never reach 0.975.

    Args:
        share: of draws, in 0..1; clipped to half a draw from either end.
        clusters: the number of clusters, C; with one the result is 0.5.
        resamples: the number of draws.
    """
    if clusters < 2:
        return 0.5
    half = 0.5 / resamples
    normal = scipy.stats.norm.ppf(min(max(share, half), 1 - half))
    return float(scipy.stats.t.cdf(normal / np.sqrt(clusters / (clusters - 1)), clusters - 1))
