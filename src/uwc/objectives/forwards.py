"""The forward passes of one training step, as the loss terms see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.models.forward import token_logprobs


@dataclass(eq=False)
class Pass:
    """One batch through the model: N labelled tokens of B examples.

    Attributes:
        batch: the tokens.
        logits: [N, V] logits that predict them, after temperature scaling where that trick is on.
        states: layer -> [N, d] hidden states that predict them, for the layers asked for.
        weights: [N] weight of each token in losses; 1 unless a trick changed it.
    """

    batch: Batch
    logits: Tensor
    states: Mapping[int, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None

    @cached_property
    def logprobs(self) -> Tensor:
        """[N] float32 log-probabilities of the labelled tokens."""
        return token_logprobs(self.logits, self.batch.targets)

    def total(self, values: Tensor, *, attended: bool = False) -> Tensor:
        """[B] weighted sum of [N] values over each example's answer, or over all labelled tokens."""
        if not attended:
            values = values * self.batch.in_answer
        if self.weights is not None:
            values = values * self.weights
        zeros = torch.zeros(self.batch.size, dtype=values.dtype, device=values.device)
        return zeros.index_add(0, self.batch.rows, values)

    def counts(self) -> Tensor:
        """[B] number of answer tokens of each example, end-of-sequence token included."""
        zeros = torch.zeros(self.batch.size, device=self.logits.device)
        return zeros.index_add(0, self.batch.rows, self.batch.in_answer.float())


class Forwards:
    """What the terms of one step may read; reading what a term did not declare is an error.

    Args:
        passes: role ("forget", "refusal", "retain") -> the trained model's pass.
        references: "ROLE.reference_logprobs" -> [N], "ROLE.reference_logits" -> [N, V],
            "ROLE.reference_states" -> {layer: [N, d]}, of the frozen original model.
    """

    def __init__(self, passes: Mapping[str, Pass], references: Mapping[str, Tensor | Mapping[int, Tensor]]) -> None:
        self._values = {**passes, **references}

    def only(self, needs: tuple[str, ...]) -> "Forwards":
        """A view that holds only what was declared."""
        view = Forwards({}, {})
        view._values = {name: self._values[name] for name in needs}
        return view

    def _get(self, name: str) -> object:
        if name not in self._values:
            raise LookupError(f"the term reads {name!r} but declares only {sorted(self._values)}")
        return self._values[name]

    def pass_of(self, role: str) -> Pass:
        """The trained model's pass over the examples of a role."""
        value = self._get(role)
        if not isinstance(value, Pass):
            raise LookupError(f"{role!r} is not a pass")
        return value

    @property
    def forget(self) -> Pass:
        """The pass over the forget examples."""
        return self.pass_of("forget")

    @property
    def retain(self) -> Pass:
        """The pass over the retain examples."""
        return self.pass_of("retain")

    @property
    def refusal(self) -> Pass:
        """The pass over the forget questions answered with refusals."""
        return self.pass_of("refusal")

    def reference_logprobs(self, role: str) -> Tensor:
        """[N] the original model's log-probabilities of the labelled tokens."""
        value = self._get(f"{role}.reference_logprobs")
        if not isinstance(value, Tensor):
            raise LookupError(f"{role}.reference_logprobs is not a tensor")
        return value

    def reference_logits(self, role: str) -> Tensor:
        """[N, V] the original model's logits."""
        value = self._get(f"{role}.reference_logits")
        if not isinstance(value, Tensor):
            raise LookupError(f"{role}.reference_logits is not a tensor")
        return value

    def reference_states(self, role: str, layer: int) -> Tensor:
        """[N, d] the original model's hidden states after block `layer`."""
        value = self._get(f"{role}.reference_states")
        if isinstance(value, Tensor | Pass) or not isinstance(value, Mapping):
            raise LookupError(f"{role}.reference_states is not a mapping")
        states = value[layer]
        if not isinstance(states, Tensor):
            raise LookupError(f"{role}.reference_states[{layer}] is not a tensor")
        return states
