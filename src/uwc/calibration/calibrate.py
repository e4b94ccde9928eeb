"""Calibration of an unlearned model: the largest mixture with the original that satisfies the retention constraint."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from uwc import answers, progress, results
from uwc.calibration.frontier import Frontier, at_tau
from uwc.calibration.measures import ExampleMeasure, LeastRatio, Measure, measured
from uwc.calibration.probed import Measured, ProbedSet, RetentionCurve, load_probes, save_probes
from uwc.calibration.search import PASSES, Reading, SearchResult, search
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.io import write_text
from uwc.metrics.evaluate import question_columns
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.scored import TEXTS, score_set
from uwc.metrics.stats import COMBINATIONS, Average, aggregate, aggregate_combined, aggregate_sets
from uwc.models.model import Model
from uwc.models.token_scores import Floats
from uwc.results import ConditionScore, Number, Part, Warning

if TYPE_CHECKING:
    from uwc.models.mixing import Mixing
    from uwc.training.callbacks import StopRule

KNOWN_SAMPLE = 64
"""Number of forget questions on which the original is scored in a search without curve."""
UNKNOWN = 0.1
"""Mean score of the original on the forget data, on metrics from 0 to 1, below which a warning is given."""
PROBES, SEARCH = "probes.parquet", "probes.json"
"""The files of a calibration's probes and search."""

