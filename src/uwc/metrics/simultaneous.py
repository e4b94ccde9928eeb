"""Several means against their bounds at once: simultaneous intervals over clusters, and what they decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc.errors import DataError
from uwc.metrics.stats import BLOCK, cluster_keys, clustered_mean, draw_blocks
from uwc.models.token_scores import Floats

Direction = Literal["at_most", "at_least"]
Status = Literal["met", "violated", "undecided"]

FEWEST_CLUSTERS = 5
"""The fewest clusters with which a bound is ever met."""
MOST_NEEDED = 1_000_000
"""The most clusters that are ever said to be needed."""
CHANCE = 0.8
"""The chance with which the needed clusters would decide."""
RESAMPLES, MANY_RESAMPLES, MANY = 10_000, 2000, 1000
"""Bootstrap draws, and those for more than so many clusters."""
KEPT_DRAWS = 1 << 24
"""The most numbers that are kept of all draws of all statements."""


@dataclass(frozen=True)
class Statement:
    """The mean of some values by example against a bound.

    A difference of two models is the mean of paired differences; a ratio of means ``x / y`` against b is the mean of
    ``x - b y`` against 0; a geometric mean is the mean of logarithms against the logarithm of the bound.

    Attributes:
        values: [E], NaN if missing; such examples are left out.
        subjects: [E]; examples that share one are a cluster, and "" is a cluster of its own.
        bound: what the mean is compared with.
        direction: on which side of the bound the mean must be.
        range: the least and the greatest possible value of an example.
        draws: statements of one name share the draws of clusters: those of the same examples in the same order.
    """

    values: Floats
    subjects: Sequence[str]
    bound: float
    direction: Direction
    range: tuple[float, float] = (-np.inf, np.inf)
    draws: str = ""


@dataclass(frozen=True)
class Decision:
    """A mean against its bound.

    Attributes:
        mean: over examples; NaN without any value.
        low, high: its simultaneous interval; NaN where there is none.
        se: the cluster-robust standard error.
        clusters: number of clusters with a value.
        n: number of examples with a value.
        status: met if the whole interval lies within the bound, violated if it lies wholly beyond, else undecided.
        reason: why it is undecided; else "".
        clusters_needed: the number of clusters that would decide with a chance of 80 %; None if it is decided, or no
            number would.
    """

    mean: float
    low: float
    high: float
    se: float
    clusters: int
    n: int
    status: Status
    reason: str = ""
    clusters_needed: int | None = None


@dataclass(frozen=True)
class ClusterChange:
    """The values of two measurements of the same clusters.

    Attributes:
        old_sums, new_sums: [C] sums of the earlier and the later values.
        old_counts, new_counts: [C] their numbers.
        worse: +1 if a higher mean is worse, -1 if a lower one is.
        draws: changes of one name share the draws of clusters: those of the same clusters in the same order.
    """

    old_sums: Floats
    old_counts: Floats
    new_sums: Floats
    new_counts: Floats
    worse: int = 1
    draws: str = ""


@dataclass(frozen=True)
class Change:
    """A change of a mean, positive if it is for the worse.

    Attributes:
        mean: the change; NaN if either measurement has no value.
        low, high: its simultaneous interval; NaN where there is none.
        se: its cluster-robust standard error, paired by cluster.
        clusters: number of clusters with a value in either.
        worse: whether the whole interval is above 0, at least five clusters changed, and none is missing in part.
    """

    mean: float
    low: float
    high: float
    se: float
    clusters: int
    worse: bool


def decide_together(
    statements: Sequence[Statement], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> list[Decision]:
    """Decide about several means at once.

    Args:
        statements: the means and their bounds.
        confidence: the chance that all intervals hold their means.
        seed: of the draws.
        resamples: number of draws; at most 2,000 for more than 1,000 clusters.

    Returns:
        For each statement its decision.

    Raises:
        DataError: a statement has not as many subjects as values.
    """
    samples = _samples(statements)
    found = _limits([s for s in samples if s.has_interval], confidence=confidence, seed=seed, resamples=resamples)
    limits = iter(found)
    return [
        _decided(statement, sample, next(limits) if sample.has_interval else None)
        for statement, sample in zip(statements, samples, strict=True)
    ]


def changes_together(
    changes: Sequence[ClusterChange], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> list[Change]:
    """The changes of several means between two measurements, paired by cluster.

    ``(m_new - m_old) w`` with w the sign of worse; linearised, cluster c contributes
    ``r_c = (s_new_c - m_new n_new_c) / N_new - (s_old_c - m_old n_old_c) / N_old``.

    Args:
        changes: sums and counts by cluster.
        confidence: the chance that all intervals hold their changes.
        seed: of the draws.
        resamples: as for `decide_together`.

    Returns:
        For each its change and whether it is significantly worse.
    """
    samples = [_Sample.of_change(change) for change in changes]
    found = _limits([s for s in samples if s.has_interval], confidence=confidence, seed=seed, resamples=resamples)
    limits = iter(found)
    result = []
    for change, sample in zip(changes, samples, strict=True):
        near = next(limits) if sample.has_interval else None
        low, high = (near.low, near.high) if near else (np.nan, np.nan)
        if sample.se == 0:
            low = high = sample.mean
        moved = (change.old_sums != change.new_sums) | (change.old_counts != change.new_counts)
        worse = low > 0 and sample.clusters >= FEWEST_CLUSTERS and int(moved.sum()) >= FEWEST_CLUSTERS
        result.append(Change(sample.mean, low, high, sample.se, sample.clusters, bool(worse)))
    return result


@dataclass(frozen=True)
class _Sample:
    """Sums and sizes of [C] clusters, 0 for those without a value."""

    sums: Floats
    sizes: Floats
    mean: float
    se: float
    draws: str
    range: tuple[float, float] = (-np.inf, np.inf)

    @classmethod
    def of(cls, sums: Floats, sizes: Floats, draws: str, bounds: tuple[float, float]) -> "_Sample":
        present = sizes > 0
        mean, se = clustered_mean(sums[present], sizes[present]) if present.any() else (np.nan, np.nan)
        return cls(sums, sizes, mean, se, draws, bounds)

    @classmethod
    def of_change(cls, change: ClusterChange) -> "_Sample":
        old, new = np.sum(change.old_counts), np.sum(change.new_counts)
        present = ((change.old_counts > 0) | (change.new_counts > 0)).astype(float)
        if old == 0 or new == 0:
            return cls(present, present, np.nan, np.nan, change.draws)
        before, after = np.sum(change.old_sums) / old, np.sum(change.new_sums) / new
        parts = (change.new_sums - after * change.new_counts) / new
        parts = parts - (change.old_sums - before * change.old_counts) / old
        values = change.worse * (after - before + present.sum() * parts) * present
        return cls.of(values, present, change.draws, (-np.inf, np.inf))

    @property
    def present(self) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.sizes > 0
        return found

    @property
    def clusters(self) -> int:
        return int(self.present.sum())

    @property
    def n(self) -> int:
        return int(self.sizes.sum())

    @property
    def has_interval(self) -> bool:
        """Whether there are two clusters and a finite mean."""
        return not np.isnan(self.se)

    @property
    def few_differ(self) -> bool:
        """Whether most clusters have one mean, and fewer than five another, so that Student's t has no basis."""
        means = self.sums[self.present] / self.sizes[self.present]
        scale = float(np.max(np.abs(means))) or 1.0
        counts = np.unique(np.round(means / scale, 12), return_counts=True)[1]
        same = int(counts.max())
        return same > len(means) / 2 and len(means) - same < FEWEST_CLUSTERS


