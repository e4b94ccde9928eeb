"""Benchmarks of lm-evaluation-harness as retention measures, through its `simple_evaluate`."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import torch

from uwc.calibration.measures import NumberMeasure
from uwc.errors import ConfigError, UserError
from uwc.models.model import Model
from uwc.registry import unknown_name


class HarnessTask(NumberMeasure):
    """A task's score by lm-evaluation-harness, such as the accuracy on ``mmlu``.

    Args:
        task: a task or group of the library, or ``TASK:METRIC``; the task's first metric by default.
        limit: number of questions of each task; all by default.
        batch_size: questions in a batch.

    Raises:
        UserError: the library is not installed.
    """

    def __init__(self, task: str, *, limit: int | None = None, batch_size: int = 8) -> None:
        require_harness()
        self.task, _, self.wanted = task.partition(":")
        self.limit, self.batch_size = limit, batch_size
        super().__init__(self.score, label=task)

    def score(self, model: Model) -> float:
        """The task's score for a model; the metric's direction is that of the library.

        Raises:
            ConfigError: there is no such task or metric.
        """
        evaluate: Any = import_module("lm_eval").simple_evaluate
        wrapper: Any = import_module("lm_eval.models.huggingface").HFLM
        with _own_random_state(), redirect_stdout(StringIO()):
            wrapped = wrapper(pretrained=model.model, tokenizer=model.tokenizer, batch_size=self.batch_size)
            try:
                found = evaluate(
                    model=wrapped, tasks=[self.task], limit=self.limit, bootstrap_iters=0, log_samples=False
                )
            except (KeyError, ValueError) as error:
                raise ConfigError(f"calibrate.tasks: {self.task}: lm-evaluation-harness says {error}") from error
        return self._read(found)

    def _read(self, found: dict[str, Any]) -> float:
        row = found["results"].get(self.task, {})
        scores = {n: float(v) for n, v in row.items() if isinstance(v, int | float) and "_stderr" not in n}
        scores = {n: v for n, v in scores.items() if n != "sample_len"}
        name = next((n for n in scores if not self.wanted or self.wanted in (n, n.split(",")[0])), None)
        if name is None:
            valid = [n.split(",")[0] for n in scores]
            raise ConfigError(unknown_name(f"metric of the task {self.task!r}", self.wanted or "any", valid))
        directions = found.get("higher_is_better", {}).get(self.task, {})
        self.higher = bool(directions.get(name, directions.get(name.split(",")[0], True)))
        self.label = f"{self.task}:{name.split(',')[0]}"
        return scores[name]


def require_harness() -> None:
    """Raise UserError if lm-evaluation-harness is not installed."""
    if find_spec("lm_eval") is None:
        raise UserError("a retention task needs lm-evaluation-harness; install it with: pip install 'uwc[harness]'")


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Restore the global random states afterwards, which the library seeds."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