Sets = Mapping[str, Sequence[Example]]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A calibrated mixture with the values of all probes.

    Attributes:
        tau: the least retention ratio.
        metric: the metric of the forget sets.
        search: the search for alpha.
        measures: the values of each retention measure.
        forget: set -> the metric's value for each example at each mixture.
        warnings: why its numbers may be unreliable.
    """

    tau: float
    metric: str
    search: SearchResult
    measures: tuple[Measured, ...]
    forget: Mapping[str, ProbedSet]
    warnings: tuple[Warning, ...] = ()

    @property
    def alpha(self) -> float:
        """The mixture: 0 = original, 1 = unlearned."""
        return self.search.alpha

    @property
    def forget_score(self) -> float:
        """The mean of the metric on the forget set at alpha."""
        probed = self.forget["forget"]
        return float(probed.means()[np.flatnonzero(probed.alphas == self.alpha)[0]])

    @cached_property
    def frontiers(self) -> Mapping[str, Frontier]:
        """Forget set -> its frontier; empty if only alpha was searched."""
        curve = RetentionCurve(self.measures)
        return {name: Frontier(curve, s) for name, s in self.forget.items() if np.array_equal(s.alphas, curve.alphas)}

    def record(self, *, seed: int = 0) -> results.Calibration:
        """The calibration with intervals, in results; `seed` is of the bootstrap."""
        forget = self.forget.get("forget")
        scores = {} if forget is None else dict(zip(forget.alphas.tolist(), forget.means().tolist(), strict=True))
        probes = [p.model_copy(update={"forget": scores.get(p.alpha, p.forget)}) for p in self.search.probes]
        return results.Calibration(
            tau=self.tau,
            metric=self.metric,
            alpha=self.alpha,
            upper=self.search.upper,
            monotone=self.search.monotone,
            passes=self.search.passes,
            unchecked=self.search.unchecked,
            kept=tuple(_kept(m, self.alpha) for m in self.measures),
            delivered=RetentionCurve(self.measures).delivered(seed=seed),
            probes=tuple(probes),
            at_tau=at_tau(self.frontiers, self.tau, seed=seed) if self.frontiers else None,
            frontier={name: frontier.record(seed=seed) for name, frontier in self.frontiers.items()},
        )

    def scores(self, *, seed: int = 0) -> tuple[ConditionScore, ...]:
        """The scores of the original, the unlearned model as delivered, the calibrated mixture, and at tau.

        On each forget set and each set of a retention measure, on all its examples. There is no row for a model that
        was not scored on all examples of a set, as in a search without curve.
        """
        rows: list[ConditionScore] = []
        for name, probed in self.forget.items():
            frontier = self.frontiers.get(name)
            residual = frontier.estimate(self.tau, seed=seed) if frontier else None
            rows += self._rows(Measured.of(self.metric, [probed]), residual, seed)
        first = next(iter(self.frontiers.values()), None)
        for place, measure in enumerate(self.measures):
            residual = first.measure_estimates(self.tau, seed=seed)[place] if first else None
            rows += self._rows(measure, residual, seed) if measure.inputs else []
        return tuple(rows)

    def _rows(self, measure: Measured, at: results.Estimate | None, seed: int) -> list[ConditionScore]:
        """The rows of one metric on its set or sets."""
        rows: list[ConditionScore] = []
        where = {
            "set": "+".join(dict.fromkeys(i.name for i in measure.inputs)),
            "metric": measure.inputs[0].metric if measure.single else measure.average,
        }
        if measure.shown is not None:
            where["set"], where["metric"] = measure.shown
        for condition, alpha in {"original": 0.0, "as delivered": 1.0, "calibrated": self.alpha}.items():
            if (score := _score(measure, alpha, seed)) is not None:
                rows.append(ConditionScore.model_validate({"condition": condition, **where, **score.model_dump()}))
        if at is not None:
            interpolated = {"mean": at.value, "se": float("nan"), "low": at.low, "high": at.high}
            rows.append(rows[0].model_copy(update={"condition": "at tau", **interpolated}))
        return rows

    def save(self, folder: Path) -> None:
        """Write ``probes.parquet`` (the values by example) and ``probes.json`` (the rest)."""
        save_probes(folder / PROBES, [*self.forget.values(), *(i for m in self.measures for i in m.inputs)])
        kept = _Stored(
            tau=self.tau,
            metric=self.metric,
            alpha=self.alpha,
            upper=self.search.upper,
            unchecked=self.search.unchecked,
            probes=self.search.probes,
            measures=tuple(_StoredMeasure.of(m) for m in self.measures),
            forget=tuple(self.forget),
            warnings=self.warnings,
        )
        write_text(folder / SEARCH, kept.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Calibrated":
        """Read the files of `save`."""
        kept = _Stored.model_validate_json((folder / SEARCH).read_text(encoding="utf-8"))
        sets = load_probes(folder / PROBES)
        return cls(
            kept.tau,
            kept.metric,
            SearchResult(kept.alpha, kept.probes, kept.upper, kept.unchecked),
            tuple(m.measured(sets) for m in kept.measures),
            {name: sets[name, kept.metric] for name in kept.forget},
            kept.warnings,
        )


def answer_rows(
    found: Calibrated, mixing: "Mixing", sets: Sets, *, names: tuple[str, str], max_new_tokens: int
) -> pd.DataFrame:
    """The table of answers of a calibration: of the original, the unlearned and the calibrated model.

    Each set has the metrics of the probes on all its examples; the forget set also has generated texts.

    Args:
        found: the calibration.
        mixing: its mixer.
        sets: set -> its examples.
        names: what the table calls the original and the unlearned model.
        max_new_tokens: the most tokens of a generated answer; 0 generates none.
    """
    probed = [*found.forget.values(), *(i for m in found.measures for i in m.inputs)]
    parts = []
    model = mixing.mix(found.alpha)  # without texts it only writes the prompts
    for role, name, condition, alpha in (
        ("original", names[0], answers.AS_DELIVERED, 0.0),
        ("unlearned", names[1], answers.AS_DELIVERED, 1.0),
        ("calibrated", names[1], answers.CALIBRATED, found.alpha),
    ):
        model = mixing.mix(alpha) if max_new_tokens > 0 else model
        for of_set, examples in sets.items():
            rows = {s.metric: s.row(alpha) for s in probed if s.name == of_set}
            values = {metric: row for metric, row in rows.items() if row is not None}
            texts = max_new_tokens > 0 and of_set == results.FORGET
            if not values and not texts:
                continue
            scored = score_set(model, examples, needs=TEXTS, max_new_tokens=max_new_tokens) if texts else None
            encoded = model.encode(examples) if scored is None else []
            parts.append(
                answers.rows(
                    set=of_set,
                    **question_columns(examples),
                    values=values,
                    role=role,
                    model=name,
                    condition=condition,
                    answers=[e.answer for e in encoded] if scored is None else scored.answers,
                    prompts=model.prompts(encoded) if scored is None else scored.prompts,
                    generated=None if scored is None else scored.texts,
                    completed_from=None if scored is None else scored.completed_from(),
                )
            )
    return answers.joined(parts)


class _StoredMeasure(Part):
    label: str
    higher: bool
    average: str
    inputs: tuple[tuple[str, str], ...]
    alphas: tuple[float, ...]
    values: tuple[Number, ...]
    errors: tuple[Number, ...] = ()
    questions: int = 0
    shown: tuple[str, str] | None = None

    @classmethod
    def of(cls, measure: Measured) -> "_StoredMeasure":
        return cls(
            label=measure.label,
            higher=measure.higher,
            average=measure.average,
            inputs=tuple((i.name, i.metric) for i in measure.inputs),
            alphas=tuple(measure.alphas.tolist()),
            values=() if measure.inputs else tuple(measure.values.tolist()),
            errors=tuple(measure.errors.tolist()),
            questions=measure.questions,
            shown=measure.shown,
        )

    def measured(self, sets: Mapping[tuple[str, str], ProbedSet]) -> Measured:
        if self.inputs:
            inputs = [sets[key] for key in self.inputs]
            return Measured.of(self.label, inputs, higher=self.higher, average=self.average, shown=self.shown)
        errors = np.array(self.errors, dtype=np.float64)
        return Measured(
            self.label,
            self.higher,
            np.array(self.alphas),
            np.array(self.values),
            errors=errors,
            questions=self.questions,
        )


class _Stored(Part):
    tau: float
    metric: str
    alpha: float
    upper: float
    unchecked: tuple[float, ...]
    probes: tuple[results.Probe, ...]
    measures: tuple[_StoredMeasure, ...]
    forget: tuple[str, ...]
    warnings: tuple[Warning, ...]


def _kept(measure: Measured, alpha: float) -> results.Kept:
    at = int(np.flatnonzero(measure.alphas == alpha)[0])
    original, value, ratio = float(measure.values[0]), float(measure.values[at]), float(measure.ratios[at])
    return results.Kept(measure=measure.label, original=original, value=value, ratio=ratio, n=measure.n)


def _score(measure: Measured, alpha: float, seed: int) -> results.Aggregate | None:
    """The aggregate of a measure at a mixture; None if not all examples were scored there."""
    found = [i.row(alpha) for i in measure.inputs]
    rows = [row for row in found if row is not None]
    if len(rows) < len(found):
        return None
    if measure.single:
        average: Average = "geometric" if measure.average == "geometric" else "arithmetic"
        aggregated = aggregate(rows[0], measure.inputs[0].subjects, average=average, seed=seed)
    elif measure.average in COMBINATIONS:
        aggregated = aggregate_combined(measure.average, rows, [i.name for i in measure.inputs], seed=seed)
    else:
        entry = set_metrics.get(measure.average)
        aggregated = aggregate_sets(
            entry.function,
            rows,
            [i.subjects for i in measure.inputs],
            groups=[i.name for i in measure.inputs],
            interval=entry.facts["interval"],
            seed=seed,
        )
    return aggregated


def calibrate(
    mixing: "Mixing",
    measures: Sequence[Measure],
    forget: Sets,
    *,
    tau: float = 0.95,
    metric: str = "extraction_strength",
    scan: int = 8,
    resolution: float = 1 / 128,
    passes: float = PASSES,
    curve: bool = True,
    max_new_tokens: int = 64,
) -> Calibrated:
    """Find the largest alpha at which theta(alpha) satisfies the retention constraint (arXiv:2406.09179).

    ``theta(alpha) = (1 - alpha) * original + alpha * unlearned``. The retention ratio, the least ratio of the measures'
    values to the original's (1 at alpha = 0), must be at least `tau`.

    Args:
        mixing: the mixer; `Mixing.mix` gives the calibrated model afterwards.
        measures: the retention constraint, see `retention_measures`.
        forget: the forget set, "forget", and further ones by name, which are scored with `metric`.
        tau: the least retention ratio.
        metric: the metric that models are ranked by, see `ranking_metrics`.
        scan: number of intervals of the coarse grid.
        resolution: of alpha.
        passes: the most scoring passes, see `search`.
        curve: score every set on all examples at each probe, and probe the whole grid, as needed for the frontier, the
            score at tau and intervals. Otherwise a probe ends as soon as it is decided, and the forget sets are scored
            at alpha only.
        max_new_tokens: the most tokens of a generated answer, for metrics of texts.

    Raises:
        UserError: a measure, the metric or the models are unsuitable, or the original scores near 0.
    """
    if not 0 < tau <= 1:
        raise ConfigError(f"tau = {tau} must be above 0 and at most 1")
    run = _Calibrating(mixing, measures, forget, metric, curve, max_new_tokens)
    found = run.search(tau=tau, scan=scan, resolution=resolution, passes=passes)
    probed = {name: run.probed(name) for name in forget}
    return Calibrated(tau, metric, found, tuple(m.measured() for m in measures), probed, tuple(run.warnings))


class _Calibrating:
    def __init__(
        self,
        mixing: "Mixing",
        measures: Sequence[Measure],
        forget: Sets,
        metric: str,
        curve: bool,
        max_new_tokens: int,
    ) -> None:
        self.mixing, self.retention, self.forget, self.curve = mixing, LeastRatio(measures), forget, curve
        self.entry, self.max_new_tokens = metrics.get(metric), max_new_tokens
        self.values: dict[float, dict[str, Floats]] = {}
        self.warnings: list[Warning] = []

    def search(self, *, tau: float, scan: int, resolution: float, passes: float) -> SearchResult:
        original = self.begin(tau)
        with progress.bar("calibrate", total=round(passes) + 1) as advance:

            def gauge(alpha: float, *, whole: bool) -> Reading:
                reading = original if alpha == 0.0 else self.probe(alpha, whole=whole)
                advance(1, f"alpha {alpha:.4f}: retention {'at least' if reading.feasible else 'below'} tau")
                return reading

            found = search(
                gauge,
                tau=tau,
                scan=scan,
                resolution=resolution,
                passes=passes,
                whole_grid=self.curve,
                expected=None if self.curve else self.retention.expected,
            )
        if found.alpha not in self.values:
            self.score(self.mixing.mix(found.alpha), found.alpha)
        return found

    def begin(self, tau: float) -> Reading:
        """Measure the original, and warn if it scores low."""
        original = self.mixing.mix(0.0)
        reading = self.retention.begin(original, tau=tau, early=not self.curve)
        if self.curve:
            self.score(original, 0.0)
        for measure in self.retention.measures:
            self.warn("low_retention", measure.doubt)
        self.warn("low_forget", self.doubt(original))
        return reading

    def probe(self, alpha: float, *, whole: bool) -> Reading:
        """Mix, and measure retention and, in a curve, the forget sets."""
        mixture = self.mixing.mix(alpha)
        reading = self.retention.probe(mixture, alpha, whole=whole)
        if self.curve and alpha not in self.values:
            self.score(mixture, alpha)
        return reading

    def score(self, mixture: Model, alpha: float) -> None:
        """Measure the forget sets."""
        self.values[alpha] = {name: self.measured(mixture, examples) for name, examples in self.forget.items()}

    def measured(self, mixture: Model, examples: Sequence[Example]) -> Floats:
        return measured(mixture, examples, self.entry, max_new_tokens=self.max_new_tokens)

    def doubt(self, original: Model) -> str:
        """The warning for an original that scores near 0 on the forget set; empty otherwise."""
        forget = list(self.forget.get("forget", ()))
        if not forget or self.entry.facts["range"] != (0.0, 1.0) or not self.entry.facts["higher_remembers"]:
            return ""
        if 0.0 in self.values:
            values = self.values[0.0]["forget"]
        else:
            sample = sorted(np.random.default_rng(0).permutation(len(forget))[:KNOWN_SAMPLE])
            values = self.measured(original, [forget[i] for i in sample])
        scored = values[~np.isnan(values)]
        known = float(scored.mean()) if len(scored) else float("nan")
        if known >= UNKNOWN:
            return ""
        return (
            f"the original model itself scores {known:.3g} ({self.entry.name}) on the forget data, so that there "
            "is little to forget; check the file, the model and the prompt"
        )

    def warn(self, code: str, text: str) -> None:
        if text:
            progress.warn(text)
            self.warnings.append(Warning(code=code, text=text))

    def probed(self, name: str) -> ProbedSet:
        """A forget set's values at the mixtures at which it was scored."""
        alphas, examples = sorted(self.values), self.forget[name]
        rows = [self.values[alpha][name] for alpha in alphas]
        return ProbedSet.of(name, self.entry.name, examples, alphas, rows)


