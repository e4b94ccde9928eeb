"""Several means against their bounds at once: simultaneous intervals over clusters, and what they decide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Literal

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc.errors import DataError
from uwc.metrics.stats import cluster_keys, clustered_mean, draw_blocks
from uwc.models.token_scores import Floats

Direction = Literal["at_most", "at_least"]
Status = Literal["met", "violated", "undecided"]

FEWEST_CLUSTERS = 5
"""The fewest clusters with which a bound is ever met."""
MOST_NEEDED = 1_000_000
"""The most clusters that are ever said to be needed."""
CHANCE = 0.8
"""The chance with which the needed clusters would decide."""
SHARES = 1 << 20
"""About the most numbers that are drawn for a limit that is free of a distribution."""
RESAMPLES, MANY_RESAMPLES, MANY = 10_000, 2000, 1000
"""Bootstrap draws, and those for more than so many clusters."""
DRAWN = 10**8
"""About the most clusters that are drawn in all draws, but for at least 1,000 of these."""
KEPT_DRAWS = 1 << 24
"""About the most numbers that are kept of all draws of all statements."""


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
        range: the least and the greatest possible value of an example; without one a mean whose clusters are nearly
            all alike has no interval.
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
        range: the least and the greatest possible value of an example.
    """

    old_sums: Floats
    old_counts: Floats
    new_sums: Floats
    new_counts: Floats
    worse: int = 1
    draws: str = ""
    range: tuple[float, float] = (-np.inf, np.inf)


