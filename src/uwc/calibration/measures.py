"""From names to what calibration holds fixed: a metric on one set or several, a utility, benchmarks, functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uwc.calibration.retention import ExampleMeasure, Measure, NumberMeasure, example_metrics, retention_names
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.metrics.suites import is_set_metric
from uwc.models.target import Target
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
        utility_sets: "authors" and "facts", for ``model_utility``, which is one number for these and `retains`.
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
        measures.append(NumberMeasure(_utility(metric, sets, max_new_tokens), tau=tau, label=metric))
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


def _utility(metric: str, sets: Sets, max_new_tokens: int) -> Callable[[Target], float]:
    """A metric of whole sets as a function of a model. Raises ConfigError if it lacks a set or a column."""
    from uwc.metrics.evaluation import Evaluator
    from uwc.metrics.suites import Given, what_is_missing

    given = Given(sets, max_new_tokens=max_new_tokens)
    if lacking := what_is_missing(metric, given):
        raise ConfigError(f"the metric {metric!r} needs {lacking}")
    evaluator = Evaluator(given, [metric])
    return lambda target: float(next(r["mean"] for r in evaluator.evaluate(target).rows if r["metric"] == metric))
