"""The search for the largest feasible alpha: sequential tests, predictions of unseen values, and probes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import Entry
from uwc.results import Probe

ERROR = 1e-3
"""The probability of a wrong early decision in each direction, for one probe."""
_LARGEST_BET = 0.75


class MeanTest:
    """Sequential test of ``sum_i d_i >= 0`` over E examples that are seen one after another.

    Two bounds are used. One is certain: the least and the greatest sum of the examples not yet seen. The other is a
    betting martingale for examples in random order (arXiv:2010.09686, sampling without replacement): with values scaled
    to 0..1 and m_t the mean of the examples not yet seen if the whole mean were exactly at the bar, the capital
    ``prod_t (1 + b_t (y_t - m_t))`` exceeds ``1 / error`` with probability at most `error` if the bar is not reached,
    at any time; likewise with the opposite sign. The bet b_t depends on earlier examples only.

    Args:
        low: [E] the least possible value of each d_i.
        high: [E] the greatest.
        error: the probability of a wrong decision in each direction.
    """

    def __init__(self, low: Floats, high: Floats, *, error: float = ERROR) -> None:
        self._low, self._high = low, high
        self._rest_low, self._rest_high = float(low.sum()), float(high.sum())
        self._least, self._scale = float(low.min()), float(high.max() - low.min())
        self._size, self._error = len(low), error
        self._tolerance = 1e-9 * (1.0 + self._scale) * self._size
        self._seen, self._total = 0, 0.0
        self._sum, self._squares = 0.5, 0.25  # of the scaled values; the prior is one value of 0.5
        self._log_reached = self._log_missed = 0.0

    def see(self, which: NDArray[np.int64], values: Floats, *, random: bool = True) -> bool | None:
        """Add examples. Returns True or False if it is decided whether the bar is reached, else None.

        Args:
            which: the new examples, by their indices in `low`; in the order drawn, if that is random.
            values: their d.
            random: whether they are a random choice of those not yet seen; the first that are not end the betting.
        """
        self._total += float(values.sum())
        self._rest_low -= float(self._low[which].sum())
        self._rest_high -= float(self._high[which].sum())
        if self._total + self._rest_low > self._tolerance:
            return True
        if self._total + self._rest_high < -self._tolerance:
            return False
        if random and self._scale:
            bar = -self._least / self._scale
            for value in values:
                self._bet((float(value) - self._least) / self._scale, bar)
            if max(self._log_reached, self._log_missed) >= -np.log(self._error):
                return self._log_reached > self._log_missed
        return None

    def _bet(self, scaled: float, bar: float) -> None:
        count = self._seen + 1
        left = self._size - self._seen
        expected = (self._size * bar - (self._sum - 0.5)) / left
        if 0.0 < expected < 1.0:
            mean = self._sum / count
            variance = max(self._squares / count, 1e-8)
            edge = mean - expected
            bet = edge / (variance + edge**2)
            self._log_reached += float(np.log1p(min(max(bet, 0.0), _LARGEST_BET / expected) * (scaled - expected)))
            self._log_missed += float(
                np.log1p(min(max(-bet, 0.0), _LARGEST_BET / (1.0 - expected)) * (expected - scaled))
            )
        before = self._sum / count
        self._seen, self._sum = count, self._sum + scaled
        self._squares += (scaled - before) * (scaled - self._sum / (count + 1))


def looks(size: int, *, first: int = 16, growth: float = 1.25) -> list[int]:
    """The numbers of examples after which the test is evaluated: 16, then a quarter more each time, and the last."""
    counts = [min(first, size)]
    while counts[-1] < size:
        grown = int(counts[-1] * growth)
        counts.append(size if grown * growth > 1.2 * size else grown)
    return counts


POWER = 1.5
"""Numbers are interpolated linearly in alpha to this power, since they change slowly near alpha = 0."""
DRAWS = 8
"""Number of random matchings over which a prediction is averaged."""
_COLUMNS = ("logprob", "mean_logprob", "var_logprob", "margin")
_STRIDE = 37


class Expectation:
    """The expected values of examples at any mixture, given those at others.

    For a metric of token scores, the numbers of each token are interpolated between two mixtures, including its margin;
    a token is greedy if its margin is positive. For other metrics the values themselves are interpolated.

    Args:
        entry: the metric.
        values: [E] its values on the original.
        tokens: the original's token scores with margins, if the metric reads only these.

    Attributes:
        by_token: whether tokens are interpolated.
    """

    def __init__(self, entry: Entry[Any], values: Floats, tokens: TokenScores | None) -> None:
        self._entry, self._tokens, self.by_token = entry, tokens, tokens is not None
        self._owner = np.arange(len(values)) if tokens is None else tokens.rows
        self._known: dict[float, Floats] = {}
        self.add(0.0, np.arange(len(values)), values, tokens)

    def add(self, alpha: float, which: NDArray[np.int64], values: Floats, tokens: TokenScores | None) -> None:
        """Add the values of the examples `which`, ascending, at a mixture."""
        found = values[None] if tokens is None else np.stack([getattr(tokens, name) for name in _COLUMNS])
        known = self._known.setdefault(alpha, np.full((len(found), len(self._owner)), np.nan))
        known[:, np.isin(self._owner, which)] = found

    def values(self, alpha: float) -> Floats:
        """[E] the expected values at a mixture; for examples scored there their own."""
        path = Path(self._known, alpha)
        draws = [self._values(path.numbers(draw)) for draw in range(DRAWS if path.models.size else 1)]
        values: Floats = np.mean(draws, axis=0)
        return values

    def _values(self, numbers: Floats) -> Floats:
        values: Floats
        if self._tokens is None:
            values = numbers[0]
            return values
        columns = dict(zip(_COLUMNS, numbers.astype(np.float32), strict=True))
        values = self._entry.function(replace(self._tokens, **columns, greedy=columns["margin"] > 0))
        return values


class Path:
    """Numbers at a mixture, each interpolated linearly between the two nearest mixtures at which it is known.

    These are one on either side, or else the two nearest below, on the scale ``alpha ** POWER``. A number that is known
    at 0 only changes like a random one of those that are known at most mixtures.

    Args:
        known: mixture -> [C, N] numbers, NaN if unknown; all are known at 0.
        alpha: the mixture.

    Attributes:
        models: indices of the numbers that others change like; empty if there are none.
    """

    def __init__(self, known: dict[float, Floats], alpha: float) -> None:
        alphas = np.array(sorted(known))
        stacked = np.stack([known[a] for a in alphas])
        seen = ~np.isnan(stacked[:, 0])
        low, before, high = (np.full(stacked.shape[2], -1) for _ in range(3))
        for k in np.flatnonzero(alphas <= alpha):
            before[seen[k]] = low[seen[k]]
            low[seen[k]] = k
        for k in np.flatnonzero(alphas > alpha)[::-1]:
            high[seen[k]] = k
        second = np.where(high >= 0, high, before)
        alone = second < 0
        second[alone] = low[alone]
        places, scale = np.arange(stacked.shape[2]), alphas**POWER
        near, far = stacked[low, :, places].T, stacked[second, :, places].T
        share = (alpha**POWER - scale[low]) / np.where(alone, 1.0, scale[second] - scale[low])
        self._numbers = near + share * (far - near)
        self._moved = self._numbers - stacked[0]
        self._alone = np.flatnonzero(alone)
        count = np.where(alone, 0, seen.sum(axis=0))
        self.models = np.flatnonzero(count == count.max()) if alone.any() and count.any() else np.zeros(0, np.int64)

    def numbers(self, draw: int) -> Floats:
        """[C, N] the numbers, for one random matching."""
        numbers: Floats = self._numbers.copy()
        if self.models.size:
            numbers[:, self._alone] += self._moved[:, np.resize(np.roll(self.models, _STRIDE * draw), len(self._alone))]
        return numbers


Phase = Literal["end", "scan", "refine"]

PASSES = 8.0
"""The most scoring passes, besides the original's own, of a search on a monotone curve."""


