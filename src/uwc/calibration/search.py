"""The search for the largest alpha that keeps enough retention, on plain numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from uwc.errors import UserError

Phase = Literal["end", "scan", "refine"]

PASSES = 8.0
"""Scoring passes, besides the original's own, that a search on a monotone curve may take."""


def meaningless(score: float, on: str, *, needed: float | None = None) -> UserError:
    """The refusal to keep a share of nothing: the original itself scores near 0 on what should be held fixed."""
    least = "" if needed is None else f", and at least {needed:g} is needed"
    return UserError(
        f"calibration is meaningless: the original model itself scores {score:.3g} on {on}{least}; give data that it "
        "knows, the prompt that it was trained with, or another retention measure"
    )


@dataclass(frozen=True)
class Reading:
    """What was found at one mixture.

    Attributes:
        retain: the retention; an estimate where only a part of the examples was scored.
        feasible: whether it reaches the threshold.
        scored: on how many examples that was decided.
        of: how many there are.
    """

    retain: float
    feasible: bool
    scored: int = 1
    of: int = 1


class Gauge(Protocol):
    """Reads the retention at a mixture."""

    def __call__(self, alpha: float, *, whole: bool) -> Reading:
        """The reading at alpha: decided as early as it can be, or on all examples if `whole`."""


@dataclass(frozen=True)
class Probe:
    """One mixture that was looked at: what was found, on how many examples, and why it was taken."""

    alpha: float
    retain: float
    phase: Phase
    feasible: bool = True
    scored: int = 1
    of: int = 1

    @property
    def passes(self) -> float:
        """The work, as a share of one pass over all examples."""
        return self.scored / self.of


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        alpha: the largest probed mixture whose retention reaches the threshold; scored on all examples.
        threshold: the retention demanded: tau times that at alpha = 0.
        probes: every probe, in the order made.
        upper: the least infeasible mixture above alpha; 1 if there is none.
        unchecked: grid points above `upper`, by half a step at least, that were not probed, for they would have cost
            too many passes.
    """

    alpha: float
    threshold: float
    probes: tuple[Probe, ...]
    upper: float = 1.0
    unchecked: tuple[float, ...] = ()

    @property
    def monotone(self) -> bool:
        """Whether every mixture probed below alpha reaches the threshold too."""
        return all(p.feasible for p in self.probes if p.alpha < self.alpha)

    @property
    def retain(self) -> float:
        """The retention measured at alpha."""
        return next(p.retain for p in self.probes if p.alpha == self.alpha)

    @property
    def passes(self) -> float:
        """Scoring passes made, the original's among them; a probe that was decided early is a part of one."""
        return sum(p.passes for p in self.probes)


