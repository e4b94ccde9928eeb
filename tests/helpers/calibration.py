"""Inputs of linear maps, on which the weights of a model are rounded."""

import torch
from tests.helpers.hidden_knowledge import KNOWN, UNKNOWN
from torch import Tensor

from uwc.attacks.data import AttackData
from uwc.models.block_weights import block_matrices
from uwc.models.model import Model

DATA = AttackData(KNOWN[:4], retain=UNKNOWN)


def correlated(tokens: int, inputs: int) -> Tensor:
    """[tokens, inputs] inputs that share a few directions."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(tokens, 6, generator=generator, dtype=torch.float64)
    mixed = common @ torch.randn(6, inputs, generator=generator, dtype=torch.float64)
    return mixed + 0.5 * torch.randn(tokens, inputs, generator=generator, dtype=torch.float64)


def inputs_of_map(model: Model, name: str) -> list[Tensor]:
    """[tokens, inputs] of a linear map for each of the retained data, by a hook."""
    seen: list[Tensor] = []
    hook = model.model.get_submodule(name).register_forward_pre_hook(lambda _m, args: seen.append(args[0][0]))
    with torch.no_grad():
        for example in model.encode(DATA.retain):
            model.model(input_ids=torch.tensor([example.tokens]))
    hook.remove()
    return seen


def rounded_matrices(model: Model, rounded: Model) -> list[tuple[Tensor, Tensor]]:
    """Each matrix of the blocks, of each expert too, before and after rounding, [out, in]; most weights differ."""
    both = zip(block_matrices(model.model), block_matrices(rounded.model), strict=True)
    pairs = [pair for first, second in both for pair in zip(first.matrices, second.matrices, strict=True)]
    assert min(float((before != after).float().mean()) for before, after in pairs) > 0.8
    return pairs
