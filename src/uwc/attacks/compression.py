"""Attacks by compression of the weights, which small unlearning updates may not survive."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from uwc.attacks.chain import Attacked, with_own_weights
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attacks
from uwc.models.model import Model

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHTS = {
    "kind": "weights",
    "touches_weights": True,
    "needs": (),
    "budgets": False,
    "check": None,
    "trains_on_scored": False,
}


@attacks.register("quantization", source="arXiv:2410.16454", effort="bits", **_WEIGHTS)
def quantization(
    model: Model,
    _data: AttackData,
    *,
    bits: Annotated[int, Field(ge=2, le=8)] = 4,
    group_size: Annotated[int, Field(ge=0)] = 128,
) -> Iterator[Attacked]:
    """Round the weights of the blocks' linear maps to few bits (simulated: they keep their dtype).

    Args:
        model: the model.
        bits: 2..8.
        group_size: consecutive inputs of one output that share a scale; 0 is all of them (per channel). A remainder
            is a further group.
    """
    yield _rewritten(model, lambda w: round_to_nearest(w, bits=bits, group_size=group_size), effort=bits)


def round_to_nearest(weight: "Tensor", *, bits: int, group_size: int) -> "Tensor":
    """``s round(w / s)`` with ``s = max |w| / (2^(bits-1) - 1)`` over each group: symmetric round-to-nearest.

    Args:
        weight: [out, in].
        bits: of the signed integers.
        group_size: inputs that share s; 0 is all of them.

    Returns:
        [out, in] in the weight's dtype, computed in float32.
    """
    import torch

    levels = 2 ** (bits - 1) - 1
    rounded = []
    for part in torch.split(weight.float(), group_size or weight.shape[1], dim=1):
        scale = part.abs().amax(dim=1, keepdim=True) / levels
        rounded.append(torch.where(scale > 0, (part / scale).round() * scale, part))
    return torch.cat(rounded, dim=1).to(weight.dtype)


@attacks.register("pruning", source="arXiv:2304.04934", effort="share", **_WEIGHTS)
def pruning(model: Model, _data: AttackData, *, share: Annotated[float, Field(ge=0, lt=1)] = 0.1) -> Iterator[Attacked]:
    """Set the smallest weights of each of the blocks' linear maps to zero.

    Args:
        model: the model.
        share: of the weights of each matrix, in 0..1.
    """

    def without_smallest(weight: "Tensor") -> "Tensor":
        count = int(share * weight.numel())
        smallest = weight.abs().flatten().topk(count, largest=False).indices
        return weight.flatten().index_fill(0, smallest, 0.0).view(weight.shape)

    yield _rewritten(model, without_smallest, effort=share)


def _rewritten(model: Model, rule: "Callable[[Tensor], Tensor]", *, effort: float) -> Attacked:
    """A copy of the model with a function from [out, in] to [out, in] applied to each matrix of its blocks."""
    import torch

    from uwc.models.block_weights import block_matrices

    copy, claimed = with_own_weights(model), {}
    with torch.no_grad():
        for matrix in block_matrices(copy.model):
            claimed[matrix.name] = 0
            for weight in matrix.matrices:
                wanted = rule(weight)
                claimed[matrix.name] += int((wanted != weight).sum())
                weight.copy_(wanted)
    return Attacked(copy, effort=effort, claimed=claimed)
