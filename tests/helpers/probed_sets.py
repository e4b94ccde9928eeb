"""Values at probed mixtures, by hand."""

from collections.abc import Sequence

import numpy as np

from uwc.calibration.frontier import Frontier
from uwc.calibration.probed import Measured, ProbedSet, RetentionCurve


def probed(
    rows: Sequence[Sequence[float]],
    alphas: Sequence[float] | None = None,
    *,
    subjects: Sequence[str] = (),
    name: str = "retain",
) -> ProbedSet:
    """A set whose examples are numbered, at evenly spaced mixtures by default."""
    count = len(rows[0])
    places = np.linspace(0, 1, len(rows)) if alphas is None else np.array(alphas)
    ids = tuple(f"{name} {i}" for i in range(count))
    return ProbedSet(name, "extraction_strength", places, ids, tuple(subjects or [""] * count), np.array(rows))


def frontier_of(retain: ProbedSet | Measured, forget: ProbedSet) -> Frontier:
    """The frontier with one retention measure, the mean by default."""
    measure = Measured.of("retain", [retain]) if isinstance(retain, ProbedSet) else retain
    return Frontier(RetentionCurve((measure,)), forget)
