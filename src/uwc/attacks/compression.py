"""Attacks that only coarsen the weights: small unlearning updates may not survive."""

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from uwc.attacks.attacked import Attacked, with_own_weights
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.models.states import blocks
from uwc.models.target import Target

_WEIGHTS = {
    "kind": "weights", "touches_weights": True, "needs": (), "budgets": False, "check": None, "trains_on_scored": False,
}  # fmt: skip


@attacks.register("quantization", source="arXiv:2410.16454", effort="bits", **_WEIGHTS)
def quantization(
    target: Target,
    _data: AttackData,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=0)] = 128,
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps to few bits (simulated: they keep their dtype).

    Args:
        target: the model.
        bits: 2..8.
        group_size: consecutive inputs of one output that share a scale; 0 is all of them (per channel). A remainder
            makes a group of its own.
    """
    copy = with_own_weights(target)
    with torch.no_grad():
        for weight in _block_weights(copy.model):
            weight.copy_(round_to_nearest(weight, bits=bits, group_size=group_size))
    yield Attacked(copy, effort=bits)


def round_to_nearest(weight: Tensor, *, bits: int, group_size: int) -> Tensor:
    """``s round(w / s)`` with ``s = max |w| / (2^(bits-1) - 1)`` over each group: symmetric round-to-nearest.

    Args:
        weight: [out, in].
        bits: of the signed integers.
        group_size: inputs that share s; 0 is all of them.

    Returns:
        [out, in] in the weight's dtype, computed in float32.
    """
    levels = 2 ** (bits - 1) - 1
    rounded = []
    for part in torch.split(weight.float(), group_size or weight.shape[1], dim=1):
        scale = part.abs().amax(dim=1, keepdim=True) / levels
        rounded.append(torch.where(scale > 0, (part / scale).round() * scale, part))
    return torch.cat(rounded, dim=1).to(weight.dtype)


@attacks.register("pruning", source="arXiv:2304.04934", effort="share", **_WEIGHTS)
def pruning(
    target: Target, _data: AttackData, *, share: Annotated[float, Field(ge=0, lt=1)] = 0.1
) -> Iterator[Attacked]:
    """Set the smallest weights of each of the blocks' linear maps to zero.

    Args:
        target: the model.
        share: of the weights of each matrix, in 0..1.
    """
    copy = with_own_weights(target)
    with torch.no_grad():
        for weight in _block_weights(copy.model):
            count = int(share * weight.numel())
            if count:
                smallest = weight.abs().flatten().topk(count, largest=False).indices
                weight.view(-1)[smallest] = 0.0
    yield Attacked(copy, effort=share)


def _block_weights(model: Any) -> list[Tensor]:
    """The matrices [out, in] of the linear maps inside the transformer blocks."""
    return [m.weight for block in blocks(model) for m in block.modules() if isinstance(m, nn.Linear)]
