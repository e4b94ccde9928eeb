"""Wrappers of a causal language model whose own forward runs with one change."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from uwc.models.head import head_of, replaced_head
from uwc.models.states import blocks, output_states


class Wrapped(nn.Module):
    """A module that wraps a model and is scored and generates in its place; weights are shared."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.inner.device  # type: ignore[no-any-return]

    @property
    def generation_config(self) -> Any:
        """The model's generation configuration, with the tokens that end its turn."""
        return self.inner.generation_config

    @property
    def dtype(self) -> torch.dtype:
        """The weights' precision."""
        return self.inner.dtype  # type: ignore[no-any-return]

    def get_output_embeddings(self) -> Any:
        """The map from states to logits."""
        return self.inner.get_output_embeddings()

    def get_input_embeddings(self) -> Any:
        """The map from tokens to embeddings."""
        return self.inner.get_input_embeddings()

    def get_decoder(self) -> Any:
        """The text model without its output embedding."""
        return self.inner.get_decoder()


class Altered(Wrapped, ABC):
    """A model whose forward and generation run inside the context `altering`."""

    @abstractmethod
    def altering(self) -> AbstractContextManager[None]:
        """While open, the inner model is changed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward, changed."""
        with self.altering():
            return self.inner(*args, **kwargs)

    def generate(self, **kwargs: Any) -> Any:
        """The model's generation, changed."""
        with self.altering():
            return self.inner.generate(**kwargs)


class ReadAt(Altered):
    """A model with the output of one of its blocks in place of the last one's.

    The steps after the last block follow: norms, projections, output embedding, soft caps, scaling.

    Args:
        model: the model.
        layer: the block, 1..L.
        head: maps [.., d] states to [.., V] logits in place of the model's output embedding, if given.
    """

    def __init__(self, model: Any, layer: int, head: nn.Module | None = None) -> None:
        super().__init__(model)
        self.layer, self.head = layer, None if head is head_of(model) else head

    def get_output_embeddings(self) -> Any:
        """The map from states to logits."""
        return self.inner.get_output_embeddings() if self.head is None else self.head

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Replace the last block's output, and the output embedding."""
        with reading_at(self.inner, self.layer), ExitStack() as stack:
            if self.head is not None:
                head, precision = self.head, next(self.head.parameters()).dtype
                stack.enter_context(replaced_head(self.inner, lambda states: head(states.to(precision))))
            yield


class Intervened(Altered):
    """A model whose block outputs are changed while it runs.

    Args:
        model: the model.
        changes: block 1..L -> function of its [B, T, d] output.
    """

    def __init__(self, model: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(model)
        self._changes = dict(changes)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Change the blocks' outputs."""
        with ExitStack() as stack:
            for layer, change in self._changes.items():
                stack.enter_context(changed_output(self.inner, layer, change))
            yield


@contextmanager
def reading_at(model: Any, layer: int) -> Iterator[None]:
    """While open, the last block returns the states of block `layer` of 1..L."""
    read: list[Tensor] = []
    modules = blocks(model)

    def keep(_module: Any, _args: Any, output: Any) -> None:
        read[:] = [output_states(output)]

    with ExitStack() as stack:
        if layer < len(modules):
            stack.callback(modules[layer - 1].register_forward_hook(keep).remove)
            stack.enter_context(changed_output(model, len(modules), lambda _last: read[0]))
        yield


@contextmanager
def changed_output(model: Any, layer: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the states that block `layer` of 1..L returns are changed; its other outputs are not."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        states = change(output_states(output))
        return type(output)([states, *output[1:]]) if isinstance(output, tuple | list) else states

    handle = blocks(model)[layer - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
