"""Calibration of an unlearned model: mix it with the original until retention is what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uwc.calibration.search import Phase, SearchResult, largest_alpha
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.forward import score_tokens
from uwc.models.mixing import Mixer
from uwc.models.target import Target


@dataclass(frozen=True)
class Calibration:
    """The mixture found, and every probe made on the way.

    Attributes:
        tau: share of the original's retention kept.
        metric: the metric held fixed.
        search: the search on the retain set.
        forget: alpha -> the metric's mean on the forget set, for every probe.
        extra: further probes made for the curve: (alpha, retention).
    """

    tau: float
    metric: str
    search: SearchResult
    forget: Mapping[float, float]
    extra: tuple[tuple[float, float], ...] = ()

    @property
    def alpha(self) -> float:
        """The mixture: 0 = original, 1 = unlearned."""
        return self.search.alpha

    def record(self) -> dict[str, Any]:
        """The calibration as plain data."""
        trace = [{**asdict(p), "forget": self.forget[p.alpha]} for p in self.search.probes]
        phase: Phase = "curve"
        trace += [{"alpha": a, "retain": r, "phase": phase, "forget": self.forget[a]} for a, r in self.extra]
        return {
            "alpha": self.alpha,
            "tau": self.tau,
            "metric": self.metric,
            "original": self.search.probes[0].retain,
            "threshold": self.search.threshold,
            "monotone": self.search.monotone,
            "trace": trace,
        }


def calibrate(
    original: Target,
    unlearned: Target,
    *,
    retain: Sequence[Example],
    forget: Sequence[Example],
    tau: float = 0.95,
    metric: str = "extraction_strength",
    scan: int = 8,
    resolution: float = 1 / 128,
    curve: bool = False,
) -> tuple[Calibration, Target]:
    """Find the largest alpha at which theta(alpha) keeps `tau` of the original's retention (arXiv:2406.09179).

    ``theta(alpha) = (1 - alpha) * original + alpha * unlearned``. No file is read: the unlearned model's weights are
    overwritten in place at each probe.

    Args:
        original: the model before unlearning.
        unlearned: the model after it; becomes the calibrated model.
        retain: questions on which retention is measured.
        forget: questions that should be forgotten; measured at every probe for the record.
        tau: share of the original's mean score on `retain` to keep.
        metric: a metric of token scores for which high means 'remembers'.
        scan: points of the coarse grid.
        resolution: how finely alpha is found.
        curve: also measure the grid points that the search did not need.

    Returns:
        The calibration, and the calibrated model (`unlearned` with the mixed weights).

    Raises:
        ConfigError: the metric does not fit.
        ModelError: the two models differ in architecture or vocabulary.
        UserError: the original scores 0 on the retain set.
    """
    entry = metrics.get(metric)
    if entry.facts["needs"] != ("scores",) or not entry.facts["higher_remembers"]:
        raise ConfigError(f"calibration cannot hold {metric!r} fixed; choose one of {', '.join(retention_metrics())}")
    mixer = Mixer(original, unlearned)
    on_forget: dict[float, float] = {}

    def mean_of(target: Target, examples: Sequence[Example]) -> float:
        return float(np.mean(entry.function(score_tokens(target, examples)))) if examples else float("nan")

    def measure(alpha: float) -> float:
        mixed = mixer.mix(alpha)
        on_forget[alpha] = mean_of(mixed, forget)
        return mean_of(mixed, retain)

    search = largest_alpha(measure, tau=tau, scan=scan, resolution=resolution)
    missing = sorted({k / scan for k in range(scan + 1)} - set(on_forget)) if curve else []
    extra = tuple((alpha, measure(alpha)) for alpha in missing)
    return Calibration(tau, metric, search, on_forget, extra), mixer.mix(search.alpha)


def retention_metrics() -> list[str]:
    """The metrics that calibration can hold fixed."""
    return [e.name for e in metrics if e.facts["needs"] == ("scores",) and e.facts["higher_remembers"]]
