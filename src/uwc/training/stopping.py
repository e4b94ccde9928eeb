"""Early stopping at a chosen score."""

from collections.abc import Callable
from dataclasses import dataclass

from uwc.errors import ConfigError
from uwc.models.model import Target
from uwc.training.settings import TrainingSettings


def stops_early(settings: TrainingSettings) -> bool:
    """Whether a score on the way says anything: not where weights learn what is taken out of them at the end."""
    return settings.negate is None and settings.contrast is None and settings.mini is None


def check_stop(settings: TrainingSettings, *, where: str) -> None:
    """Raise ConfigError if a run with these settings cannot be stopped early."""
    if not stops_early(settings):
        raise ConfigError(
            f"{where}: this method forgets once, after its last step, so that no score on the way can end it; leave "
            "early stopping out, and choose epochs or strength instead"
        )


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