@dataclass(frozen=True)
class Reading:
    """The retention ratio at one mixture.

    Attributes:
        retention: the retention ratio; an estimate if only a part of the examples was scored.
        feasible: whether it is at least tau.
        scored: the number of examples on which that was decided.
        of: the number of all examples.
    """

    retention: float
    feasible: bool
    scored: int = 1
    of: int = 1


class Gauge(Protocol):
    """A function from a mixture to its retention ratio."""

    def __call__(self, alpha: float, *, whole: bool) -> Reading:
        """The reading at alpha: on as few examples as decide it, or on all examples if `whole`."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        alpha: the largest feasible probed mixture; scored on all examples.
        probes: all probes, in order.
        upper: the least infeasible mixture above alpha; 1 if there is none.
        unchecked: grid points above `upper`, by half a step at least, that were not probed, since they would have
            exceeded the passes.
    """

    alpha: float
    probes: tuple[Probe, ...]
    upper: float = 1.0
    unchecked: tuple[float, ...] = ()

    @property
    def monotone(self) -> bool:
        """Whether all mixtures probed below alpha are feasible."""
        return all(p.feasible for p in self.probes if p.alpha < self.alpha)

    @property
    def passes(self) -> float:
        """Number of scoring passes, including the original's; a probe that was decided early is a fraction of one."""
        return sum(map(passes_of, self.probes))


