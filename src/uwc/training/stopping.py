"""Early stopping at a chosen score."""

from collections.abc import Callable
from dataclasses import dataclass

from uwc.models.target import Target


@dataclass(frozen=True)
class StopRule:
    """Ends a run once a score of the model has come down to a bound.

    Attributes:
        measure: the score of the model as it is; may change neither weights nor global random state.
        bound: stop at or below it.
        every: steps between measurements; the run's first is after that many steps.
    """

    measure: Callable[[Target], float]
    bound: float
    every: int = 10

    def due(self, step: int) -> bool:
        """Whether the score is measured after a step."""
        return step % self.every == 0

    def score(self, target: Target) -> float:
        """The score of the model as it is, measured in eval mode."""
        was_training = target.model.training
        target.model.eval()
        score = self.measure(target)
        target.model.train(was_training)
        return score
