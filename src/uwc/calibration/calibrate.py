"""Calibration of an unlearned model: mix it with the original until retention is what was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from uwc import progress
from uwc.calibration.example_measure import ExampleMeasure, geometric_mean, measured
from uwc.calibration.frontier import ProbedSet
from uwc.calibration.retention import Measure, Retention
from uwc.calibration.search import PASSES, Reading, SearchResult, search
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.mixing import Mixer, Mixing
from uwc.models.target import Target
from uwc.models.token_scores import Floats

KNOWN_SAMPLE = 64
"""So many of the questions that should be forgotten are put to the original, to see that it knows them."""
UNKNOWN = 0.1
"""The original's mean score on the forget data, on metrics from 0 to 1, below which there is little to forget."""


@dataclass(frozen=True)
class Calibration:
    """The mixture found, and every probe made on the way.

    Attributes:
        tau: share of the original's retention kept.
        metric: the metric that the sets are measured with.
        search: the search on the retain set.
        alphas: the mixtures at which every set was scored on all examples, ascending.
        probed: set -> the metric's value for each example at each of these; "forget", and "retain" where it is what
            was held fixed.
        original: set -> the same at alpha = 0, where not every set need be scored on all examples.
        kept: for each retention measure its value on the original and at alpha, and the share kept.
    """

    tau: float
    metric: str
    search: SearchResult
    alphas: tuple[float, ...]
    probed: Mapping[str, ProbedSet]
    original: Mapping[str, ProbedSet] = field(default_factory=dict)
    kept: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def alpha(self) -> float:
        """The mixture: 0 = original, 1 = unlearned."""
        return self.search.alpha

    def mean(self, name: str, alpha: float) -> float:
        """The metric's mean on a set at a mixture at which it was scored on all examples."""
        values = self.probed[name].values[self.alphas.index(alpha)]
        return geometric_mean(values) if metrics.get(self.metric).facts["average"] == "geometric" else values.mean()

    def record(self) -> dict[str, Any]:
        """The calibration as plain data."""
        forget = {a: float(self.mean("forget", a)) for a in self.alphas} if "forget" in self.probed else {}
        return {
            "alpha": self.alpha,
            "upper": self.search.upper,
            "tau": self.tau,
            "metric": self.metric,
            "original": self.search.probes[0].retain,
            "threshold": self.search.threshold,
            "monotone": self.search.monotone,
            "passes": self.search.passes,
            "unchecked": list(self.search.unchecked),
            "kept": [dict(k) for k in self.kept],
            "trace": [{**asdict(p), "forget": forget.get(p.alpha)} for p in self.search.probes],
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
        forget: questions that should be forgotten; measured for the record.
        watched: further sets to measure, by name.
        tau: share of the original's mean score on `retain` to keep.
        metric: a metric of single examples, see `example_metrics`.
        scan: points of the coarse grid.
        resolution: how finely alpha is found.
        curve: score every set on all examples at each probe, and probe the whole grid: what the tau curve needs.
            Without, a probe ends as soon as it is decided, and the other sets are scored at alpha only, and on the
            original 64 of the questions that should be forgotten.

    Returns:
        The calibration, and the calibrated model (`unlearned` with the mixed weights).

    Raises:
        ConfigError: the metric does not fit.
        ModelError: the two models differ in architecture or vocabulary.
        UserError: the original scores near 0 on the retain set.
    """
    held = ExampleMeasure(retain, metric=metric, tau=tau, early=not curve)
    return calibrate_mixing(
        Mixer(original, unlearned), [held], sets={"forget": forget, **(watched or {})}, tau=tau, metric=metric,
        scan=scan, resolution=resolution, curve=curve,
    )  # fmt: skip


def calibrate_mixing(
    mixing: Mixing,
    measures: Sequence[Measure],
    *,
    sets: Mapping[str, Sequence[Example]],
    tau: float = 0.95,
    metric: str = "extraction_strength",
    scan: int = 8,
    resolution: float = 1 / 128,
    passes: float = PASSES,
    curve: bool = False,
    max_new_tokens: int = 64,
) -> tuple[Calibration, Target]:
    """The same for any way of mixing and any retention measures.

    Args:
        mixing: gives the model at any alpha.
        measures: what is held fixed; all of them keep tau.
        sets: what else is measured, with `metric`: "forget", and others by name.
        tau, metric, scan, resolution, curve: as `calibrate` takes them.
        passes: the most scoring passes, as `search` takes it.
        max_new_tokens: the most tokens of a generated answer, for metrics that read them.

    Returns:
        The calibration, and the calibrated model.

    Raises:
        UserError: a measure, the metric or the models do not fit, or the original itself knows nothing.
    """
    if not 0 < tau <= 1:
        raise ConfigError(f"tau = {tau} must be above 0 and at most 1")
    return _Calibrating(mixing, Retention(measures, tau=tau), sets, metric, curve, max_new_tokens).run(
        scan=scan, resolution=resolution, passes=passes
    )


class _Calibrating:
    def __init__(
        self, mixing: Mixing, retention: Retention, sets: Mapping[str, Sequence[Example]], metric: str, curve: bool,
        max_new_tokens: int,
    ) -> None:  # fmt: skip
        self.mixing, self.retention, self.sets, self.curve = mixing, retention, sets, curve
        self.entry, self.max_new_tokens = metrics.get(metric), max_new_tokens
        self.values: dict[float, dict[str, Floats]] = {}
        self.original: dict[str, ProbedSet] = {}

    def run(self, *, scan: int, resolution: float, passes: float) -> tuple[Calibration, Target]:
        original = self.read(0.0, whole=True)
        with progress.bar("calibrate", total=round(passes) + 1) as advance:

            def gauge(alpha: float, *, whole: bool) -> Reading:
                reading = original if alpha == 0.0 else self.read(alpha, whole=whole)
                advance(1, f"alpha {alpha:.4f} {'keeps' if reading.feasible else 'loses'} enough")
                return reading

            found = search(
                gauge, threshold=self.retention.threshold, scan=scan, resolution=resolution, passes=passes,
                whole_grid=self.curve, expected=None if self.curve else self.retention.expected,
            )  # fmt: skip
        calibrated = self.mixing.mix(found.alpha)
        self.watch(calibrated, found.alpha)
        alphas = tuple(sorted(self.values))
        for measure in self.own_measures():
            self.original[measure.name] = _probed_set(measure.scored_examples, [measure.values_at(0.0)])
        kept = self.retention.record(found.alpha)
        sets = self.probed(alphas)
        return Calibration(self.retention.tau, self.entry.name, found, alphas, sets, self.original, kept), calibrated

    def read(self, alpha: float, *, whole: bool) -> Reading:
        """Mix, and look at the retention; the other sets too where they are wanted."""
        mixed = self.mixing.mix(alpha)
        reading = self.retention.probe(mixed, alpha, whole=whole)
        if self.curve:
            self.watch(mixed, alpha)
        if alpha == 0.0:
            self.look_at_forget(mixed)
        return reading

    def watch(self, mixed: Target, alpha: float) -> None:
        """Measure the other sets."""
        if alpha not in self.values:
            self.values[alpha] = {name: self.measured(mixed, examples) for name, examples in self.sets.items()}

    def measured(self, mixed: Target, examples: Sequence[Example]) -> Floats:
        return measured(mixed, examples, self.entry, max_new_tokens=self.max_new_tokens)

    def look_at_forget(self, original: Target) -> None:
        """Warn if the original does not know what is to be forgotten."""
        forget = list(self.sets.get("forget", ()))
        if not forget:
            return
        if len(forget) > KNOWN_SAMPLE and not self.curve:
            forget = [forget[i] for i in sorted(np.random.default_rng(0).permutation(len(forget))[:KNOWN_SAMPLE])]
        values = self.values[0.0]["forget"] if self.curve else self.measured(original, forget)
        scored = np.flatnonzero(~np.isnan(values))
        self.original["forget"] = _probed_set([forget[int(i)] for i in scored], [values[scored]])
        known = float(values[scored].mean()) if len(scored) else float("nan")
        if self.entry.facts["range"] == (0.0, 1.0) and self.entry.facts["higher_remembers"] and not known >= UNKNOWN:
            progress.warn(
                f"the original model itself scores {known:.3g} ({self.entry.name}) on the forget data: there "
                "is nothing to forget; are these the questions, and is this the model, that it was trained on?"
            )

    def own_measures(self) -> list[ExampleMeasure]:
        """The retention measures that use the metric that the other sets are measured with."""
        return [m for m in self.retention.measures if isinstance(m, ExampleMeasure) and m.metric == self.entry.name]

    def probed(self, alphas: tuple[float, ...]) -> dict[str, ProbedSet]:
        """Every set's values at the mixtures at which all were scored on all examples."""
        sets = {m.name: _probed_set(m.scored_examples, [m.values_at(a) for a in alphas]) for m in self.own_measures()}
        for name, examples in self.sets.items():
            scored = np.flatnonzero(~np.isnan(self.values[alphas[0]][name]))
            rows = [self.values[alpha][name][scored] for alpha in alphas]
            sets[name] = _probed_set([examples[int(i)] for i in scored], rows)
        return sets


def _probed_set(examples: Sequence[Example], rows: Sequence[Floats]) -> ProbedSet:
    return ProbedSet(tuple(e.id for e in examples), tuple(e.subject for e in examples), np.stack(rows))


def retention_metrics() -> list[str]:
    """The metrics of token scores for which high means 'remembers': those at which a run can be stopped early."""
    return [e.name for e in metrics if e.facts["needs"] == ("scores",) and e.facts["higher_remembers"]]