def passes_of(probe: Probe) -> float:
    """The work of a probe, as a fraction of a pass over all examples."""
    return probe.scored / probe.of


def search(
    gauge: Gauge,
    *,
    tau: float,
    scan: int = 8,
    resolution: float = 1 / 128,
    passes: float = PASSES,
    whole_grid: bool = False,
    expected: Callable[[float], float] | None = None,
) -> SearchResult:
    """The largest feasible alpha in 0..1 (arXiv:2406.09179).

    The ends are probed first. If alpha = 1 is not feasible, the bracket above the largest feasible alpha is narrowed:
    probes are just above the crossing predicted by `expected`, or else by interpolation. Bisection is a safeguard:
    after j probes a bracket is at most twice as wide as after j bisections, or so narrow that the remaining passes
    suffice for bisection. Since the curve need not be monotone, the grid above is then probed from the top; a feasible
    point there becomes the new lower end. The result was scored on all examples and is feasible. A bracket of twice the
    resolution (its middle is alpha to +- the resolution), and the rest of the grid, are not probed further if that
    would exceed `passes`; a curve that was found to be not monotone may take more.

    Args:
        gauge: the reading at a mixture; that at alpha = 0 must be feasible.
        tau: the least retention ratio, for interpolation.
        scan: the grid has the points k / scan.
        resolution: the widest bracket that is not narrowed further.
        passes: the most scoring passes on a monotone curve, without that at alpha = 0.
        whole_grid: probe the whole grid first, and everything on all examples.
        expected: the expected retention ratio at a mixture, given the readings so far; NaN if unknown.

    Raises:
        ValueError: scan or resolution is out of range.
    """
    if scan < 1 or not 0 < resolution < 1:
        raise ValueError(f"scan = {scan} must be at least 1, resolution = {resolution} in (0, 1)")
    return _Search(gauge, tau, scan, resolution, passes, whole_grid, expected or (lambda _: math.nan)).run()


