"""The frozen original model that some terms compare with."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from uwc.data.batches import Batch, collate, group_by_length
from uwc.data.prompts import EncodedExample
from uwc.models.forward import DEFAULT_TOKEN_BUDGET, answer_logits
from uwc.models.states import capturing_states
from uwc.models.target import Target
from uwc.objectives.forwards import Pass
from uwc.objectives.objective import Objective


class Reference:
    """What the terms need of the model as it was before training.

    Log-probabilities of fixed answers are computed once, here; a frozen copy of the weights is kept only if a term
    needs its logits or states at every step.

    Args:
        target: the model before training.
        objective: says what is needed.
        encoded: role -> the examples whose log-probabilities may be asked for.
    """

    def __init__(self, target: Target, objective: Objective, encoded: Mapping[str, Sequence[EncodedExample]]) -> None:
        self._objective = objective
        self._model = (
            copy.deepcopy(target.model).requires_grad_(False).eval() if objective.needs_reference_model else None
        )
        self._logprobs = {
            role: _logprobs_of(target, objective, role, examples)
            for role, examples in encoded.items()
            if f"{role}.reference_logprobs" in objective.needs
        }

    @torch.no_grad()
    def values(self, role: str, indices: Sequence[int], batch: Batch) -> dict[str, Tensor | Mapping[int, Tensor]]:
        """The reference values of a micro-batch, by the names that terms declare.

        Args:
            role: the batch's role.
            indices: its examples' places in the role's set.
            batch: the micro-batch.
        """
        values: dict[str, Tensor | Mapping[int, Tensor]] = {}
        if role in self._logprobs:
            values[f"{role}.reference_logprobs"] = torch.cat([self._logprobs[role][i] for i in indices])
        wanted = {f"{role}.reference_logits", f"{role}.reference_states"} & self._objective.needs
        if wanted and self._model is not None:
            with capturing_states(self._model, self._objective.layers(role), batch) as states:
                logits = answer_logits(self._model, batch)
            values |= {f"{role}.reference_logits": logits, f"{role}.reference_states": states}
        return values


@torch.no_grad()
def _logprobs_of(target: Target, objective: Objective, role: str, encoded: Sequence[EncodedExample]) -> list[Tensor]:
    """For each example the [n] log-probabilities of its labelled tokens, at the temperature of training."""
    result: list[Tensor] = [torch.empty(0)] * len(encoded)
    target.model.eval()
    for group in group_by_length([len(e.tokens) for e in encoded], token_budget=DEFAULT_TOKEN_BUDGET):
        batch = collate([encoded[i] for i in group], device=target.device, scope=objective.scope(role))
        logprobs = objective.apply_tricks(role, Pass(batch, answer_logits(target.model, batch))).logprobs
        sizes = torch.bincount(batch.rows, minlength=batch.size).tolist()
        for index, values in zip(group, torch.split(logprobs, sizes), strict=True):
            result[index] = values
    return result
