"""Retention measures: each scores mixtures and returns the ratio to the original's value."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc.calibration.probed import ROUNDING, Measured, ProbedSet, logarithm, ratio_to_original
from uwc.calibration.search import ERROR, Expectation, MeanTest, Reading, looks
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.scored import ScoredSet, needs_of, score_set
from uwc.metrics.set_metrics import UTILITY_SETS
from uwc.metrics.suites import Given, is_set_metric, split_input, what_is_missing
from uwc.metrics.tasks import Task
from uwc.models.model import Model
from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import Entry, unknown_name

RANDOM_PART = 4
"""The inverse share of examples that are scored in random order if that may decide a probe."""
FURTHER = 1.25
"""Examples with the greatest expected loss, at multiples of a mixture's alpha, are scored first."""
NEAR_ZERO, LITTLE = 0.02, 0.2
"""Mean scores of the original, on metrics from 0 to 1, below which calibration is refused, or a warning given."""
_ANY_MODEL_HAS = frozenset(
    {"scores", "answers", "restated", "perturbed", "texts", "text_tokens", "sampled", "gradient_norms", "similar_from"}
)


def example_metrics() -> list[str]:
    """The metrics of single examples for a retention constraint: those with a direction that need one model only."""
    return [e.name for e in metrics if _fits(e)]


def retention_names() -> list[str]:
    """All metrics for a retention constraint: those of single examples, and those of whole sets."""
    kept = [e.name for e in set_metrics if {need.partition(":")[0] for need in e.facts["needs"]} <= set(UTILITY_SETS)]
    return [*example_metrics(), *(n for n in kept if set_metrics.get(n).facts["higher_remembers"])]


def ranking_metrics() -> list[str]:
    """The metrics that models can be ranked by: means over examples in 0..1 for which low means 'forgotten'."""
    return [n for n in example_metrics() if _ranks(metrics.get(n).facts)]


def ranking_metric(metric: str, rank_by: str | None = None) -> str:
    """The metric of the ranking: `rank_by` if given, else the retention metric if possible, else extraction strength.

    Raises:
        ConfigError: models cannot be ranked by `rank_by`.
    """
    if rank_by is not None and rank_by not in ranking_metrics():
        raise ConfigError(unknown_name("metric to rank by", rank_by, ranking_metrics()))
    return rank_by or (metric if metric in ranking_metrics() else "extraction_strength")


def early_stopping_metrics() -> list[str]:
    """The metrics for early stopping: those of token scores for which high means 'remembers'."""
    return [e.name for e in metrics if e.facts["needs"] == ("scores",) and e.facts["higher_remembers"]]


def _fits(entry: Entry[Any]) -> bool:
    facts = entry.facts
    return (
        set(facts["needs"]) <= _ANY_MODEL_HAS
        and facts["higher_remembers"] is not None
        and "only" not in facts
        and facts["range"][0] > -np.inf
    )


def _ranks(facts: Mapping[str, Any]) -> bool:
    return facts["higher_remembers"] is True and facts["average"] == "arithmetic" and facts["range"] == (0.0, 1.0)


def meaningless(score: float, on: str, *, needed: float | None = None) -> UserError:
    """The error for an original that scores near 0 on a set of the retention constraint."""
    least = "" if needed is None else f", and at least {needed:g} is needed"
    return UserError(
        f"calibration is meaningless: the original model itself scores {score:.3g} on {on}{least}; give data that it "
        "knows, the prompt that it was trained with, or another retention measure"
    )


class Measure(ABC):
    """A retention measure: a value of a model, and its ratio to the original's value.

    The ratio is ``value / original``, or ``original / value`` if low is good.

    Attributes:
        label: its name in tables.
        doubt: why its ratio is unreliable; empty if it is reliable.
    """

    label: str
    doubt: str = ""

    @abstractmethod
    def begin(self, original: Model, *, tau: float, early: bool) -> Reading:
        """Measure the original, alpha = 0, before any mixture.

        Args:
            original: the model before unlearning.
            tau: the least ratio to its value.
            early: whether a probe may end as soon as it is decided.

        Raises:
            UserError: the original scores near 0, or cannot be measured.
        """

    @abstractmethod
    def probe(self, mixture: Model, alpha: float, *, whole: bool) -> Reading:
        """Measure a mixture: on all examples if `whole`, else until it is decided; scores are cached."""

    @abstractmethod
    def measured(self) -> Measured:
        """The values at all mixtures that were measured on all examples."""

    def expected(self, alpha: float) -> float:
        """The expected ratio at a mixture, given those measured; NaN if unknown."""
        return float("nan")