class _Search:
    def __init__(
        self,
        gauge: Gauge,
        tau: float,
        scan: int,
        resolution: float,
        passes: float,
        whole_grid: bool,
        expected: Callable[[float], float],
    ) -> None:
        self.gauge, self.tau, self.resolution, self.budget = gauge, tau, resolution, passes
        self.grid, self.half_step = [k / scan for k in range(1, scan)], 0.5 / scan
        self.whole_grid, self.expected = whole_grid, expected
        self.probes: dict[float, Probe] = {}
        self.gap = (0.0, 0.0)
        self.widest = 0.0

    def run(self) -> SearchResult:
        self.probe(0.0, "end", whole=True)
        self.probe(1.0, "end")
        for alpha in self.grid if self.whole_grid else ():
            self.probe(alpha, "scan")
        while True:
            low = max(a for a, p in self.probes.items() if p.feasible)
            high = min((a for a in self.probes if a > low), default=1.0)
            unchecked = [a for a in reversed(self.grid) if a > high + self.half_step and a not in self.probes]
            if self.is_open(low, high):
                self.refine(low, high)
            elif unchecked and self.left(low) >= 1:
                self.probe(unchecked[0], "scan")
            elif self.probe(low, self.probes[low].phase, whole=True).feasible:
                return SearchResult(low, tuple(self.probes.values()), high, tuple(sorted(unchecked)))

    def probe(self, alpha: float, phase: Phase, *, whole: bool = False) -> Probe:
        """Probe a mixture, or complete its probe on all examples; cached."""
        known = self.probes.get(alpha)
        if known is None or (whole and known.scored < known.of):
            reading = self.gauge(alpha, whole=whole or self.whole_grid)
            self.probes[alpha] = Probe(
                alpha=alpha,
                retention=reading.retention,
                phase=phase,
                feasible=reading.feasible,
                scored=reading.scored,
                of=reading.of,
            )
        return self.probes[alpha]

    def left(self, low: float) -> float:
        """The remaining passes, less the one that `low` may need on all examples."""
        spent = sum(map(passes_of, self.probes.values())) - 1.0
        return self.budget - spent - (1.0 - passes_of(self.probes[low])) + 1e-9

    def is_open(self, low: float, high: float) -> bool:
        width = high - low
        return width > self.resolution * (1 + 1e-9) and (width > 2 * self.resolution or self.left(low) >= 1)

    def refine(self, low: float, high: float) -> None:
        """Probe inside the bracket, at the expected crossing; but closer to the middle if bisection would be faster,
        unless the remaining passes suffice for bisection."""
        if (low, high) != self.gap:
            self.widest = self.resolution * 2.0 ** math.ceil(math.log2((high - low) / self.resolution))
        foreseen = not math.isnan(self.expected(high))
        step = self.resolution if foreseen else self.resolution / 8
        first, last = math.floor(low / step + 1e-9) + 1, math.ceil(high / step - 1e-9) - 1
        place = self.just_above(first, last) if foreseen else round(self.crossing(low, high) / step)
        spared = 2 * self.resolution * 2.0 ** math.floor(self.left(low) - 1) if foreseen else 0.0
        widest = max(self.widest, spared)
        place = max(place, math.ceil((high - widest) / step - 1e-9))
        place = min(place, math.floor((low + widest) / step + 1e-9))
        alpha = step * min(max(place, first), last)
        self.gap = (alpha, high) if self.probe(alpha, "refine").feasible else (low, alpha)
        self.widest /= 2

    def just_above(self, first: int, last: int) -> int:
        """The first of some multiples of the resolution that is expected to be infeasible, or else the last.

        The bracket is closed from above, since infeasible mixtures are decided on fewer examples than feasible ones.
        """
        while first < last:
            middle = (first + last) // 2
            enough = self.expected(middle * self.resolution) >= self.tau
            first, last = (middle + 1, last) if enough else (first, middle)
        return first

    def crossing(self, low: float, high: float) -> float:
        """The next probe in the bracket: the expected crossing, shifted a little towards the farther end.

        If the prediction is good, two such probes, one on either side, close the bracket; near an end the probe is
        placed such that it closes the bracket at once. The loss of retention is modelled as a power of alpha between
        the ends; if the lower end has no loss, the power is from the two points above it.
        """
        above = min((a for a in self.probes if a > high), default=None)
        lost = {a: 1.0 - p.retention for a, p in self.probes.items()}
        allowed = 1.0 - self.tau
        inside = lost[low] > 0 and low > 0
        left, right = (low, high) if inside else (high, above)
        middle = (low + high) / 2
        if right is None or not (allowed > 0 and lost[right] > lost[left] > 0):
            return middle
        power = math.log(lost[right] / lost[left]) / math.log(right / left)
        crossing = left * (allowed / lost[left]) ** (1 / power)
        near = 0.85 * self.resolution
        if crossing > high - near:
            return high - self.resolution
        if inside and crossing < low + near:
            return low + self.resolution
        margin = (0.05 if inside else 0.25) * (high - low)
        crossing = min(max(crossing, low + margin), high - margin)
        return float(crossing + 0.4 * self.resolution * (1 if crossing < middle else -1))
