"""The search for the largest alpha that keeps enough retention, on plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from uwc.errors import UserError

Phase = Literal["end", "scan", "bisect", "curve"]


@dataclass(frozen=True)
class Probe:
    """One measurement: the retention at one mixture, and why it was taken."""

    alpha: float
    retain: float
    phase: Phase


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        alpha: the largest probed mixture whose retention reaches the threshold.
        threshold: the retention demanded: tau times that at alpha = 0.
        probes: every measurement, in the order made.
    """

    alpha: float
    threshold: float
    probes: tuple[Probe, ...]

    @property
    def monotone(self) -> bool:
        """Whether every mixture probed below alpha reaches the threshold too."""
        return all(p.retain >= self.threshold for p in self.probes if p.alpha < self.alpha)

    @property
    def retain(self) -> float:
        """The retention measured at alpha."""
        return next(p.retain for p in self.probes if p.alpha == self.alpha)


def largest_alpha(
    measure: Callable[[float], float], *, tau: float, scan: int = 8, resolution: float = 1 / 128
) -> SearchResult:
    """The largest alpha in 0..1 with ``measure(alpha) >= tau * measure(0)`` (arXiv:2406.09179).

    Both ends are measured first. If alpha = 1 does not qualify, a coarse grid is measured, since the curve need not be
    monotone, and the bracket above its highest feasible point is bisected. Nothing is returned that was not measured
    and found feasible; each alpha is measured once.

    Args:
        measure: alpha -> retention, deterministic; NaN counts as not feasible.
        tau: share of the original's retention to keep, in (0, 1].
        scan: the grid has the points k / scan.
        resolution: the bisection stops when its bracket is no wider.

    Raises:
        ValueError: tau, scan or resolution is out of range.
        UserError: the original's retention is 0 or NaN, so that a share of it means nothing.
    """
    if not 0 < tau <= 1 or scan < 1 or not 0 < resolution < 1:
        raise ValueError(
            f"tau = {tau} must be in (0, 1], scan = {scan} at least 1, resolution = {resolution} in (0, 1)"
        )
    probes: list[Probe] = []

    def probe(alpha: float, phase: Phase) -> float:
        probes.append(Probe(alpha, float(measure(alpha)), phase))
        return probes[-1].retain

    original = probe(0.0, "end")
    if not original > 0:
        raise UserError(
            f"calibration is meaningless: the original model itself scores {original:.3g} on the retain data; "
            "give retain data that it knows, or another retention metric"
        )
    threshold = tau * original
    if probe(1.0, "end") >= threshold:
        return SearchResult(1.0, threshold, tuple(probes))
    feasible, infeasible = 0.0, 1.0
    for k in range(scan - 1, 0, -1):
        if probe(k / scan, "scan") >= threshold and feasible == 0.0:
            feasible, infeasible = k / scan, (k + 1) / scan
    if feasible == 0.0:
        infeasible = 1 / scan
    while infeasible - feasible > resolution:
        middle = (feasible + infeasible) / 2
        if probe(middle, "bisect") >= threshold:
            feasible = middle
        else:
            infeasible = middle
    return SearchResult(feasible, threshold, tuple(probes))
