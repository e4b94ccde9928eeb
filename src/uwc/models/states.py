"""Hidden states at chosen depths, captured while a model's own forward runs."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from uwc.data.batches import Batch
from uwc.errors import ConfigError, ModelError
from uwc.models.head import unwrapped


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
def capturing_states(model: Any, layers: Iterable[int], batch: Batch) -> Iterator[dict[int, Tensor]]:
    """While open, each forward stores the states that predict the batch's labelled tokens.

    Yields a dict: layer k in 1..L -> [N, d], the output of block k (before the final norm, also for k = L).
    """
    captured: dict[int, Tensor] = {}
    modules = blocks(model)

    def hook_of(layer: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            captured[layer] = states[batch.rows, batch.positions]

        return hook

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(modules[layer - 1].register_forward_hook(hook_of(layer)).remove)
        yield captured