@dataclass(frozen=True)
class _Limits:
    """An interval, the level of either limit, and how far they are in standard errors (0 if free of a distribution)."""

    low: float
    high: float
    level: float
    below: float = 0.0
    above: float = 0.0


def _samples(statements: Sequence[Statement]) -> list[_Sample]:
    numbers: dict[str, dict[tuple[str, str], int]] = {}
    codes: dict[tuple[str, int], NDArray[np.int64]] = {}
    for s in statements:
        if len(s.values) != len(s.subjects):
            raise DataError(f"{len(s.values)} values for {len(s.subjects)} subjects; give each value a subject")
        if (s.draws, id(s.subjects)) not in codes:
            known = numbers.setdefault(s.draws, {})
            found = [known.setdefault(key, len(known)) for key in cluster_keys(s.subjects)]
            codes[s.draws, id(s.subjects)] = np.array(found, dtype=np.int64)
    samples = []
    for s in statements:
        values = np.asarray(s.values, dtype=np.float64)
        scored, clusters = ~np.isnan(values), len(numbers[s.draws])
        own = codes[s.draws, id(s.subjects)][scored]
        sums = np.bincount(own, weights=values[scored], minlength=clusters).astype(np.float64)
        sizes = np.bincount(own, minlength=clusters).astype(np.float64)
        samples.append(_Sample.of(sums, sizes, s.draws, s.range))
    return samples


