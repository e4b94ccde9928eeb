"""The forward passes of a micro-batch: several roles at once, and no further than a term reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.models.forward import answer_logits, unwrapped
from uwc.models.states import blocks, capturing_states
from uwc.objectives.forwards import Pass
from uwc.objectives.logprobs import target_logprobs
from uwc.objectives.objective import Objective
from uwc.training.sharding import is_sharded

MOST_PADDING = 1.25
"""Roles share a forward if that pads them to at most this many times the tokens of separate ones."""


def run_passes(model: Any, objective: Objective, batches: Mapping[str, Batch]) -> dict[str, Pass]:
    """The trained model's pass for each role, before any trick.

    Roles go through the model together where their lengths are alike and their passes end at the same depth. In a
    sharded model they always do: every process must make the same number of forwards, and lengths differ.

    Args:
        model: the model, possibly wrapped for data-parallel training.
        objective: says what is read of each role.
        batches: role -> its examples.
    """
    passes: dict[str, Pass] = {}
    for roles in _groups(objective, batches, together=is_sharded(model)):
        joint = join([batches[role] for role in roles])
        layers = sorted({layer for role in roles for layer in objective.layers(role)})
        needs_logits = bool(objective.reads(roles[0]) - {"states"})
        logits, states = run_model(model, joint, layers=layers, logits=needs_logits)
        passes |= _split(objective, roles, batches, joint, logits, states)
    return {role: passes[role] for role in batches}


def run_model(
    model: Any, batch: Batch, *, layers: Sequence[int], logits: bool
) -> tuple[Tensor | None, dict[int, Tensor]]:
    """One forward: the logits [N, V] that predict the labelled tokens, if asked for, and the states [N, d] by layer.

    Without logits the forward ends after the deepest layer asked for.
    """
    if logits:
        with capturing_states(model, layers, batch) as states:
            return answer_logits(model, batch), states
    with capturing_states(model, layers, batch) as states:
        if unwrapped(model) is model and not is_sharded(model):
            handle = blocks(model)[max(layers) - 1].register_forward_hook(_stop)
            try:
                model(input_ids=batch.input_ids, use_cache=False)
            except _Reached:
                pass
            finally:
                handle.remove()
            return None, states
        # in parallel, the gradient of every weight that the output depends on is waited for: add a zero
        nothing = answer_logits(model, batch)[:0].sum()
        return None, {layer: values + nothing for layer, values in states.items()}


def join(batches: Sequence[Batch]) -> Batch:
    """The examples of several batches in one, padded to the longest; labelled tokens stay in order."""
    if len(batches) == 1:
        return batches[0]
    width = max(b.input_ids.shape[1] for b in batches)
    starts = torch.tensor([0, *[b.size for b in batches[:-1]]]).cumsum(0).tolist()
    padded = [torch.nn.functional.pad(b.input_ids, (0, width - b.input_ids.shape[1])) for b in batches]
    return Batch(
        input_ids=torch.cat(padded),
        rows=torch.cat([b.rows + start for b, start in zip(batches, starts, strict=True)]),
        positions=torch.cat([b.positions for b in batches]),
        targets=torch.cat([b.targets for b in batches]),
        in_answer=torch.cat([b.in_answer for b in batches]),
    )


def _groups(objective: Objective, batches: Mapping[str, Batch], *, together: bool) -> list[list[str]]:
    """Roles that go through the model together: those that read logits, and those that read states alone."""
    groups: list[list[str]] = []
    for deep in (True, False):
        roles = [role for role in batches if bool(objective.reads(role) - {"states"}) == deep]
        apart = sum(batches[role].input_ids.numel() for role in roles)
        width = max((batches[role].input_ids.shape[1] for role in roles), default=0)
        joint = width * sum(batches[role].size for role in roles)
        fits = together or joint <= MOST_PADDING * apart
        groups += [roles] if roles and fits else [[role] for role in roles]
    return groups


def _split(
    objective: Objective, roles: Sequence[str], batches: Mapping[str, Batch], joint: Batch,
    logits: Tensor | None, states: Mapping[int, Tensor],
) -> dict[str, Pass]:  # fmt: skip
    sizes = [len(batches[role].rows) for role in roles]
    by_role = {layer: torch.split(values, sizes) for layer, values in states.items()}
    keep_logits = [bool({"logits"} & objective.reads(role)) for role in roles]
    logit_parts: Sequence[Tensor | None] = [None] * len(roles)
    logprob_parts: Sequence[Tensor | None] = [None] * len(roles)
    if logits is not None and any(keep_logits):
        logit_parts = torch.split(logits, sizes)
    elif logits is not None:
        logprob_parts = torch.split(target_logprobs(logits, joint.targets), sizes)
    passes = {}
    for i, role in enumerate(roles):
        wanted = {layer: parts[i] for layer, parts in by_role.items() if layer in objective.layers(role)}
        passes[role] = Pass(batches[role], logit_parts[i], wanted, known_logprobs=logprob_parts[i])
    return passes


class _Reached(Exception):
    """The deepest layer that anyone reads has run."""


def _stop(_module: Any, _args: Any, _output: Any) -> None:
    raise _Reached
