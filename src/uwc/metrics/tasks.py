"""Tasks of lm-evaluation-harness and their scores, with intervals; nothing here reads the library."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from uwc.io import NOT_IN_KEY, write_text
from uwc.metrics.stats import Average, aggregate, aggregate_combined, paired_difference
from uwc.models.token_scores import Floats
from uwc.results import Aggregate, MetricInfo, Number, Part, Score, ScoreDifference, SetInfo

PREFIX = "lm_eval_"
"""Begins the names of its metrics in results, as some are called as ours and defined otherwise."""
FILE = "tasks.json"
"""The scores of a model's tasks, in the folder of its scores."""
NORMAL = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


@dataclass(frozen=True)
class HarnessSettings:
    """Settings of all tasks.

    Attributes:
        include_path: a folder with YAML files of further tasks; these take precedence.
        limit: the first questions of each task; all by default.
        num_fewshot: the number of solved questions in the prompt; that of the task by default.
        seed: of their choice, and of sampling.
        chat: whether the chat template is applied; by default as to the model's other prompts.
        batch_size: questions in a batch.
    """

    include_path: str | None = field(default=None, metadata=NOT_IN_KEY)
    limit: int | None = None
    num_fewshot: int | None = None
    seed: int = 1234
    chat: bool | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class Task:
    """A task or group of tasks with a metric.

    Attributes:
        name: its name in the library.
        metric: the metric, or metric and filter as ``exact_match,strict-match``; the first one if empty.
        definition: SHA-256 of its configuration, questions, solved questions and code, and of the library's version.
        settings: the settings.
        questions: the number of its questions.
        loaded: the library's objects.
    """

    name: str
    metric: str
    definition: str
    settings: HarnessSettings
    questions: int = field(default=0, metadata=NOT_IN_KEY)
    loaded: Any = field(default=None, compare=False, repr=False, metadata=NOT_IN_KEY)

    @property
    def label(self) -> str:
        """``mmlu`` or ``mmlu:acc_norm``."""
        return f"{self.name}:{self.metric}" if self.metric else self.name

    @property
    def info(self) -> SetInfo:
        """The description of its questions in results."""
        return SetInfo(label=self.name, examples=self.questions, sha256=self.definition)


class TaskInput(Part):
    """Values by question that a task's score is computed from."""

    name: str
    """The task; of a group the group or, if its tasks have equal weights, one of them."""
    metric: str
    ids: tuple[str, ...]
    values: tuple[Number, ...]

    @property
    def array(self) -> Floats:
        """[E] the values."""
        return np.array(self.values, dtype=np.float64)


class TaskScore(Part):
    """The score of a model on a task."""

    task: str
    metric: str
    """The metric's name in the library, with its filter if that has a name."""
    value: Number
    higher: bool
    """Whether a high value is good."""
    questions: int
    chat: bool
    """Whether the chat template was applied."""
    library: str
    """The library's version."""
    average: str = ""
    """``arithmetic`` or ``geometric``, of one input, or one of `COMBINATIONS`; empty without values by question."""
    inputs: tuple[TaskInput, ...] = ()
    se: float | None = None
    """The library's standard error, where there are no values by question; null if it has none."""

    @property
    def label(self) -> str:
        """``mmlu:acc``."""
        return f"{self.task}:{self.metric}"

    @property
    def metric_name(self) -> str:
        """The metric's name in results."""
        return PREFIX + re.sub(r"[^A-Za-z0-9.@-]+", "_", self.metric)

    @property
    def info(self) -> MetricInfo:
        """The description of the metric in results."""
        low, high = (0.0, 1.0) if self.metric.startswith(("acc", "exact_match")) else (-math.inf, math.inf)
        return MetricInfo(
            label=f"{self.metric} (lm-eval)",
            summary=f"{self.metric} of lm-evaluation-harness; {'high' if self.higher else 'low'} is good.",
            source=f"lm-evaluation-harness {self.library}",
            higher_remembers=None,
            range=(low, high),
            average=self._average or "set",
        )

    @property
    def _average(self) -> Average | None:
        """The average over the questions of one input; None if the score is not such an average."""
        averages: dict[str, Average] = {"arithmetic": "arithmetic", "geometric": "geometric"}
        return averages.get(self.average)

    def aggregate(self, *, seed: int = 0) -> Aggregate:
        """The score with its standard error and interval: by the bootstrap over questions where there are values by
        question, else the normal one of the library's standard error, if it has one."""
        if not self.inputs:
            se = math.nan if self.se is None else self.se
            ends = {"low": self.value - NORMAL * se, "high": self.value + NORMAL * se}
            return Aggregate(mean=self.value, n=self.questions, clusters=self.questions, se=se, **ends)
        rows = [i.array for i in self.inputs]
        if self._average is not None:
            return aggregate(rows[0], [""] * len(rows[0]), average=self._average, seed=seed)
        return aggregate_combined(self.average, rows, [i.name for i in self.inputs], seed=seed)

    def score(self, *, seed: int = 0) -> Score:
        """The score in results: a set of its own, with the metric."""
        found = self.aggregate(seed=seed)
        why = {"the task has no value for them": found.not_scored} if found.not_scored else {}
        return Score(set=self.task, metric=self.metric_name, why=why, **found.model_dump())

    def difference(self, other: "TaskScore", *, seed: int = 0) -> ScoreDifference | None:
        """The paired difference of another model's score from this one; None without values by question."""
        if self._average is None or other.average != self.average:
            return None
        first, second = self.inputs[0], other.inputs[0]
        subjects = [""] * len(first.ids)
        found = paired_difference(first.array, second.array, subjects, average=self._average, seed=seed)
        return ScoreDifference(set=self.task, metric=self.metric_name, **found.model_dump())


def task_differences(first: Sequence[TaskScore], second: Sequence[TaskScore], seed: int) -> list[ScoreDifference]:
    """The paired differences of the second model from the first, of the tasks that have values by question."""
    pairs = zip(first, second, strict=True) if first else ()
    return [d for one, other in pairs if (d := one.difference(other, seed=seed)) is not None]


def save_tasks(scores: Sequence[TaskScore], folder: Path) -> None:
    """Write ``tasks.json``, with the values by question."""
    write_text(folder / FILE, _FILE.dump_json(list(scores)).decode() + "\n")


def load_tasks(folder: Path) -> list[TaskScore]:
    """Read the file of `save_tasks`; empty if there is none."""
    path = folder / FILE
    return _FILE.validate_json(path.read_bytes()) if path.exists() else []


_FILE: TypeAdapter[list[TaskScore]] = TypeAdapter(list[TaskScore])
