"""The forward passes of a micro-batch: several roles at once, and no further than a term reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.errors import ModelError
from uwc.models.batching import Batching
from uwc.models.head import answer_logits, unwrapped
from uwc.models.model import BATCH_COST
from uwc.models.states import blocks, capturing_states
from uwc.objectives.forwards import Pass, target_logprobs
from uwc.objectives.objective import Objective
from uwc.training.seams import Seams
from uwc.training.sharding import is_sharded


def run_passes(
    model: Any,
    objective: Objective,
    batches: Mapping[str, Batch],
    *,
    seams: Seams | None = None,
    sharing: Batching | None = None,
) -> dict[str, Pass]:
    """The trained model's pass for each role, before any trick.

    Roles whose passes end at the same depth go through the model together where that costs less: they are padded to
    the longest, but a forward has costs of its own. In a sharded model they always do: every process must make the
    same number of forwards, and lengths differ.

    Args:
        model: the model, possibly wrapped for data-parallel training.
        objective: says what is read of each role.
        batches: role -> its examples.
        seams: cuts the passes from the graphs of the forwards.
        sharing: which sequences may share a forward; any by default. Those of each role are taken to be such.

    Raises:
        ModelError: a sharded model must read sequences together that it may not.
    """
    passes: dict[str, Pass] = {}
    sharing, sharded = sharing or Batching(), is_sharded(model)
    if sharded and not sharing.share([batch.input_ids.shape[1] for batch in batches.values()]):
        raise ModelError("this model's results depend on what it reads together; train it without sharding (FSDP)")
    for roles in _groups(objective, batches, sharing, together=sharded):
        joint = join([batches[role] for role in roles])
        layers = sorted({layer for role in roles for layer in objective.layers(role)})
        logits, values = run_model(model, joint, layers=layers, logits=bool(objective.reads(roles[0]) - {"states"}))
        outputs: dict[Any, Tensor] = dict(values)
        if logits is not None and any("logits" in objective.reads(role) for role in roles):
            outputs["logits"] = logits
        elif logits is not None:
            outputs["logprobs"] = target_logprobs(logits, joint.targets)
        passes |= _split(objective, roles, batches, outputs if seams is None else seams.cut(outputs))
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


def _groups(
    objective: Objective, batches: Mapping[str, Batch], sharing: Batching, *, together: bool
) -> list[list[str]]:
    """Roles that go through the model together, those with most tokens last, to be gone back through first."""
    groups: list[list[str]] = []
    for deep in (True, False):
        roles = [role for role in batches if bool(objective.reads(role) - {"states"}) == deep]
        apart = sum(batches[role].input_ids.numel() for role in roles)
        width = max((batches[role].input_ids.shape[1] for role in roles), default=0)
        joint = width * sum(batches[role].size for role in roles)
        saved = sum(BATCH_COST.get(batches[role].input_ids.device.type, BATCH_COST["cpu"]) for role in roles[1:])
        cheaper = joint <= apart + saved and sharing.share([batches[role].input_ids.shape[1] for role in roles])
        groups += [roles] if roles and (together or cheaper) else [[role] for role in roles]
    return sorted(groups, key=lambda roles: sum(batches[role].input_ids.numel() for role in roles))


def _split(
    objective: Objective, roles: Sequence[str], batches: Mapping[str, Batch], outputs: Mapping[Any, Tensor]
) -> dict[str, Pass]:
    """Each role's part of what a forward gave for several."""
    sizes = [len(batches[role].rows) for role in roles]
    parts = {name: torch.split(values, sizes) if len(roles) > 1 else (values,) for name, values in outputs.items()}
    passes = {}
    for i, role in enumerate(roles):
        of_role = {name: values[i] for name, values in parts.items()}
        states = {layer: of_role[layer] for layer in objective.layers(role)}
        passes[role] = Pass(batches[role], of_role.get("logits"), states, known_logprobs=of_role.get("logprobs"))
    return passes


class _Reached(Exception):
    """The deepest layer that anyone reads has run."""


def _stop(_module: Any, _args: Any, _output: Any) -> None:
    raise _Reached
