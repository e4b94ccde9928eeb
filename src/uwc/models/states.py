"""Hidden states at chosen depths, captured while a model's own forward runs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from uwc.data.batches import Batch, collate, group_by_length
from uwc.data.example import Example
from uwc.errors import ConfigError, ModelError
from uwc.models.budget import DEFAULT_TOKEN_BUDGET
from uwc.models.head import unwrapped
from uwc.models.target import Target


def blocks(model: Any) -> nn.ModuleList:
    """The model's transformer blocks, first to last. Raises ModelError if there is no such list."""
    inner = unwrapped(model)
    depth = inner.config.get_text_config().num_hidden_layers
    for module in inner.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ModelError(f"{type(inner).__name__}: found no list of {depth} transformer blocks; hidden states are needed")


def resolve_layer(model: Any, layer: int | None) -> int:
    """A depth in 1..L, the number of blocks; None is a third of the depth, negative numbers count from the last.

    Raises:
        ConfigError: there is no such block.
    """
    depth = len(blocks(model))
    if layer is None:
        return max(1, round(depth / 3))
    resolved = layer + depth + 1 if layer < 0 else layer
    if not 1 <= resolved <= depth:
        raise ConfigError(
            f"layer = {layer}: the model has {depth} blocks; give 1..{depth}, or -{depth}..-1 from the last"
        )
    return resolved


@contextmanager
def capturing_outputs(
    model: Any, layers: Iterable[int], choose: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[int, Tensor]]:
    """While open, each forward stores the [B, T, d] outputs of some blocks, or what `choose` takes of them.

    Yields a dict: layer k in 1..L -> the output of block k (before the final norm, also for k = L).
    """
    captured: dict[int, Tensor] = {}
    modules = blocks(model)

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            captured[layer] = states if choose is None else choose(states)

        return hook

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(modules[layer - 1].register_forward_hook(hook_of(layer)).remove)
        yield captured


def capturing_states(model: Any, layers: Iterable[int], batch: Batch) -> AbstractContextManager[dict[int, Tensor]]:
    """`capturing_outputs`, of which only the [N, d] states are kept that predict the batch's labelled tokens."""
    return capturing_outputs(model, layers, lambda states: states[batch.rows, batch.positions])


@torch.no_grad()
def answer_states(
    target: Target, examples: Sequence[Example], layers: Sequence[int]
) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
    """Batch by batch the states that predict answer tokens, layer -> [n, d], and the [n] tokens.

    The model runs in eval mode, without its output embedding.
    """
    encoded = target.encode(examples)
    target.model.eval()
    for group in group_by_length([len(e.tokens) for e in encoded], token_budget=DEFAULT_TOKEN_BUDGET):
        batch = collate([encoded[i] for i in group], device=target.device)
        with capturing_states(target.model, layers, batch) as captured:
            unwrapped(target.model).base_model(input_ids=batch.input_ids, use_cache=False)
        yield captured, batch.targets
