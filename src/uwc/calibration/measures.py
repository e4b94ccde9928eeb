"""From names to what calibration holds fixed: a metric on one set or several, a utility, benchmarks, functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from uwc.calibration.example_measure import ExampleMeasure, example_metrics, retention_names
from uwc.calibration.frontier import ProbedSet
from uwc.calibration.retention import Kept, Measure, NumberMeasure
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.evaluate import Scoring, evaluate, score_sets
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.suites import Given, is_set_metric, split_input, what_is_missing
from uwc.models.target import Target
from uwc.models.token_scores import Floats
from uwc.registry import unknown_name

Sets = Mapping[str, Sequence[Example]]


def retention_measures(
    retains: Sets,
    retention: Sequence[str | Callable[[Target], float]] = (),
    *,
    metric: str,
    tau: float,
    utility_sets: Sets | None = None,
    max_new_tokens: int = 64,
    early: bool = True,
) -> list[Measure]:
    """What is held fixed, cheap ones first.

    Args:
        retains: name -> the questions on which `metric` is held fixed, each set by itself.
        retention: what else: tasks of lm-evaluation-harness by name, functions from a model to a number.
        metric: one of `retention_names`.
        tau: share of the original's value to keep.
        utility_sets: "real_authors" and "world_facts", for ``model_utility``, which is one number for these and
            `retains`.
        max_new_tokens: the most tokens of a generated answer.
        early: stop scoring a mixture as soon as it is decided.

    Raises:
        ConfigError: a name is unknown, something lacks what it needs, or nothing is held fixed.
        UserError: lm-evaluation-harness is not installed.
    """
    if not 0 < tau <= 1:
        raise ConfigError(f"tau = {tau} must be above 0 and at most 1")
    if metric not in retention_names():
        raise ConfigError(unknown_name("metric to hold fixed", metric, retention_names()))
    measures: list[Measure] = []
    if is_set_metric(metric):
        sets = {**retains, **(utility_sets or {})}
        measures.append(SetMeasure(metric, sets, tau=tau, max_new_tokens=max_new_tokens))
    else:
        measures += [
            ExampleMeasure(examples, metric=metric, tau=tau, name=name, early=early, max_new_tokens=max_new_tokens)
            for name, examples in retains.items()
        ]
    for given in retention:
        if isinstance(given, str):
            from uwc.calibration.harness import HarnessTask

            measures.append(HarnessTask(given, tau=tau))
        else:
            measures.append(NumberMeasure(given, tau=tau, label=getattr(given, "__name__", "a function")))
    if not measures:
        raise ConfigError("calibration needs something to hold fixed; give --retain or --retention-task")
    return measures


def ranking_metrics() -> list[str]:
    """The metrics that models can be ranked by: a mean over examples, from 0 to 1, of which less is more forgotten."""
    return [n for n in example_metrics() if _ranks(metrics.get(n).facts)]


def _ranks(facts: Mapping[str, Any]) -> bool:
    return facts["higher_remembers"] is True and facts["average"] == "arithmetic" and facts["range"] == (0.0, 1.0)


class SetMeasure(NumberMeasure):
    """A metric of whole sets, such as ``model_utility``, with the values by example that it is made of.

    Args:
        metric: its name.
        sets: the sets, by the names that it has for them.
        tau: share of the original's value to keep.
        max_new_tokens: the most tokens of a generated answer.

    Raises:
        ConfigError: it lacks a set or a column.
    """

    def __init__(self, metric: str, sets: Sets, *, tau: float, max_new_tokens: int = 64) -> None:
        given = Given(sets, max_new_tokens=max_new_tokens)
        if lacking := what_is_missing(metric, given):
            raise ConfigError(f"the metric {metric!r} needs {lacking}")
        self.metric, self.sets = metric, sets
        self._scoring = Scoring(given, [metric], intervals=False)
        self._inputs = [split_input(text)[1:] for text in set_metrics.get(metric).facts["needs"]]
        self._latest: list[Floats] = []
        self._values: dict[float, list[Floats]] = {}
        super().__init__(self._evaluated, tau=tau, label=metric)

    def probe(self, target: Target, alpha: float, *, whole: bool) -> Kept:
        """See `Measure.probe`."""
        kept = super().probe(target, alpha, whole=whole)
        self._values.setdefault(alpha, self._latest)
        return kept

    def probed(self, alphas: Sequence[float]) -> dict[str, ProbedSet]:
        """``"SET:METRIC"`` -> the values at mixtures asked before, of the examples that have one on the original."""
        found = {}
        for i, (name, metric) in enumerate(self._inputs):
            scored = np.flatnonzero(~np.isnan(self._values[0.0][i]))
            examples = [self.sets[name][int(e)] for e in scored]
            rows = np.stack([self._values[alpha][i][scored] for alpha in alphas])
            found[f"{name}:{metric}"] = ProbedSet(
                tuple(e.id for e in examples), tuple(e.subject for e in examples), rows
            )
        return found

    def _evaluated(self, target: Target) -> float:
        scored = score_sets(target, self._scoring)
        self._latest = [scored[name].values(metric) for name, metric in self._inputs]
        (score,) = evaluate(scored, self._scoring)
        return score.mean
