"""The `calibrate:` section of a study: what is held fixed, how much of it, and what the models are ranked by."""

from typing import Any

from pydantic import Field, model_validator

from uwc.calibration.example_measure import retention_names
from uwc.calibration.measures import ranking_metrics
from uwc.errors import ConfigError
from uwc.metrics.suites import is_set_metric
from uwc.registry import unknown_name
from uwc.studies.section import MetricName, Section


def ranking_metric(metric: str, rank_by: str | None = None) -> str:
    """What models are ranked by: what is asked for, else the metric held fixed if it can be, else ES."""
    return rank_by or (metric if metric in ranking_metrics() else "extraction_strength")


class CalibrateConfig(Section):
    """Calibration: the largest mixture that keeps the share `tau` of all that the original has of what is held fixed.

    Attributes:
        tau: the share that is kept.
        metric: the metric held fixed on each of `sets`; ``model_utility`` is one number for three sets.
        sets: the benchmark's sets on which it is held fixed, each by itself; none holds the `tasks` alone.
        tasks: tasks of lm-evaluation-harness that are held fixed too: ``mmlu``, ``arc_easy:acc_norm``.
        rank_by: the metric of the forget set that models are ranked by; `metric` if it can be, else extraction
            strength.
        scan, resolution: of the search for alpha.
    """

    tau: float = Field(0.95, gt=0, le=1)
    metric: MetricName = "extraction_strength"
    sets: tuple[str, ...] = ("retain",)
    tasks: tuple[str, ...] = ()
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

    @property
    def plain(self) -> bool:
        """Whether one metric on one set is held fixed, and models are ranked by the same metric."""
        return len(self.sets) == 1 and not self.tasks and self.metric == self.ranked_by

    def settings(self) -> dict[str, Any]:
        """What decides a calibration's numbers; what is as it always was before there was a choice is left out."""
        given = self.model_dump(exclude={"sets", "tasks", "rank_by"})
        chosen = {"sets": list(self.sets), "tasks": list(self.tasks), "rank_by": self.ranked_by}
        return given if self.plain and self.sets == ("retain",) else given | chosen

    @model_validator(mode="after")
    def _known(self) -> "CalibrateConfig":
        if self.metric not in retention_names():
            raise ConfigError(unknown_name("metric to hold fixed", self.metric, retention_names()))
        if self.rank_by is not None and self.rank_by not in ranking_metrics():
            raise ConfigError(unknown_name("metric to rank by", self.rank_by, ranking_metrics()))
        if not self.sets and not self.tasks:
            raise ConfigError("calibrate: nothing is held fixed; name sets, tasks or both")
        for names, what in ((self.sets, "sets"), (self.tasks, "tasks")):
            if len(set(names)) < len(names):
                raise ConfigError(f"calibrate: {what} names one twice: {', '.join(names)}")
        if self.utility and self.sets != ("retain",):
            raise ConfigError(f"calibrate: {self.metric!r} is one number for sets of its own; leave 'sets' out")
        return self
