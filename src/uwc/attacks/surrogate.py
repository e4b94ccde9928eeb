"""Wrappers of a causal language model whose own forward runs with one change."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from uwc.errors import ModelError
from uwc.models.contrast import ContrastModel
from uwc.models.head import head_of, replaced_head, unwrapped
from uwc.models.placement import device_of
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
        return device_of(self.inner)

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
        self.changes = dict(changes)

    @contextmanager
    def altering(self) -> Iterator[None]:
        """Change the blocks' outputs."""
        with ExitStack() as stack:
            for layer, change in self.changes.items():
                stack.enter_context(changed_output(self.inner, layer, change))
            yield


class SoftPrompted(Wrapped):
    """A model with [k, d] embeddings before the first token of every input, after left padding.

    The model's own forward and generation run on k more tokens, whose embeddings are replaced in the output of the
    embedding module, and whose states are removed from the input of the output embedding.

    Args:
        model: the model.
        prompt: the embeddings, in the scale of the embedding module's output.
        tokens: [k] ids of the further tokens, for models that read ids besides embeddings.
    """

    def __init__(self, model: Any, prompt: Tensor, tokens: Tensor) -> None:
        super().__init__(model)
        self.prompt = nn.Parameter(prompt)
        self.tokens = tokens

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
        """Logits of the [B, T] tokens alone."""
        ids, mask, places = self._lengthened(input_ids, attention_mask)
        own = torch.ones_like(ids, dtype=torch.bool).scatter(1, places, False)

        def leave_out(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][own].view(*input_ids.shape, -1), *args[1:])

        given = {} if mask is None else {"attention_mask": mask}
        handle = head_of(self.inner).register_forward_pre_hook(leave_out, prepend=True)
        try:
            with self._embedding(places, ids.shape[1]):
                return self.inner(input_ids=ids, **given, **options)
        finally:
            handle.remove()

    def generate(self, *, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """[B, T + new] the model's continuations, generated from the longer input."""
        ids, mask, places = self._lengthened(input_ids, attention_mask)
        with self._embedding(places, ids.shape[1]):
            output = self.inner.generate(input_ids=ids, attention_mask=mask, **options)
        return torch.cat([input_ids, output[:, ids.shape[1] :]], dim=1)

    def _lengthened(self, ids: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """The [B, k + T] ids and mask with the prompt's tokens after the padding, and their [B, k] positions."""
        size, count = len(ids), len(self.tokens)
        padding = torch.zeros(size, device=ids.device).long() if mask is None else mask.long().argmax(dim=1)
        places = padding[:, None] + torch.arange(count, device=ids.device)
        own = torch.ones(size, count + ids.shape[1], dtype=torch.bool, device=ids.device).scatter(1, places, False)
        longer = torch.empty_like(own, dtype=ids.dtype).scatter(1, places, self.tokens.expand(size, -1))
        longer[own] = ids.flatten()
        if mask is None:
            return longer, None, places
        longer_mask = torch.ones_like(own, dtype=mask.dtype)
        longer_mask[own] = mask.flatten()
        return longer, longer_mask, places

    @contextmanager
    def _embedding(self, places: Tensor, length: int) -> Iterator[None]:
        """While open, the embedding module returns the prompt at these positions of inputs of `length` tokens."""

        def replace_rows(_module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if output.shape[1] < length:
                return output  # a later step of generation, from the cache
            rows = self.prompt.to(output.dtype).expand(len(places), -1, -1)
            return output.scatter(1, places[..., None].expand_as(rows), rows)

        handle = self.inner.get_input_embeddings().register_forward_hook(replace_rows)
        try:
            yield
        finally:
            handle.remove()


def require_one_model(model: Any) -> None:
    """Raise ModelError for a contrast of two models, which generates greedily only."""
    if isinstance(unwrapped(model), ContrastModel):
        raise ModelError("a contrast of two models generates greedily only; take its base or its reinforced model")


class DecodedBy(Wrapped):
    """A model that generates with fixed settings; its forward is unchanged.

    Args:
        model: the model.
        settings: fields of transformers' GenerationConfig.
        seed: of the draws; global random state is neither read nor changed.

    Raises:
        ModelError: the model is a contrast of two, which generates greedily only.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], *, seed: int = 0) -> None:
        require_one_model(model)
        super().__init__(model)
        self._settings = dict(settings)
        self._seed = seed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        return self.inner(*args, **kwargs)

    def generate(self, *, generation_config: Any, **kwargs: Any) -> Any:
        """The model's generation, with these settings."""
        config = copy.deepcopy(generation_config)
        config.update(**self._settings)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed)
            return self.inner.generate(generation_config=config, **kwargs)


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