class LeastRatio:
    """All measures together: the retention ratio is their least, and a mixture is feasible if all are at least tau.

    Args:
        measures: cheap ones first, since the first infeasible one decides.
    """

    def __init__(self, measures: Sequence[Measure]) -> None:
        self.measures = measures
        self._of = 0

    def begin(self, original: Model, *, tau: float, early: bool) -> Reading:
        """See `Measure.begin`."""
        readings = [m.begin(original, tau=tau, early=early) for m in self.measures]
        self._of = sum(r.of for r in readings)
        return self._together(readings)

    def probe(self, mixture: Model, alpha: float, *, whole: bool) -> Reading:
        """See `Measure.probe`."""
        readings: list[Reading] = []
        for measure in self.measures:
            readings.append(measure.probe(mixture, alpha, whole=whole))
            if not readings[-1].feasible and not whole:
                break
        return self._together(readings)

    def expected(self, alpha: float) -> float:
        """The expected retention ratio at a mixture; NaN if unknown for a measure."""
        return float(np.min([m.expected(alpha) for m in self.measures]))

    def _together(self, readings: Sequence[Reading]) -> Reading:
        least = float(np.min([r.retention for r in readings]))
        return Reading(least, all(r.feasible for r in readings), sum(r.scored for r in readings), self._of)


class NumberMeasure(Measure):
    """One number for a model, such as the accuracy on a benchmark.

    Args:
        function: from a model to its number.
        label: its name in tables.
        higher: whether a high number is good.
    """

    def __init__(self, function: Callable[[Model], float], *, label: str, higher: bool = True) -> None:
        self.function, self.label, self.higher = function, label, higher
        self._values: dict[float, float] = {}
        self._tau = 1.0

    def begin(self, original: Model, *, tau: float, early: bool) -> Reading:
        """See `Measure.begin`."""
        self._tau = tau
        reading = self.probe(original, 0.0, whole=True)
        if not 0 < self._values[0.0] < np.inf:
            raise meaningless(self._values[0.0], self.label)
        return reading

    def probe(self, mixture: Model, alpha: float, *, whole: bool) -> Reading:
        """See `Measure.probe`."""
        if alpha not in self._values:
            self._values[alpha] = float(self.function(mixture))
        ratio = float(ratio_to_original(self._values[alpha], self._values[0.0], higher=self.higher))
        return Reading(ratio, ratio >= self._tau - ROUNDING)

    def measured(self) -> Measured:
        """See `Measure.measured`."""
        alphas = sorted(self._values)
        return Measured(self.label, self.higher, np.array(alphas), np.array([self._values[a] for a in alphas]))