@dataclass(frozen=True)
class Change:
    """A change of a mean, positive if it is for the worse.

    Attributes:
        mean: the change; NaN if either measurement has no value.
        low, high: its simultaneous interval; NaN where there is none.
        se: its cluster-robust standard error, paired by cluster.
        clusters: number of clusters with a value in either.
        worse: whether the whole interval is above 0, and at least five clusters changed.
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
    """Decide whether several means keep their bounds, by intervals that hold all means at once.

    With C clusters of sums s_c and sizes n_c: the mean m and its cluster-robust standard error se of `aggregate`.

    1. The level of one limit, a (max-t: Westfall and Young 1993; simultaneous bands of Montiel Olea and
       Plagborg-Moller 2019). Whole clusters are drawn with replacement, for all statements of one name from the
       clusters of any of them, for different names independently. ``a = Phi(-q)`` with q the quantile (at `confidence`)
       of the maximum over statements of ``|m* - m| / sd(m*)``. A statement of step 3 counts as independent of the
       others. a is kept between Bonferroni's ``(1 - confidence) / 2K`` and ``(1 - confidence) / 2``.
    2. The upper limit is the largest of ``m + t se`` with t the quantile of Student's t with C - 1 degrees of freedom;
       the bootstrap-t's ``m - t*_a se`` with ``t*_a`` the quantile (at a) of ``(m* - m) / se*`` (Hall 1988; infinite
       where se* = 0; from five clusters on); and, with a range [A, B], the same ``t se`` on the logit scale of the
       range, ``logit((m - A) / (B - A)) + t se (1 / (m - A) + 1 / (B - m))``. With a range and at most 1,000 clusters
       it is at most that of step 3. The lower limit mirrors it.
    3. Where more than half of the clusters have one mean and fewer than five another, se says nothing about the values
       that were not seen. The upper limit is then Gaffke's, the quantile (at 1 - a) of
       ``sum_c D_c x_c + D_0 B`` with x_c the means of clusters and D uniform on the simplex of C + 1 shares (Gaffke
       2005; arXiv:2106.03163); it is Clopper and Pearson's for clusters of zeros and ones, and ``1 - a^(1 / C)`` for
       zeros. For clusters of different sizes the shares are weighted by ``n_c / max n``, with the weight 1 for B: the
       same limit for the mean of ``n_c (x_c - b) / max n``, which is 0 at the true mean b, and whose greatest
       possible value is B - b.

    By simulation (tests/unit/metrics/test_simultaneous.py) a mean that is at its bound, one of five, is met with a
    chance of at most 1 - `confidence` for 5 to 40 clusters. All five intervals hold their means at once with the
    confidence for normal values, shares of ten questions, and zeros and ones. They do less often where few clusters are
    strongly skewed (91 % instead of 95 % for five clusters of Beta(0.5, 4.5)): a sample that lacks the tail of its
    population cannot show it, and only limits as wide as those of step 3 would hold there, of which that for ten zeros
    is 0.4. For skewed values without a range no limit can hold (Bahadur and Savage 1956): of five lognormal means,
    with a standard deviation of 1 of the logarithm, all are held in 84 to 90 %, and a single one that is at its bound
    is met with a chance of 6 to 9 % instead of 5 %. Compare such values by their logarithms.

    Args:
        statements: the means and their bounds.
        confidence: the chance that all intervals hold their means.
        seed: of the draws.
        resamples: number of draws; at most 2,000 for more than 1,000 clusters.

    Returns:
        For each statement its decision. With fewer than five clusters none is met, and with fewer than two there is
        no interval.

    Raises:
        DataError: a statement has not as many subjects as values.
    """
    samples = _samples(statements)
    limits = _limits(samples, confidence=confidence, seed=seed, resamples=resamples)
    return [_decided(*each) for each in zip(statements, samples, limits, strict=True)]


def changes_together(
    changes: Sequence[ClusterChange], *, confidence: float = 0.95, seed: int = 0, resamples: int = RESAMPLES
) -> list[Change]:
    """The changes of several means between two measurements, paired by cluster, with simultaneous intervals.

    ``w (m_new - m_old)`` with w the sign of worse. Linearised, cluster c contributes
    ``r_c = w ((s_new_c - m_new n_new_c) / N_new - (s_old_c - m_old n_old_c) / N_old)``: the change is the mean over
    clusters of ``change + C r_c``, whose interval is that of `decide_together`, step 2.

    Args:
        changes: sums and counts by cluster.
        confidence: the chance that all intervals hold their changes.
        seed: of the draws.
        resamples: as for `decide_together`.

    Returns:
        For each its change, and whether it is significantly worse.

    Raises:
        DataError: sums and counts of one change are not of the same number of clusters.
    """
    samples = [_Sample.of_change(change) for change in changes]
    found = _limits(samples, confidence=confidence, seed=seed, resamples=resamples)
    result = []
    for change, sample, limits in zip(changes, samples, found, strict=True):
        low, high = (limits.low, limits.high) if limits else (np.nan, np.nan)
        moved = (change.old_sums != change.new_sums) | (change.old_counts != change.new_counts)
        if sample.clusters and not moved.any():
            low = high = 0.0
        worse = low > 0 and int(moved.sum()) >= FEWEST_CLUSTERS
        result.append(Change(sample.mean, low, high, sample.se, sample.clusters, worse))
    return result


@dataclass(frozen=True)
class _Sample:
    """A mean of [C] clusters among the clusters of its name.

    Attributes:
        members: [C] their numbers among these.
        among: how many clusters the name has.
        sums, sizes: [C].
        ends: least and greatest possible value.
        free: whether its limits may be those of `_gaffke`.
    """

    draws: str
    members: NDArray[np.intp]
    among: int
    sums: Floats
    sizes: Floats
    mean: float
    se: float
    ends: tuple[float, float] = (-np.inf, np.inf)
    free: bool = False

    @classmethod
    def of(cls, draws: str, sums: Floats, sizes: Floats, ends: tuple[float, float] | None = None) -> "_Sample":
        """From sums and sizes of all clusters of the name, 0 for those without a value.

        Values beyond the range widen it; without one the limits are never those of `_gaffke`.
        """
        members = np.flatnonzero(sizes)
        among, sums, sizes = len(sizes), sums[members], sizes[members]
        if not len(members):
            return cls(draws, members, among, sums, sizes, np.nan, np.nan)
        mean, se = clustered_mean(sums, sizes)
        means = sums / sizes
        if ends is None or np.isnan(se):
            return cls(draws, members, among, sums, sizes, mean, se)
        least, most = min(ends[0], float(means.min())), max(ends[1], float(means.max()))
        return cls(draws, members, among, sums, sizes, mean, se, (least, most), _few_differ(means))

    @classmethod
    def of_change(cls, change: ClusterChange) -> "_Sample":
        parts = (change.old_sums, change.old_counts, change.new_sums, change.new_counts)
        if len({len(part) for part in parts}) > 1:
            raise DataError(
                f"a change of {', '.join(str(len(part)) for part in parts)} sums and counts; "
                "give those of the same clusters in the same order"
            )
        old, new = float(np.sum(change.old_counts)), float(np.sum(change.new_counts))
        if old == 0 or new == 0:
            return cls.of(change.draws, np.zeros(0), np.zeros(0))
        present = ((change.old_counts > 0) | (change.new_counts > 0)).astype(np.float64)
        before, after = np.sum(change.old_sums) / old, np.sum(change.new_sums) / new
        rest = (change.new_sums - after * change.new_counts) / new
        rest = rest - (change.old_sums - before * change.old_counts) / old
        values = change.worse * (after - before + present.sum() * rest) * present
        span = change.range[1] - change.range[0]
        return cls.of(change.draws, values, present, (-span, span) if np.isfinite(span) else None)

    @property
    def clusters(self) -> int:
        return len(self.members)

    @property
    def drawn(self) -> bool:
        """Whether it needs draws."""
        return self.se > 0 and not self.free

    def columns(self) -> Floats:
        """[C, 6] what `_drawn` sums over drawn clusters."""
        rest, n = self.sums - self.mean * self.sizes, self.sizes
        return np.stack([rest, n, rest**2, rest * n, n**2, np.ones(len(n))], axis=1)


def _few_differ(means: Floats) -> bool:
    """Whether more than half of the clusters have one mean, and fewer than five another."""
    scale = float(np.max(np.abs(means))) or 1.0
    same = int(np.unique(np.round(means / scale, 12), return_counts=True)[1].max())
    return 2 * same > len(means) and len(means) - same < FEWEST_CLUSTERS


@dataclass(frozen=True)
class _Limits:
    """An interval, the level of either limit, and whether it is free of a distribution."""

    low: float
    high: float
    level: float
    free: bool


def _samples(statements: Sequence[Statement]) -> list[_Sample]:
    """The sums by cluster of each statement, with the clusters of one name numbered together."""
    numbers: dict[str, dict[tuple[str, str], int]] = {}
    codes: dict[tuple[str, int], NDArray[np.int64]] = {}  # statements often share their list of subjects
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
        samples.append(_Sample.of(s.draws, sums, sizes, s.range))
    return samples


def _limits(samples: Sequence[_Sample], *, confidence: float, seed: int, resamples: int) -> list[_Limits | None]:
    """The simultaneous interval of each sample; None for one without a standard error."""
    if (most := max((s.among for s in samples), default=0)) > MANY:
        resamples = min(resamples, MANY_RESAMPLES, max(MANY, DRAWN // most))
    number = sum(not np.isnan(s.se) for s in samples)
    resamples = max(min(resamples, KEPT_DRAWS // max(1, number)), min(resamples, MANY))
    furthest = np.zeros(resamples)
    ratios: dict[int, Floats] = {}
    for name in dict.fromkeys(s.draws for s in samples if s.drawn):
        alike: dict[bytes, list[int]] = {}  # statements with the same clusters
        for i, s in enumerate(samples):
            if s.drawn and s.draws == name:
                alike.setdefault(s.members.tobytes(), []).append(i)
        of_name = int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "big")
        _draw(samples, list(alike.values()), of_name, furthest, ratios)
    level = _level(furthest, number - sum(s.drawn for s in samples), number, confidence)
    return [None if np.isnan(s.se) else _interval(s, ratios.get(i), level) for i, s in enumerate(samples)]


def _draw(
    samples: Sequence[_Sample], alike: list[list[int]], seed: int, furthest: Floats, ratios: dict[int, Floats]
) -> None:
    """Draw the clusters of one name: raise the largest deviation of each draw, and add each sample's ratios."""
    resamples = len(furthest)
    deviations = {i: np.empty(resamples) for group in alike for i in group}
    among = samples[alike[0][0]].among
    columns = [np.concatenate([samples[i].columns() for i in group], axis=1) for group in alike]

    def draw(groups: Sequence[int], clusters: int) -> None:
        width = max(columns[g].shape[1] for g in groups)
        for part, drawn in draw_blocks(clusters, seed=seed, resamples=resamples, width=width):
            for g in groups:
                members = samples[alike[g][0]].members
                own = drawn if len(members) == clusters else drawn[:, members]
                moved, studentized = _drawn(own @ columns[g])
                for column, i in enumerate(alike[g]):
                    if clusters == among:
                        deviations[i][part] = moved[:, column]
                    if len(members) == clusters >= FEWEST_CLUSTERS:
                        ratios.setdefault(i, np.empty(resamples))[part] = studentized[:, column]

    draw(range(len(alike)), among)
    for g, group in enumerate(alike):
        if FEWEST_CLUSTERS <= (clusters := samples[group[0]].clusters) < among:
            draw([g], clusters)  # always as many clusters as it has, so that its own distribution is not diluted
    for moved in deviations.values():
        np.fmax(furthest, np.abs(moved) / np.nanstd(moved), out=furthest)


