"""Modules that stand in for a causal language model while its own forward runs, changed in one place."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from uwc.models.head import head_of, replaced_head
from uwc.models.states import blocks, output_states


class Wrapped(nn.Module):
    """A model inside another module, which is scored and generates in its place; its weights are shared."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model
        self.config = model.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.inner.device  # type: ignore[no-any-return]

    @property
    def generation_config(self) -> Any:
        """The model's own settings of generation, which name the tokens that end its turn."""
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
    """A model that is changed while it runs: its own forward and generation, within what `altering` opens."""

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
    """A model that takes the output of one of its blocks for that of the last.

    Whatever the model does after its last block follows: norms, projections, output embedding, soft caps, scaling.

    Args:
        model: the model.
        layer: the block, 1..L.
        head: maps [.., d] states to [.., V] logits in place of the model's output embedding; None keeps that.
    """

    def __init__(self, model: Any, layer: int, head: nn.Module | None = None) -> None:
        super().__init__(model)
        self.layer, self.head = layer, None if head is head_of(model) else head

    def get_output_embeddings(self) -> Any:
        """The map from states to logits that is used."""
        return self.inner.get_output_embeddings() if self.head is None else self.head

    @contextmanager
    def altering(self) -> Iterator[None]:
        """The block's output stands for the last one's, and the head for the model's."""
        with reading_at(self.inner, self.layer), ExitStack() as stack:
            if self.head is not None:
                head, precision = self.head, next(self.head.parameters()).dtype
                stack.enter_context(replaced_head(self.inner, lambda states: head(states.to(precision))))
            yield


class Intervened(Altered):
    """A model whose block outputs are changed while it runs.

    Args:
        model: the model.
        changes: block 1..L -> what its [B, T, d] output becomes.
    """

    def __init__(self, model: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(model)
        self._changes = dict(changes)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """The blocks' outputs are changed."""
        with ExitStack() as stack:
            for layer, change in self._changes.items():
                stack.enter_context(changed_output(self.inner, layer, change))
            yield


@contextmanager
def reading_at(model: Any, layer: int) -> Iterator[None]:
    """While open, the states that block `layer` of 1..L returns stand for those that the last block returns."""
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
    """While open, the states that block `layer` of 1..L returns are changed; what else it returns stays."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        states = change(output_states(output))
        return type(output)([states, *output[1:]]) if isinstance(output, tuple | list) else states

    handle = blocks(model)[layer - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
