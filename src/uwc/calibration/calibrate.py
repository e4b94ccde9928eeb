"""Calibration of an unlearned model: mix it with the original until retention is what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from uwc.calibration.frontier import ProbedSet
from uwc.calibration.search import SearchResult, largest_alpha
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.forward import score_tokens
from uwc.models.mixing import Mixer
from uwc.models.target import Target
from uwc.models.token_scores import Floats


@dataclass(frozen=True)
class Calibration:
    """The mixture found, and every probe made on the way.

    Attributes:
        tau: share of the original's retention kept.
        metric: the metric held fixed.
        search: the search on the retain set.
        alphas: every probed mixture, ascending.
        probed: set -> the metric's value for each example at each of these; "retain" and "forget" at least.
    """

    tau: float
    metric: str
    search: SearchResult
    alphas: tuple[float, ...]
    probed: Mapping[str, ProbedSet]

    @property
    def alpha(self) -> float:
        """The mixture: 0 = original, 1 = unlearned."""
        return self.search.alpha

    def mean(self, name: str, alpha: float) -> float:
        """The metric's mean on a set at a probed mixture."""
        return float(self.probed[name].values[self.alphas.index(alpha)].mean())

    def record(self) -> dict[str, Any]:
        """The calibration as plain data."""
        trace = [{**asdict(p), "forget": self.mean("forget", p.alpha)} for p in self.search.probes]
        searched = {p.alpha for p in self.search.probes}
        trace += [
            {"alpha": a, "retain": self.mean("retain", a), "phase": "curve", "forget": self.mean("forget", a)}
            for a in self.alphas
            if a not in searched
        ]
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
    watched: Mapping[str, Sequence[Example]] | None = None,
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
        watched: further sets to measure at every probe, by name.
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
    sets = {"retain": retain, "forget": forget, **(watched or {})}
    values: dict[float, dict[str, Floats]] = {}

    def measure(alpha: float) -> float:
        mixed = mixer.mix(alpha)
        values[alpha] = {name: entry.function(score_tokens(mixed, examples)) for name, examples in sets.items()}
        return float(values[alpha]["retain"].mean())

    search = largest_alpha(measure, tau=tau, scan=scan, resolution=resolution)
    for alpha in sorted({k / scan for k in range(scan + 1)} - set(values)) if curve else ():
        measure(alpha)
    alphas = tuple(sorted(values))
    probed = {
        name: ProbedSet(
            tuple(e.id for e in examples),
            tuple(e.subject for e in examples),
            np.stack([values[alpha][name] for alpha in alphas]),
        )
        for name, examples in sets.items()
    }
    return Calibration(tau, metric, search, alphas, probed), mixer.mix(search.alpha)


def retention_metrics() -> list[str]:
    """The metrics that calibration can hold fixed."""
    return [e.name for e in metrics if e.facts["needs"] == ("scores",) and e.facts["higher_remembers"]]
