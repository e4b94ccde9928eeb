"""What calibration holds fixed: measures of what a model still knows, each against the original's own score."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from uwc.calibration.search import Reading, meaningless
from uwc.errors import ConfigError
from uwc.models.target import Target

ROUNDING = 1e-12
"""By so much a share may miss tau: one of exactly tau counts as kept."""


@dataclass(frozen=True)
class Kept:
    """What one measure says of one mixture.

    Attributes:
        score: the measure's own value; an estimate where only a part was scored.
        share: of the original's value that is kept; above 1 for more than that.
        feasible: whether the share is at least tau.
        scored: on how many examples that was decided.
        of: how many there are.
    """

    score: float
    share: float
    feasible: bool
    scored: int = 1
    of: int = 1


class Measure(Protocol):
    """Something that an original model scores well on and a mixture should too."""

    label: str
    higher: bool

    def probe(self, target: Target, alpha: float, *, whole: bool) -> Kept:
        """What the mixture keeps; alpha = 0, the original, is asked first. Raises UserError if that knows nothing."""

    def expected_share(self, alpha: float) -> float:
        """The share of the original's value expected at a mixture; NaN where that cannot be said."""


class NumberMeasure:
    """One number for a model, such as the accuracy on a benchmark; each probe computes it whole.

    Args:
        function: from a model to its score.
        tau: share of the original's score to keep.
        label: what messages call it.
        higher: whether a high score is good; else the share kept is the original's score over the mixture's.
    """

    def __init__(self, function: Callable[[Target], float], *, tau: float, label: str, higher: bool = True) -> None:
        self.function, self.tau, self.label, self.higher = function, tau, label, higher
        self._scores: dict[float, float] = {}

    def probe(self, target: Target, alpha: float, *, whole: bool) -> Kept:
        """See `Measure.probe`."""
        if alpha not in self._scores:
            self._scores[alpha] = float(self.function(target))
        original, score = self._scores[0.0], self._scores[alpha]
        if not 0 < original < np.inf:
            raise meaningless(original, self.label)
        with np.errstate(divide="ignore"):
            share = float(np.divide(score, original) if self.higher else np.divide(original, score))
        return Kept(score, share, share >= self.tau - ROUNDING)

    def expected_share(self, alpha: float) -> float:
        """NaN: a number for a whole model says nothing of other models."""
        return float("nan")


class Retention:
    """All measures together: a mixture is feasible if each keeps tau; the retention is the least share kept.

    With a single measure for which high is good, the retention is that measure's own value.

    Args:
        measures: what is held fixed, cheap ones first: the first that is not kept decides.
        tau: share of the original's value to keep.
    """

    def __init__(self, measures: Sequence[Measure], *, tau: float) -> None:
        if not measures:
            raise ConfigError("calibration needs something to hold fixed; give retain data or a retention task")
        self.measures, self.tau = measures, tau
        self.alone = len(measures) == 1 and measures[0].higher
        self.kept: dict[float, list[Kept]] = {}

    @property
    def threshold(self) -> float:
        """The retention demanded."""
        return self.tau * (self.kept[0.0][0].score if self.alone else 1.0)

    def probe(self, target: Target, alpha: float, *, whole: bool) -> Reading:
        """The reading of a mixture. Raises UserError if the original itself knows nothing."""
        kept: list[Kept] = []
        for measure in self.measures:
            kept.append(measure.probe(target, alpha, whole=whole))
            if not kept[-1].feasible and not whole:
                break
        self.kept[alpha] = kept
        worst = min(kept, key=lambda k: k.share if k.share == k.share else -np.inf)
        of = sum(k.of for k in self.kept[0.0])
        return Reading(
            worst.score if self.alone else worst.share, all(k.feasible for k in kept), sum(k.scored for k in kept), of
        )

    def expected(self, alpha: float) -> float:
        """The retention expected at a mixture; NaN where a measure cannot say."""
        shares = [m.expected_share(alpha) for m in self.measures]
        least = float(np.min(shares))
        return least * self.kept[0.0][0].score if self.alone else least

    def record(self, alpha: float) -> list[dict[str, Any]]:
        """For each measure its value on the original and at a mixture scored whole, and the share kept."""
        return [
            {"measure": m.label, "original": before.score, "score": after.score, "share": after.share, "n": after.of}
            for m, before, after in zip(self.measures, self.kept[0.0], self.kept[alpha], strict=True)
        ]