class SetMeasure(NumberMeasure):
    """A metric of whole sets, such as ``model_utility``, with the values by example that it is computed from.

    Args:
        metric: its name.
        sets: its sets, by name.
        max_new_tokens: the most tokens of a generated answer.

    Raises:
        ConfigError: it lacks a set or a column.
    """

    def __init__(self, metric: str, sets: Mapping[str, Sequence[Example]], *, max_new_tokens: int = 64) -> None:
        entry = set_metrics.get(metric)
        own = {name: sets[name] for name in UTILITY_SETS if name in sets}
        if lacking := what_is_missing(metric, Given(own, max_new_tokens=max_new_tokens)):
            raise ConfigError(f"the metric {metric!r} needs {lacking}")
        self.metric, self.sets, self.max_new_tokens = metric, sets, max_new_tokens
        self._inputs = [split_input(text)[1:] for text in entry.facts["needs"]]
        self._rows: list[list[Floats]] = []
        super().__init__(self._evaluated, label=metric)

    def measured(self) -> Measured:
        """See `Measure.measured`; without values by example unless the metric is a function of means."""
        if "of_means" not in set_metrics.get(self.metric).facts:
            return super().measured()
        rows = dict(sorted(zip(self._values, self._rows, strict=True), key=lambda pair: pair[0]))
        inputs = [
            ProbedSet.of(name, metric, self.sets[name], list(rows), [row[place] for row in rows.values()])
            for place, (name, metric) in enumerate(self._inputs)
        ]
        return Measured.of(self.label, inputs, average=self.metric)

    def _evaluated(self, model: Model) -> float:
        scored = {
            name: score_set(
                model,
                self.sets[name],
                needs=needs_of(m for n, m in self._inputs if n == name),
                max_new_tokens=self.max_new_tokens,
            )
            for name in dict.fromkeys(name for name, _ in self._inputs)
        }
        self._rows.append([scored[name].values(metric) for name, metric in self._inputs])
        values = [row[~np.isnan(row)] for row in self._rows[-1]]
        return float(set_metrics.get(self.metric).function(*values)) if all(map(len, values)) else float("nan")