def largest_alpha(
    measure: Callable[[float], float],
    *,
    tau: float,
    scan: int = 8,
    resolution: float = 1 / 128,
    passes: float = PASSES,
    whole_grid: bool = False,
) -> SearchResult:
    """The largest alpha in 0..1 with ``measure(alpha) >= tau * measure(0)``; see `search`, with a pass for each probe.

    Args:
        measure: alpha -> retention, deterministic; NaN counts as not feasible.
        tau: share of the original's retention to keep, in (0, 1].
        scan, resolution, passes, whole_grid: as `search` takes them.

    Raises:
        ValueError: tau, scan or resolution is out of range.
        UserError: the original's retention is 0 or NaN, so that a share of it means nothing.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau = {tau} must be in (0, 1]")
    original = float(measure(0.0))

    def gauge(alpha: float, *, whole: bool) -> Reading:
        retain = original if alpha == 0 else float(measure(alpha))
        return Reading(retain, retain >= tau * original)

    return search(
        gauge, threshold=tau * original, scan=scan, resolution=resolution, passes=passes, whole_grid=whole_grid
    )


def search(
    gauge: Gauge,
    *,
    threshold: float,
    scan: int = 8,
    resolution: float = 1 / 128,
    passes: float = PASSES,
    whole_grid: bool = False,
    expected: Callable[[float], float] | None = None,
) -> SearchResult:
    """The largest alpha in 0..1 that the gauge calls feasible (arXiv:2406.09179).

    The ends are probed first. If alpha = 1 is not feasible, the gap above the largest feasible alpha is narrowed:
    probes are taken just above where the gauge expects the crossing, or else where interpolation does. That is kept in
    step with bisection: after j probes in a gap it is at most twice as wide as bisection would have left it, or narrow
    enough that the passes left suffice for bisection. Since the curve need not be monotone, the grid above is then
    probed from the top, and a feasible point found there takes the search there. The alpha returned was scored on all
    examples and found feasible. A gap of twice the resolution (its middle is alpha to +- the resolution) is left as it
    is if closing it would take more than `passes`, and so is the rest of the grid; a curve that was seen to be not
    monotone may cost more.

    Args:
        gauge: the reading at a mixture; that at alpha = 0 must be feasible.
        threshold: the retention demanded, for interpolation.
        scan: the grid has the points k / scan.
        resolution: the widest gap that is not narrowed further.
        passes: the most scoring passes on a monotone curve, that at alpha = 0 not counted.
        whole_grid: probe the whole grid first, and everything on all examples.
        expected: the retention expected at a mixture, from what the gauge has seen so far; NaN where it cannot say.

    Raises:
        ValueError: scan or resolution is out of range.
        UserError: the original's retention is 0 or NaN, so that a share of it means nothing.
    """
    if scan < 1 or not 0 < resolution < 1:
        raise ValueError(f"scan = {scan} must be at least 1, resolution = {resolution} in (0, 1)")
    return _Search(gauge, threshold, scan, resolution, passes, whole_grid, expected or (lambda _: math.nan)).run()


class _Search:
    def __init__(
        self, gauge: Gauge, threshold: float, scan: int, resolution: float, passes: float, whole_grid: bool,
        expected: Callable[[float], float],
    ) -> None:  # fmt: skip
        self.gauge, self.threshold, self.resolution, self.budget = gauge, threshold, resolution, passes
        self.grid, self.half_step = [k / scan for k in range(1, scan)], 0.5 / scan
        self.whole_grid, self.expected = whole_grid, expected
        self.probes: dict[float, Probe] = {}
        self.gap = (0.0, 0.0)
        self.widest = 0.0

    def run(self) -> SearchResult:
        original = self.probe(0.0, "end", whole=True)
        if not original.retain > 0:
            raise meaningless(original.retain, "the retain data")
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
                return SearchResult(low, self.threshold, tuple(self.probes.values()), high, tuple(sorted(unchecked)))

    def probe(self, alpha: float, phase: Phase, *, whole: bool = False) -> Probe:
        """Look at a mixture, or look again on all examples; each is looked at once where that was enough."""
        known = self.probes.get(alpha)
        if known is None or (whole and known.scored < known.of):
            reading = self.gauge(alpha, whole=whole or self.whole_grid)
            self.probes[alpha] = Probe(alpha, reading.retain, phase, reading.feasible, reading.scored, reading.of)
        return self.probes[alpha]

    def left(self, low: float) -> float:
        """The passes that are left of the budget, when `low` has yet to be scored on all examples."""
        spent = sum(p.passes for p in self.probes.values()) - 1.0
        return self.budget - spent - (1.0 - self.probes[low].passes) + 1e-9

    def is_open(self, low: float, high: float) -> bool:
        width = high - low
        return width > self.resolution * (1 + 1e-9) and (width > 2 * self.resolution or self.left(low) >= 1)

    def refine(self, low: float, high: float) -> None:
        """Probe between, where the curve is expected to cross, but not so far out that bisection would win, unless
        the budget leaves time for bisection after that."""
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
        """The first of some multiples of the resolution at which too little is expected to be kept, or else the last.

        That too little is kept is soon certain; that enough is, near the crossing, takes all examples. So the gap is
        closed from above.
        """
        while first < last:
            middle = (first + last) // 2
            enough = self.expected(middle * self.resolution) >= self.threshold
            first, last = (middle + 1, last) if enough else (first, middle)
        return first

    def crossing(self, low: float, high: float) -> float:
        """Where to probe in the gap: the expected crossing, moved a little towards the gap's farther end.

        If the crossing was well guessed, two such probes, one on either side, close the gap; near one end the probe is
        taken where it closes the gap at once. What retention has lost is taken for a power of alpha between the gap's
        ends; where the lower end has lost nothing, the power is taken from the two points above it.
        """
        above = min((a for a in self.probes if a > high), default=None)
        lost = {a: self.probes[0.0].retain - p.retain for a, p in self.probes.items()}
        allowed = self.probes[0.0].retain - self.threshold
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
