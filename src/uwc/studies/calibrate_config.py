"""The `calibrate:` section of a study: the retention constraint, and what the models are ranked by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, model_validator

from uwc.calibration.measures import Measure, ranking_metric, retention_measures, retention_names
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.set_level import UTILITY_SETS
from uwc.metrics.suites import Given, is_set_metric, what_is_missing
from uwc.registry import unknown_name
from uwc.results import Retention
from uwc.studies.section import MetricName, Section

Sets = Mapping[str, Sequence[Example]]


def task_label(given: str | Callable[..., Any]) -> str:
    """What tables call a task, or a function that measures retention."""
    return given if isinstance(given, str) else str(getattr(given, "__name__", type(given).__name__))


Task = Annotated[str | Callable[[Any], float], PlainSerializer(task_label)]
"""A task of lm-evaluation-harness by name, or a function from a model to a number; written as its label."""

FORGET_SETS = ("forget", "forget_paraphrased")


class CalibrateConfig(Section):
    """Calibration: the largest mixture that keeps the ratio `tau` of every retention measure of the original.

    Attributes:
        tau: the bar: the least ratio to the original's value.
        metric: the metric that is kept on each of `sets`; ``model_utility`` is one number for three sets.
        sets: the benchmark's sets on which it is kept, each by itself; none keeps the `tasks` alone.
        tasks: tasks of lm-evaluation-harness that are kept too: ``mmlu``, ``arc_easy:acc_norm``; in Python also
            functions from a model to a number of which more is better.
        rank_by: the metric of the forget set that models are ranked by; `metric` if it can be, else extraction
            strength.
        scan, resolution: of the search for alpha.
    """

    tau: float = Field(0.95, gt=0, le=1)
    metric: MetricName = "extraction_strength"
    sets: tuple[str, ...] = ("retain",)
    tasks: tuple[Task, ...] = ()
    rank_by: MetricName | None = None
    scan: int = Field(8, ge=1)
    resolution: float = Field(1 / 128, gt=0, lt=1)

    @property
    def ranked_by(self) -> str:
        """The metric that models are ranked by."""
        return ranking_metric(self.metric, self.rank_by)

    @property
    def utility(self) -> bool:
        """Whether the metric is one number for several sets."""
        return is_set_metric(self.metric)

    def measures(self, sets: Sets, *, max_new_tokens: int) -> list[Measure]:
        """The retention measures, on the sets that the study scores."""
        return retention_measures(
            sets, metric=self.metric, keep=self.sets, further=self.tasks, max_new_tokens=max_new_tokens
        )

    def described(self, labels: Mapping[str, str]) -> Retention:
        """The retention constraint for a report; `labels` has what reports call a set."""
        label = str((set_metrics if self.utility else metrics).get(self.metric).facts["label"])
        sets = [label] if self.utility else [f"{labels.get(name, name)} {label}" for name in self.sets]
        known = not self.utility or "of_means" in set_metrics.get(self.metric).facts
        return Retention(
            tau=self.tau,
            measures=(*sets, *map(task_label, self.tasks)),
            without_interval=(*(() if known else sets), *map(task_label, self.tasks)),
            rank_by=self.ranked_by,
        )

    def check(self, sets: Sets, *, benchmark: str, max_new_tokens: int) -> None:
        """Refuse what the study's questions do not allow.

        Args:
            sets: the sets that the study scores.
            benchmark: what messages call the benchmark.
            max_new_tokens: the most tokens of a generated answer.

        Raises:
            ConfigError: a set is missing, or lacks what the metric needs.
            UserError: a task is named, and lm-evaluation-harness is not installed.
        """
        kept = [name for name in sets if name not in FORGET_SETS]
        for name in self.sets:
            if name not in kept:
                raise ConfigError(f"calibrate: {unknown_name('retain set', name, kept)}")
        if self.utility and (missing := [name for name in UTILITY_SETS if name not in sets]):
            raise ConfigError(
                f"calibrate: the metric {self.metric!r} needs the sets {' and '.join(missing)}, which {benchmark} does "
                "not have; take another retention metric, or give them"
            )
        asked = {(self.ranked_by, "forget"): {"forget": sets["forget"]}}
        if self.utility:
            asked[self.metric, "retain"] = {name: sets[name] for name in UTILITY_SETS}
        else:
            asked |= {(self.metric, name): {"forget": sets[name]} for name in self.sets}
        for (metric, name), given in asked.items():
            if lacking := what_is_missing(metric, Given(given, max_new_tokens=max_new_tokens)):
                named = lacking.replace("'forget'", repr(name))
                raise ConfigError(f"calibrate: the metric {metric!r} needs {named}")
        if any(isinstance(task, str) for task in self.tasks):
            from uwc.calibration.harness import require_harness

            require_harness()

    @model_validator(mode="after")
    def _known(self) -> "CalibrateConfig":
        if self.metric not in retention_names():
            raise ConfigError(unknown_name("retention metric", self.metric, retention_names()))
        ranking_metric(self.metric, self.rank_by)
        if not self.sets and not self.tasks:
            raise ConfigError("calibrate: there is no retention constraint; name sets, tasks or both")
        for names, what in ((self.sets, "sets"), (self.tasks, "tasks")):
            if len(set(named := list(map(task_label, names)))) < len(named):
                raise ConfigError(f"calibrate: {what} names one twice: {', '.join(named)}")
        if self.utility and self.sets != ("retain",):
            raise ConfigError(f"calibrate: {self.metric!r} is one number for sets of its own; leave 'sets' out")
        return self
