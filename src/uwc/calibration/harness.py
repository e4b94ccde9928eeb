"""Tasks of lm-evaluation-harness as retention measures."""

import math

import numpy as np

from uwc.calibration.measures import NumberMeasure
from uwc.calibration.probed import Measured, ProbedSet
from uwc.metrics.harness import evaluate_task
from uwc.metrics.tasks import Task, TaskScore
from uwc.models.model import Model


class HarnessTask(NumberMeasure):
    """A task's score by lm-evaluation-harness, such as the accuracy on ``mmlu``, in the library's direction.

    Where the score is a function of means of values by question, these are kept, so that the ratio to the original is
    bootstrapped over questions. Otherwise the library's standard error is kept, if it has one.

    Args:
        task: the task, of `find_tasks`.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._scores: list[TaskScore] = []
        super().__init__(self.score, label=task.label)

    def score(self, model: Model) -> float:
        """The task's score for a model. Raises ConfigError if the task cannot be carried out with it."""
        found = evaluate_task(self.task, model)
        self._scores.append(found)
        self.label, self.higher = found.label, found.higher
        return found.value

    def measured(self) -> Measured:
        """See `Measure.measured`."""
        by_alpha = dict(sorted(zip(self._values, self._scores, strict=True), key=lambda pair: pair[0]))
        scores, alphas = list(by_alpha.values()), np.array(list(by_alpha))
        first = scores[0]
        if all(s.average == first.average and s.inputs for s in scores):
            inputs = [
                ProbedSet(
                    of.name,
                    of.metric,
                    alphas,
                    of.ids,
                    ("",) * len(of.ids),
                    np.stack([s.inputs[k].array for s in scores]),
                )
                for k, of in enumerate(first.inputs)
            ]
            shown = (first.task, first.metric_name)
            return Measured.of(self.label, inputs, higher=self.higher, average=first.average, shown=shown)
        errors = np.array([math.nan if s.se is None else s.se for s in scores])
        values = np.array([s.value for s in scores])
        return Measured(self.label, self.higher, alphas, values, errors=errors, questions=first.questions)
