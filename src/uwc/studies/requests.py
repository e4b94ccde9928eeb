"""The forget set in parts, which are requested one after another, or more and more of them at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from uwc.calibration.frontier import Frontier
from uwc.data.benchmark import FORGET, Benchmark
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import MeasuredSet
from uwc.metrics.stats import Average, aggregate, paired_difference
from uwc.registry import unknown_name
from uwc.results import AfterRequest, Aggregate, Difference, Estimate, PartScore, RequestKind, Score, StepNames
from uwc.studies.config import SequenceConfig
from uwc.studies.steps import Calibrate, Step
from uwc.studies.steps import Score as ScoreStep

Examples = tuple[Example, ...]


@dataclass(frozen=True)
class PlannedRequest:
    """The model after a request: what was forgotten, and its steps.

    Attributes:
        forgotten: the names of the parts that were forgotten so far.
        model: the step that makes it.
        score: the step with its scores.
        calibrate: the step that calibrates it; None in a study without calibration.
    """

    forgotten: tuple[str, ...]
    model: Step
    score: ScoreStep
    calibrate: Calibrate | None


@dataclass(frozen=True)
class PlannedRequests:
    """The models of a run after each request.

    Attributes:
        kind: "sequence", each from the last one and its own part; "scale", each from the original and all parts so far.
        run: the run.
        parts: part of the forget set -> its examples, disjoint, in the order of the requests.
        models: one after each request.
    """

    kind: RequestKind
    run: str
    parts: Mapping[str, Examples]
    models: tuple[PlannedRequest, ...]


def sequence_parts(config: SequenceConfig, benchmark: Benchmark, *, seed: int) -> dict[str, Examples]:
    """The parts of the forget set that are requested one after another; `seed` is of the order of subjects.

    Raises:
        ConfigError: a portion or subject is unknown, or there is nothing new in a part.
    """
    where = "unlearn.sequence"
    if config.parts is not None:
        ends = {str(number): number / config.parts for number in range(1, config.parts + 1)}
        return _disjoint(_by_subject(ends, benchmark, seed), where)
    if isinstance(config.splits, tuple):
        return _disjoint(_portions(config.splits, benchmark, f"{where}.splits"), where)
    return _disjoint({name: _about(subjects, benchmark) for name, subjects in config.splits.items()}, where)


def scale_parts(scale: Sequence[int | str], benchmark: Benchmark, *, seed: int) -> dict[str, Examples]:
    """What each forget set of a scale adds to the one before it; `seed` is of the order of subjects.

    Raises:
        ConfigError: a portion is unknown, or a forget set adds nothing.
    """
    numbers, names = [n for n in scale if isinstance(n, int)], [n for n in scale if isinstance(n, str)]
    sets = _by_subject({f"x{number}": number / numbers[-1] for number in numbers}, benchmark, seed)
    return _disjoint(sets or _portions(names, benchmark, "unlearn.scale"), "unlearn.scale")


def together(parts: Mapping[str, Examples], benchmark: Benchmark) -> Examples:
    """The examples of several parts, in the order of the forget set."""
    chosen = {example.id for part in parts.values() for example in part}
    return tuple(example for example in benchmark[FORGET] if example.id in chosen)


def _by_subject(ends: Mapping[str, float], benchmark: Benchmark, seed: int) -> dict[str, Examples]:
    """Name -> the questions about the first subjects of the forget set, in a drawn order, up to a share of their
    number."""
    forget = benchmark[FORGET]
    subjects = list(dict.fromkeys(example.subject or example.id for example in forget))
    order = np.random.default_rng(seed).permutation(len(subjects)).tolist()
    found = {}
    for name, end in ends.items():
        first = {subjects[i] for i in order[: int(end * len(subjects) + 0.5)]}
        found[name] = tuple(example for example in forget if (example.subject or example.id) in first)
    return found


def _portions(names: Sequence[str], benchmark: Benchmark, where: str) -> dict[str, Examples]:
    """Portions that the benchmark names. Raises ConfigError if it has none of a name."""
    try:
        return {name: benchmark.portion(name) for name in names}
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _about(subjects: Sequence[str], benchmark: Benchmark) -> Examples:
    """The forget questions about some subjects. Raises ConfigError if there are none about one."""
    known = list(dict.fromkeys(example.subject for example in benchmark[FORGET] if example.subject))
    for subject in subjects:
        if subject not in known:
            raise ConfigError(f"unlearn.sequence.splits: {unknown_name('subject of the forget set', subject, known)}")
    return tuple(example for example in benchmark[FORGET] if example.subject in subjects)


def _disjoint(sets: Mapping[str, Examples], where: str) -> dict[str, Examples]:
    """Each set without the examples of those before it. Raises ConfigError if nothing is left of one."""
    seen: set[str] = set()
    parts = {}
    for name, examples in sets.items():
        parts[name] = tuple(example for example in examples if example.id not in seen)
        if not parts[name]:
            raise ConfigError(
                f"{where}: there is nothing in {name!r} that is not in the parts before it; the forget set has too few "
                "subjects for so many parts, or the parts are named in the wrong order"
            )
        seen |= {example.id for example in examples}
    return parts


class AfterRequests:
    """Collects the results of a run after each request, in their order.

    Args:
        planned: the models.
        tau, seed: of residual scores.
    """

    def __init__(self, planned: PlannedRequests, *, tau: float, seed: int) -> None:
        self._planned, self._tau, self._seed = planned, tau, seed
        self._own: dict[str, float] = {}

    def without(self, number: int, status: Literal["diverged", "skipped"], message: str) -> AfterRequest:
        """The result after a request that has no model; `number` counts from 1."""
        return AfterRequest(**self._named(number), status=status, message=message)

    def measured(
        self,
        number: int,
        forget: MeasuredSet,
        metric: str,
        frontier: Frontier | None,
        scores: Sequence[Score],
        message: str = "",
    ) -> AfterRequest:
        """The result after a request: forget scores, in all and by part, relapse, retention and alpha.

        Args:
            number: of the request, from 1.
            forget: the scored forget set.
            metric: the metric of the ranking.
            frontier: that of the whole forget set; None without a calibration.
            scores: of the whole sets.
            message: why its scores are not to be trusted; empty if they are.
        """
        planned, average = self._planned, metrics.get(metric).facts["average"]
        forgotten = planned.models[number - 1].forgotten
        values = dict(zip(forget.ids, forget.values(metric).tolist(), strict=True))

        def scored(examples: Sequence[Example]) -> Aggregate:
            row = np.array([values[example.id] for example in examples], dtype=np.float64)
            return aggregate(row, [example.subject for example in examples], average=average, seed=self._seed)

        def residual(examples: Sequence[Example]) -> Estimate | None:
            if frontier is None:
                return None
            part = frontier.part({example.id for example in examples})
            return part.estimate(self._tau, seed=self._seed)

        asked = self._asked(number)
        relapse = self._relapse(asked, values, average)
        if planned.kind == "sequence":
            self._own |= {e.id: values[e.id] for e in planned.parts[forgotten[-1]]}
        return AfterRequest(
            **self._named(number),
            status="not_finite" if message else "ok",
            message=message,
            parts=tuple(
                PartScore(part=name, forgotten=name in forgotten, score=scored(part), residual=residual(part))
                for name, part in planned.parts.items()
            ),
            score=scored(asked),
            residual=residual(asked),
            relapse=relapse,
            retention=None if frontier is None else frontier.retention.delivered(seed=self._seed),
            alpha=None if frontier is None else frontier.alpha_estimate(self._tau, seed=self._seed),
            scores=tuple(scores),
        )

    def _asked(self, number: int) -> list[Example]:
        """The questions that were forgotten so far."""
        return [e for name in self._planned.models[number - 1].forgotten for e in self._planned.parts[name]]

    def _named(self, number: int) -> dict[str, Any]:
        """The fields of a result that are known before anything is computed."""
        model, asked = self._planned.models[number - 1], self._asked(number)
        calibrate = None if model.calibrate is None else model.calibrate.id
        return {
            "number": number,
            "forgotten": model.forgotten,
            "questions": len(asked),
            "subjects": len({example.subject or example.id for example in asked}),
            "steps": StepNames(model=model.model.id, score=model.score.id, calibrate=calibrate),
        }

    def _relapse(self, asked: Sequence[Example], values: Mapping[str, float], average: Average) -> Difference | None:
        earlier = [example for example in asked if example.id in self._own]
        if not earlier:
            return None
        before, after = (np.array([of[e.id] for e in earlier], dtype=np.float64) for of in (self._own, values))
        return paired_difference(before, after, [e.subject for e in earlier], average=average, seed=self._seed)