def _limits(samples: Sequence[_Sample], *, confidence: float, seed: int, resamples: int) -> list[_Limits]:
    """The simultaneous interval of each sample."""
    free = [s.few_differ or s.se == 0 for s in samples]
    if any(len(s.sums) > MANY for s in samples):
        resamples = min(resamples, MANY_RESAMPLES)
    resamples = max(min(resamples, KEPT_DRAWS // max(1, len(samples))), min(resamples, 1000))
    furthest = np.zeros(resamples)
    studentized: dict[int, Floats] = {}
    for name in dict.fromkeys(s.draws for s in samples):
        chosen = [i for i, s in enumerate(samples) if s.draws == name and not free[i]]
        if not chosen:
            continue
        drawn = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big")
        deviations, ratios = _drawn([samples[i] for i in chosen], seed=drawn, resamples=resamples)
        with np.errstate(invalid="ignore"):
            np.fmax(furthest, np.nanmax(np.abs(deviations) / np.nanstd(deviations, axis=0), axis=1), out=furthest)
        for column, i in enumerate(chosen):
            s = samples[i]
            if s.clusters < len(s.sums):
                kept = s.present
                own = _Sample(s.sums[kept], s.sizes[kept], s.mean, s.se, s.draws)
                studentized[i] = _drawn([own], seed=drawn, resamples=resamples)[1][:, 0]
            else:
                studentized[i] = ratios[:, column]
    level = _level(furthest, sum(free), len(samples), confidence)
    return [
        _distribution_free(s, level) if free[i] else _student(s, studentized[i], level) for i, s in enumerate(samples)
    ]


def _drawn(samples: Sequence[_Sample], *, seed: int, resamples: int) -> tuple[Floats, Floats]:
    """[R, K] deviations of the means in draws of clusters, and these over the standard errors in the draws."""
    clusters, number = len(samples[0].sums), len(samples)
    mean, se = np.array([s.mean for s in samples]), np.array([s.se for s in samples])
    sizes = np.stack([s.sizes for s in samples], axis=1)
    rest = np.stack([s.sums for s in samples], axis=1) - mean * sizes
    columns = np.concatenate([rest, sizes, rest**2, rest * sizes, sizes**2, sizes > 0], axis=1)
    deviations, ratios = np.empty((resamples, number)), np.empty((resamples, number))
    for part, drawn in draw_blocks(clusters, seed=seed, resamples=resamples, width=6 * number):
        moved, n, squares, crossed, sizes2, k = np.split(drawn @ columns, 6, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            d = moved / n
            variance = np.maximum(squares - 2 * d * crossed + d**2 * sizes2, 0) * k / (k - 1) / n**2
            none = (k < 2) | (variance < 1e-20 * se**2)
            deviations[part] = d
            ratios[part] = np.where(none, np.where(np.isnan(d), np.nan, np.sign(d) * np.inf), d / np.sqrt(variance))
    return deviations, np.where(np.isnan(ratios) & ~np.isnan(deviations), 0.0, ratios)


def _level(furthest: Floats, free: int, number: int, confidence: float) -> float:
    """The level of either limit of each interval, such that all hold together with the confidence."""
    ends = np.sort(furthest)
    normal = scipy.stats.norm
    if ends[-1] > 0:
        together = np.arange(1, len(ends) + 1) / len(ends) * (2 * normal.cdf(ends) - 1) ** free
        reached = np.flatnonzero(together >= confidence)
        level = float(normal.sf(ends[reached[0]])) if len(reached) else 0.0
    else:
        level = (1 - confidence) / (2 * max(1, number))
    return float(np.clip(level, (1 - confidence) / (2 * max(1, number)), (1 - confidence) / 2))


def _student(sample: _Sample, ratios: Floats, level: float) -> _Limits:
    """Each limit the farther one of Student's t and the bootstrap-t."""
    t = float(scipy.stats.t.isf(level, sample.clusters - 1))
    below = above = t
    if sample.clusters >= FEWEST_CLUSTERS:
        known = ratios[~np.isnan(ratios)]
        below = max(t, float(np.quantile(known, 1 - level, method="higher")))
        above = max(t, -float(np.quantile(known, level, method="lower")))
    low, high = np.clip([sample.mean - below * sample.se, sample.mean + above * sample.se], *sample.range)
    return _Limits(float(low), float(high), level, below, above)


def _distribution_free(sample: _Sample, level: float) -> _Limits:
    """Gaffke's limits for the mean of bounded values."""
    kept = sample.present
    means, sizes = sample.sums[kept] / sample.sizes[kept], sample.sizes[kept]
    least, most = sample.range
    high = _gaffke(means, sizes, most, level)
    low = -_gaffke(-means, sizes, -least, level)
    return _Limits(low, high, level)


def _gaffke(means: Floats, sizes: Floats, most: float, level: float) -> float:
    """The upper limit for the mean of values of at most `most`; NaN if that is infinite."""
    if not np.isfinite(most):
        return float("nan")
    pairs, counts = np.unique(
        np.stack([np.append(means, most), np.append(sizes, sizes.max()) / sizes.max()]), axis=1, return_counts=True
    )
    values, weights = pairs
    rows = int(np.clip(BLOCK // len(values), 5000, 100_000))
    random = np.random.default_rng(0)
    shares = random.standard_gamma(np.broadcast_to(counts, (rows, len(values)))) * weights
    return float(np.quantile((shares @ values) / shares.sum(axis=1), 1 - level))


def _decided(statement: Statement, sample: _Sample, limits: _Limits | None) -> Decision:
    """What an interval says about the bound."""
    mean, bound = sample.mean, statement.bound
    low, high = (limits.low, limits.high) if limits else (np.nan, np.nan)
    within, beyond = high <= bound, low > bound
    if statement.direction == "at_least":
        within, beyond = low >= bound, high < bound
    status: Status = "undecided"
    reason = ""
    if np.isnan(mean):
        reason = "no value"
    elif np.isinf(mean):
        reason = "the mean is not finite"
        if (mean > 0) == (statement.direction == "at_most"):
            status, reason = "violated", ""
    elif beyond:
        status = "violated"
    elif sample.clusters < FEWEST_CLUSTERS:
        count = "1 cluster" if sample.clusters == 1 else f"{sample.clusters} clusters"
        reason = f"{count}, and at least {FEWEST_CLUSTERS} are needed"
    elif within:
        status = "met"
    elif np.isnan(low) or np.isnan(high):
        reason = "fewer than 5 clusters differ, and the values have no known range"
    else:
        reason = "the interval contains the bound"
    needed = _needed(statement, sample, limits) if limits and status == "undecided" else None
    return Decision(mean, low, high, sample.se, sample.clusters, sample.n, status, reason, needed)


def _needed(statement: Statement, sample: _Sample, limits: _Limits) -> int | None:
    """The smallest number of clusters at which the interval would exclude the bound with a chance of 80 %."""
    gap = abs(sample.mean - statement.bound)
    if gap == 0:
        return None
    upward = sample.mean < statement.bound
    end = sample.range[1] if upward else sample.range[0]
    extra = (limits.above if upward else limits.below) - scipy.stats.t.isf(limits.level, sample.clusters - 1)
    extra = extra if limits.above and np.isfinite(extra) else 0.0
    aim = float(scipy.stats.norm.ppf(CHANCE))

    def enough(clusters: int) -> bool:
        shrunk = np.sqrt(sample.clusters / clusters)
        reach = float(scipy.stats.t.isf(limits.level, clusters - 1)) + extra * shrunk + aim
        if reach * sample.se * shrunk > gap:
            return False
        return bool(limits.above) or abs(end - sample.mean) * (1 - limits.level ** (1 / clusters)) <= gap

    fewest = max(FEWEST_CLUSTERS, sample.clusters + 1)
    return _first(enough, fewest, MOST_NEEDED)


def _first(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first number of a range from which on a condition holds."""
    if low > high or not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