def _drawn(summed: Floats) -> tuple[Floats, Floats]:
    """[R, K] deviations of the means in draws of clusters, and these over the standard errors in the draws.

    NaN in a draw without any cluster, and infinite ratios in one without a standard error.
    """
    moved, n, squares, crossed, sizes2, clusters = (summed[:, first::6] for first in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = moved / n
        rest = squares - 2 * deviation * crossed + deviation**2 * sizes2
        rest[rest < 1e-12 * squares] = 0
        return deviation, deviation / np.sqrt(rest * clusters / (clusters - 1)) * n


def _level(furthest: Floats, others: int, number: int, confidence: float) -> float:
    """The level of either limit, such that all intervals hold together with the confidence.

    The chance that all do is ``P(max |z| <= q) (1 - 2 Phi(-q))^others``.
    """
    level, least = 0.0, (1 - confidence) / (2 * max(1, number))
    if others < number:
        ends = np.sort(furthest)
        together = np.arange(1, len(ends) + 1) / len(ends) * (1 - 2 * scipy.special.ndtr(-ends)) ** others
        reached = np.flatnonzero(together >= confidence)
        level = float(scipy.special.ndtr(-ends[reached[0]])) if len(reached) else 0.0
    return min(max(level, least), (1 - confidence) / 2)


def _interval(sample: _Sample, ratios: Floats | None, level: float) -> _Limits:
    """The interval of one mean, with the ratios of its draws."""
    means, (least, most) = sample.sums / sample.sizes, sample.ends
    if sample.free:
        high, low = _gaffke(means, sample.sizes, most, level), -_gaffke(-means, sample.sizes, -least, level)
        return _Limits(low, high, level, True)
    if sample.se == 0:
        return _Limits(sample.mean, sample.mean, level, True)
    below = above = 0.0
    if ratios is not None:
        known = ratios[~np.isnan(ratios)]
        below = float(np.quantile(known, 1 - level, method="higher"))
        above = -float(np.quantile(known, level, method="lower"))
    high = _upper(sample, 1, above, level)
    return _Limits(-_upper(sample, -1, below, level), high, level, False)


def _upper(sample: _Sample, sign: int, reach: float, level: float) -> float:
    """The upper limit of ``sign`` times a mean, given that of the bootstrap-t in standard errors."""
    mean, se, (least, most) = sign * sample.mean, sample.se, sorted(sign * end for end in sample.ends)
    step = _student_quantile(level, sample.clusters) * se
    high = mean + max(step, reach * se)
    if np.isfinite(least):
        below, above = mean - least, most - mean
        with np.errstate(over="ignore", divide="ignore"):
            odds = np.exp(step / below + step / above)
            grown = below * odds if above == np.inf else below * (below + above) / (below + above / odds)
        high = max(high, least + grown)
    if not np.isfinite(most):
        return float(high)
    means = sign * sample.sums / sample.sizes
    smallest = float(means.min())
    if sample.clusters <= MANY and high > smallest + (most - smallest) * (1 - level ** (1 / sample.clusters)):
        high = min(high, _gaffke(means, sample.sizes, most, level))
    return float(min(high, most))


def _gaffke(means: Floats, sizes: Floats, most: float, level: float) -> float:
    """The upper limit for the mean of values of at most `most`; NaN if that is infinite."""
    if not np.isfinite(most):
        return float("nan")
    values, weights = np.append(means, most), np.append(sizes, sizes.max()) / sizes.max()
    counts, equal = np.ones(len(values), dtype=np.int64), bool(np.ptp(weights) == 0)
    alike, of_alike = np.unique(values, return_counts=True)
    if len(alike) == 1:
        return float(most)
    if equal and len(alike) == 2:
        share = float(scipy.special.betaincinv(of_alike[1], of_alike[0], 1 - level))
        return float(alike[0] + share * (alike[1] - alike[0]))
    if len(means) > MANY:
        (values, weights), counts = np.unique(np.stack([values, weights]), axis=1, return_counts=True)
    shares = _shares(tuple(counts.tolist()))
    totals = shares @ (weights * values)
    return float(np.quantile(totals if equal else totals / (shares @ weights), 1 - level, method="higher"))


@lru_cache(maxsize=4)
def _shares(counts: tuple[int, ...]) -> Floats:
    """[R, V] uniform draws of shares that sum to one, each the sum of as many shares as its count."""
    rows = int(np.clip(SHARES // len(counts), 4000, 10_000))
    drawn: Floats = np.random.default_rng(0).standard_gamma(counts, size=(rows, len(counts)))
    drawn /= drawn.sum(axis=1, keepdims=True)
    drawn.setflags(write=False)
    return drawn


def _student_quantile(level: float, clusters: int) -> float:
    """The upper quantile of Student's t with C - 1 degrees of freedom."""
    return -float(scipy.special.stdtrit(clusters - 1, level))


def _decided(statement: Statement, sample: _Sample, limits: _Limits | None) -> Decision:
    """What an interval says about the bound."""
    mean, bound = sample.mean, statement.bound
    low, high = (limits.low, limits.high) if limits else (np.nan, np.nan)
    within, beyond = high <= bound, low > bound
    if statement.direction == "at_least":
        within, beyond = low >= bound, high < bound
    status: Status = "undecided"
    reason = ""
    if not sample.clusters:
        reason = "no value"
    elif mean == (np.inf if statement.direction == "at_most" else -np.inf):
        status = "violated"
    elif not np.isfinite(mean):
        reason = "the mean is not finite"
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
    return Decision(mean, low, high, sample.se, sample.clusters, int(sample.sizes.sum()), status, reason, needed)


def _needed(statement: Statement, sample: _Sample, limits: _Limits) -> int | None:
    """The smallest number of clusters at which the interval would exclude the bound with a chance of 80 %.

    ``|m - b| >= (t_C'(a) + x sqrt(C / C') + z_0.8) se sqrt(C / C')`` with x by how many standard errors the
    present limit exceeds Student's; for limits that are free of a distribution also
    ``|m - b| >= |B - m| (1 - a^(1 / C'))``.
    """
    mean, level, clusters = sample.mean, limits.level, sample.clusters
    gap, upward = abs(mean - statement.bound), mean < statement.bound
    if gap == 0 or (limits.free and not np.all(np.isfinite(sample.ends))):
        return None
    extra = 0.0
    if not limits.free:
        reach = (limits.high - mean if upward else mean - limits.low) / sample.se
        extra = reach - _student_quantile(level, clusters) if np.isfinite(reach) else 0.0
    rest = abs((sample.ends[1] if upward else sample.ends[0]) - mean) if limits.free else 0.0

    def enough(number: int) -> bool:
        shrunk = np.sqrt(clusters / number)
        reach = _student_quantile(level, number) + extra * shrunk + scipy.special.ndtri(CHANCE)
        return bool(reach * sample.se * shrunk <= gap and rest * (1 - level ** (1 / number)) <= gap)

    return _first(enough, max(FEWEST_CLUSTERS, clusters + 1), MOST_NEEDED)


def _first(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The first number of a range from which on a condition holds."""
    if low > high or not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