def stop_at(
    *,
    forget: Sequence[Example],
    at_most: float,
    metric: str = "extraction_strength",
    every: int = 10,
    tau: float | None = None,
    retain: Sequence[Example] = (),
    original: Model | None = None,
) -> "StopRule":
    """End a run once the mean of `metric` on the forget examples is at most `at_most`.

    Args:
        forget: the questions to forget.
        at_most: the score at which the run ends.
        metric: a metric of token scores for which high means 'remembers'.
        every: steps between measurements.
        tau: measure the calibrated score instead: that of the mixture with the retention ratio `tau`.
        retain: questions on which retention is measured; required with `tau`.
        original: the model before unlearning; required with `tau`.
    """

    from uwc.models.adapters import merge_adapter
    from uwc.models.mixing import Mixer
    from uwc.training.callbacks import StopRule

    def raw(model: Model) -> float:
        return float(np.mean(measured(model, forget, metrics.get(metric))))

    def calibrated(model: Model) -> float:
        if original is None:
            raise ValueError("the calibrated score needs the original model")
        working = merge_adapter(replace(model, model=copy.deepcopy(model.model)))
        found = calibrate(
            Mixer(original, working),
            [ExampleMeasure(retain, metric=metric)],
            {"forget": forget},
            tau=tau or 1.0,
            metric=metric,
            curve=False,
        )
        return found.forget_score

    return StopRule(raw if tau is None else calibrated, at_most, every)
