"""What a method's rule does at the points of a run."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from torch import Tensor

from uwc.data.batches import Batch
from uwc.training.data import TrainingData

Side = Literal["forget", "retain"]
Batches = Mapping[str, Batch]
"""Role -> its examples in a micro-batch."""

Change = Callable[[Batches, Callable[[Batches], Tensor]], Batches]
"""Changed batches, from the given ones and the loss of any batches of these roles, a scalar with gradients."""


class AddGradients(Protocol):
    """Adds the gradients of a step to those of the weights; returns the mean loss of each term, by label."""

    def __call__(self, side: Side | None = None, change: Change | None = None) -> dict[str, float]:
        """Add those of the terms of one side, or of all with None; `change` is applied to their batches first."""


class RuleActions:
    """A rule's actions at the points of a run; those of this class do nothing.

    Attributes:
        state: name -> what must be in a checkpoint for a run to resume.
    """

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def begin(self, data: TrainingData, *, state: Mapping[str, Tensor] | None) -> None:
        """Act before the first step; `state` is that of a checkpoint, if the run is resumed."""

    def accumulate(self, add: AddGradients) -> dict[str, float]:
        """Make the gradients of a step; returns the mean loss of each term, by label."""
        return add()

    def before_step(self) -> None:
        """Act before a step of the optimizer."""

    def after_step(self, lr: float, *, progress: float) -> None:
        """Act after a step of the optimizer with learning rate `lr`, at `progress` in 0..1 of the run."""

    def finish(self) -> None:
        """Act on the weights after the last step."""


def trained(model: Any) -> dict[str, Tensor]:
    """Name -> each parameter that is trained."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
