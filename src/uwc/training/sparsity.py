"""Weights that are zero: pruning with a mask that is kept, and the soft threshold of l1-sparse unlearning."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from uwc.data.batches import Batch
from uwc.errors import ConfigError
from uwc.models.head import unwrapped
from uwc.models.states import blocks


def linear_weights(model: Any) -> dict[str, Tensor]:
    """Name -> weight matrix of every linear map in the model's blocks.

    Embeddings, output embedding, norms and biases are left out. Raises ConfigError if the model has an adapter, or no
    linear map that is known as one.
    """
    found = {f"{name}.weight": module.weight for name, module in _linear_maps(model).items()}
    if any("lora_" in name for name in found):
        raise ConfigError("pruning and l1 change the weights themselves; they do not go together with lora")
    if not found:
        raise ConfigError(f"pruning and l1 change linear maps, and the blocks of {type(model).__name__} hold none")
    return found


@torch.no_grad()
def soft_threshold(weights: Iterable[Tensor], threshold: float) -> None:
    """Move every weight towards zero in place: ``w <- sign(w) max(|w| - threshold, 0)``.

    The proximal step of ``threshold |w|``, apart from the optimizer: AdamW would turn an l1 gradient into a step of
    constant size that never ends at zero. Source: arXiv:2304.04934 has the l1 term in the loss.
    """
    for weight in weights:
        weight.copy_(nn.functional.softshrink(weight.float(), threshold).to(weight.dtype))


@torch.no_grad()
def magnitude_masks(weights: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Name -> True for the weights kept: all but the floor(share x total) smallest of the whole model.

    Ties are broken by place. Source: arXiv:2304.04934 (global one-shot magnitude pruning).
    """
    sizes = torch.cat([w.detach().abs().float().flatten() for w in weights.values()])
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[torch.argsort(sizes, stable=True)[: int(share * len(sizes))]] = False
    parts = torch.split(kept, [w.numel() for w in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


@torch.no_grad()
def wanda_masks(model: Any, batches: Iterable[Batch], *, share: float) -> dict[str, Tensor]:
    """Name -> True for the weights kept: of each output all but the floor(share x inputs) with the smallest score.

    The score is ``|W_ij| ||X_j||_2``, X_j the j-th input over all tokens of the batches. Source: arXiv:2306.11695.
    """
    maps = _linear_maps(model)
    with _summing_squares(maps) as squares:
        for batch in batches:
            with _only_real_tokens(squares, batch):
                model(input_ids=batch.input_ids, use_cache=False)
    masks = {}
    for name, module in maps.items():
        turned = isinstance(module, Conv1D)  # GPT-2's linear map, which has a column for each output and not a row
        weight = module.weight.T if turned else module.weight
        scores = weight.abs().float() * squares.sums[name].sqrt()
        kept = torch.ones_like(scores, dtype=torch.bool)
        lowest = torch.argsort(scores, dim=1, stable=True)[:, : int(share * scores.shape[1])]
        mask = kept.scatter(1, lowest, False)
        masks[f"{name}.weight"] = mask.T if turned else mask
    return masks


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set the weights that are not kept to zero, in place."""
    for name, mask in masks.items():
        weights[name].mul_(mask.to(weights[name].device))


def _linear_maps(model: Any) -> dict[str, Any]:
    stack = blocks(model)
    prefix = next(name for name, module in unwrapped(model).named_modules() if module is stack)
    return {f"{prefix}.{name}": m for name, m in stack.named_modules() if isinstance(m, nn.Linear | Conv1D)}


class _Squares:
    """Sums of squared inputs of each map, over the tokens that are no padding."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.real: Tensor | None = None

    def hook(self, name: str) -> Any:
        def add(_module: Any, args: tuple[Tensor, ...], _output: Any) -> None:
            inputs = args[0] if self.real is None else args[0][self.real]
            total = inputs.float().square().sum(dim=0)
            self.sums[name] = self.sums[name] + total if name in self.sums else total

        return add


@contextmanager
def _summing_squares(maps: Mapping[str, Any]) -> Iterator[_Squares]:
    squares = _Squares()
    with ExitStack() as stack:
        for name, module in maps.items():
            stack.callback(module.register_forward_hook(squares.hook(name)).remove)
        yield squares


@contextmanager
def _only_real_tokens(squares: _Squares, batch: Batch) -> Iterator[None]:
    """Count the positions up to each example's last labelled token, which has no successor to predict."""
    ends = torch.zeros(batch.size, dtype=torch.long, device=batch.rows.device)
    ends = ends.scatter_reduce(0, batch.rows, batch.positions, "amax")
    squares.real = torch.arange(batch.input_ids.shape[1], device=ends.device)[None, :] <= ends[:, None]
    yield
    squares.real = None