class ExampleMeasure(Measure):
    """A metric's average over examples, with sequential decisions.

    With v the values of a mixture and o those of the original the ratio is ``mean(v) / mean(o)``, or the inverse for a
    metric for which low means 'remembers'; geometric averages are computed on logarithms. The examples are scored in
    blocks: some in a fixed random order, then the others by their expected loss (see `Expectation`), the greatest
    first. After each block `MeanTest` tests the paired differences to the original. Examples without a value on the
    original are left out.

    Args:
        examples: the questions.
        metric: a metric of single examples, see `example_metrics`.
        name: the set's name in messages.
        max_new_tokens: the most tokens of a generated answer.
        error: the probability of a wrong early decision in each direction.
        seed: of the order.

    Raises:
        ConfigError: the metric is not in `example_metrics`, or the examples do not meet its needs.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        metric: str,
        name: str = "retain",
        max_new_tokens: int = 64,
        error: float = ERROR,
        seed: int = 0,
    ) -> None:
        if metric not in example_metrics():
            raise ConfigError(unknown_name("retention metric", metric, example_metrics()))
        self.entry = metrics.get(metric)
        self.higher = bool(self.entry.facts["higher_remembers"])
        self.geometric = self.entry.facts["average"] == "geometric"
        self.examples, self.metric, self.name, self.error = list(examples), metric, name, error
        self.label = f"{metric} on {name}"
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self._tau, self._expects, self._early = 1.0, False, False
        self._original = np.zeros(0)
        self._scored = self._order = np.arange(0)
        self._seen: dict[float, _Seen] = {}
        self._expectation: Expectation | None = None

    def begin(self, original: Model, *, tau: float, early: bool) -> Reading:
        """See `Measure.begin`; metrics without bounds are always scored on all examples."""
        self._tau, self._expects = tau, early
        bounded = bool(np.isfinite(self.entry.facts["range"]).all())
        self._early = early and not self.geometric and bounded
        self._original, tokens = self._measured(original, self.examples)
        self._scored = np.flatnonzero(~np.isnan(self._original))
        self._order = np.random.default_rng(self.seed).permutation(self._scored)
        self._seen[0.0] = _Seen(0.0, self._original, len(self._scored), None, self._order, 0)
        if early:
            self._expectation = Expectation(self.entry, self._original, tokens)
        mean, unit = self._average(self._original), self.entry.facts["range"] == (0.0, 1.0) and self.higher
        if not 0 < mean < np.inf or (unit and mean < NEAR_ZERO):
            raise meaningless(mean, f"the {self.name} data ({self.metric})", needed=NEAR_ZERO if unit else None)
        if unit and mean < LITTLE:
            self.doubt = (
                f"the original model itself scores only {mean:.3g} ({self.metric}) on the {self.name} data, so that "
                "the retention ratio is unreliable; give retain data that it knows, or another retention metric"
            )
        return self._reading(self._seen[0.0])

    def probe(self, mixture: Model, alpha: float, *, whole: bool) -> Reading:
        """See `Measure.probe`."""
        if alpha not in self._seen:
            values, random = np.full(len(self.examples), np.nan), self._random_part(alpha)
            self._seen[alpha] = _Seen(alpha, values, 0, self._test(), self._order, random)
        seen = self._seen[alpha]
        for count in [len(self._order)] if whole or not self._early else looks(len(self._order)):
            if count > seen.count and (whole or seen.decided is None):
                self._score(mixture, seen, count)
        return self._reading(seen)

    def measured(self) -> Measured:
        """See `Measure.measured`."""
        alphas = [alpha for alpha in sorted(self._seen) if self._seen[alpha].count == len(self._order)]
        rows = [self._seen[alpha].values for alpha in alphas]
        probed = ProbedSet.of(self.name, self.metric, self.examples, alphas, rows)
        return Measured.of(self.label, [probed], higher=self.higher, average=self.entry.facts["average"])

    def expected(self, alpha: float) -> float:
        """See `Measure.expected`: from the tokens scored at other mixtures; NaN if there are none."""
        if self._expectation is None or not self._expectation.by_token:
            return float("nan")
        return self._ratio(self._expected(alpha))

    def _score(self, model: Model, seen: "_Seen", count: int) -> None:
        """Score further examples, up to `count`, and test whether the probe is decided."""
        random = seen.count < seen.random
        if not random and seen.order is self._order:
            rest = self._order[seen.count :]
            ahead = self._ahead(seen.alpha)[rest] + self._ahead(min(1.0, FURTHER * seen.alpha))[rest]
            seen.order = np.append(self._order[: seen.count], rest[np.argsort(ahead, kind="stable")])
        part = seen.order[seen.count : count]
        sorted_part = np.sort(part)
        examples = [self.examples[i] for i in sorted_part]
        seen.values[sorted_part], tokens = self._measured(model, examples)
        if self._expectation is not None:
            self._expectation.add(seen.alpha, sorted_part, seen.values[sorted_part], tokens)
        seen.count = count
        if np.isnan(seen.values[part]).any():
            seen.decided = False
        elif seen.test is not None and seen.decided is None:
            differences = self._line(seen.values[part]) - self._bar(part)
            seen.decided = seen.test.see(np.searchsorted(self._scored, part), differences, random=random)

    def _measured(self, model: Model, examples: Sequence[Example]) -> tuple[Floats, TokenScores | None]:
        return measured_closely(model, examples, self.entry, max_new_tokens=self.max_new_tokens, margins=self._expects)

    def _expected(self, alpha: float) -> Floats:
        """[E] the expected value of each example at a mixture."""
        return self._original if self._expectation is None else self._expectation.values(alpha)

    def _ahead(self, alpha: float) -> Floats:
        """[E] the expected difference of each example from the value that satisfies tau exactly."""
        ahead: Floats = self._line(self._expected(alpha)) - self._bar(slice(None))
        return ahead

    def _random_part(self, alpha: float) -> int:
        """The number of examples that are scored in random order before those with the greatest expected loss.

        A quarter if nothing is known yet, or if that many are expected to decide that the bar is reached. Otherwise
        those up to the first test, so that some examples are scored at every mixture.
        """
        first = looks(len(self._order))[0]
        part = max(first, len(self._order) // RANDOM_PART)
        if self._expectation is None or len(self._seen) == 1:
            return part
        ahead = self._ahead(alpha)[self._order]
        return part if ahead.mean() > np.sqrt(2 * np.log(1 / self.error) * ahead.var() / part) else first

    def _reading(self, seen: "_Seen") -> Reading:
        of = len(self._order)
        if seen.count == of:
            ratio = self._ratio(seen.values)
            return Reading(ratio, ratio >= self._tau - ROUNDING, of, of)
        ratio = self._ratio(np.clip(self._expected(seen.alpha), *self.entry.facts["range"]))
        ratio = max(ratio, self._tau) if seen.decided else min(ratio, self._tau)
        return Reading(ratio, bool(seen.decided), seen.count, of)

    def _test(self) -> MeanTest | None:
        if not self._early:
            return None
        ends = self._line(np.array(self.entry.facts["range"]))
        bar = self._bar(self._scored)
        return MeanTest(ends.min() - bar, ends.max() - bar, error=self.error)

    def _line(self, values: Floats) -> Floats:
        """The values on the scale on which they are averaged, with the sign such that high means 'remembers'."""
        line = logarithm(values) if self.geometric else values
        return line if self.higher else -line

    def _bar(self, part: NDArray[np.int64] | slice) -> Floats:
        """The values on that scale that satisfy tau exactly."""
        original = self._line(self._original[part])
        factor = self._tau if self.higher else 1 / self._tau
        bar: Floats = original + np.log(self._tau) if self.geometric else original * factor
        return bar

    def _average(self, values: Floats) -> float:
        """The average over the examples with a value on the original."""
        scored = values[self._scored]
        if not len(scored):
            return float("nan")
        return float(np.exp(logarithm(scored).mean()) if self.geometric else scored.mean())

    def _ratio(self, values: Floats) -> float:
        return float(ratio_to_original(self._average(values), self._average(self._original), higher=self.higher))


@dataclass
class _Seen:
    """The state of a probe: [E] values, NaN if not scored; the number scored, in order; how many of these in random
    order; and the decision."""

    alpha: float
    values: Floats
    count: int
    test: MeanTest | None
    order: NDArray[np.int64]
    random: int
    decided: bool | None = None


def retention_measures(
    sets: Mapping[str, Sequence[Example]],
    *,
    metric: str,
    keep: Sequence[str] = ("retain",),
    further: Sequence[Task | Callable[[Model], float]] = (),
    max_new_tokens: int = 64,
) -> list[Measure]:
    """The measures of a retention constraint, cheap ones first.

    Args:
        sets: name -> questions.
        metric: one of `retention_names`; a metric of whole sets has its own sets.
        keep: the sets on which `metric` is constrained, each separately.
        further: tasks of lm-evaluation-harness, of `find_tasks`, or functions from a model to a number, higher is
            better.
        max_new_tokens: the most tokens of a generated answer.

    Raises:
        ConfigError: a name is unknown, a need is not met, or there is no measure.
    """
    if metric not in retention_names():
        raise ConfigError(unknown_name("retention metric", metric, retention_names()))
    measures: list[Measure] = []
    if is_set_metric(metric):
        measures.append(SetMeasure(metric, sets, max_new_tokens=max_new_tokens))
    else:
        measures += [
            ExampleMeasure(sets[name], metric=metric, name=name, max_new_tokens=max_new_tokens) for name in keep
        ]
    for given in further:
        if isinstance(given, Task):
            from uwc.calibration.harness import HarnessTask

            measures.append(HarnessTask(given))
        else:
            measures.append(NumberMeasure(given, label=str(getattr(given, "__name__", type(given).__name__))))
    if not measures:
        raise ConfigError("calibration needs a retention constraint; give --retain, or tasks (calibrate.tasks)")
    return measures


def measured(model: Model, examples: Sequence[Example], entry: Entry[Any], *, max_new_tokens: int = 64) -> Floats:
    """[E] a metric's values on a model."""
    return measured_closely(model, examples, entry, max_new_tokens=max_new_tokens)[0]


def measured_closely(
    model: Model, examples: Sequence[Example], entry: Entry[Any], *, max_new_tokens: int = 64, margins: bool = False
) -> tuple[Floats, TokenScores | None]:
    """[E] the same, and the token scores (optionally with margins) if the metric reads only these."""
    from uwc.models.scoring import score_tokens

    if entry.facts["needs"] == ("scores",):
        tokens = score_tokens(model, examples, margins=margins)
        return ScoredSet(tokens, ()).values(entry.name), tokens
    scored = score_set(model, examples, needs=needs_of([entry.name]), max_new_tokens=max_new_tokens)
    return scored.values(entry.name), None
