"""Modules that stand in for a causal language model and read it, or feed it, in another place."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutput

from uwc.models.head import unwrapped
from uwc.models.states import blocks, capturing_outputs


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


class Surrogate(Wrapped, ABC):
    """A model whose logits are ``head(states(tokens))``: subclasses say where the [B, T, d] states come from."""

    @abstractmethod
    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """[B, T, d] the states that the head reads; `cache` holds what was read before, which the mask covers too."""

    def body(self, inputs: Mapping[str, Tensor], attention_mask: Tensor | None, cache: Any) -> Tensor:
        """[B, T, d] the final states of the model, without its head; padding is on the left where there is a mask."""
        given: dict[str, Any] = {**inputs, "use_cache": cache is not None, "past_key_values": cache}
        if attention_mask is not None:
            (length,) = {tensor.shape[1] for tensor in inputs.values()}
            positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)[:, -length:]
            given |= {"attention_mask": attention_mask, "position_ids": positions}
        return unwrapped(self.inner).base_model(**given)[0]  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        """The logits, as transformers returns them."""
        return CausalLMOutput(logits=self.get_output_embeddings()(self.states(input_ids, attention_mask)))

    @torch.inference_mode()
    def generate(
        self, *, input_ids: Tensor, attention_mask: Tensor, generation_config: Any, logits_processor: Any = ()
    ) -> Tensor:
        """[B, T + new] greedy continuations of prompts padded on the left."""
        pad = generation_config.pad_token_id
        ends = torch.tensor(generation_config.eos_token_id or [], dtype=torch.long, device=input_ids.device)
        ids, mask, unread = input_ids, attention_mask, input_ids
        cache = DynamicCache(config=self.config)
        done = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for _ in range(generation_config.max_new_tokens):
            logits = self.get_output_embeddings()(self.states(unread, mask, cache)[:, -1])
            for processor in logits_processor:
                logits = processor(ids, logits)
            chosen = torch.where(done, pad, logits.argmax(dim=-1))
            unread = chosen[:, None]
            ids = torch.cat([ids, chosen[:, None]], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            done = done | torch.isin(chosen, ends)
            if bool(done.all()):
                break
        return ids


class ReadAt(Surrogate):
    """A model read out after one of its blocks, through its final norm and a head.

    Args:
        model: the model.
        layer: the block, 1..L.
        head: maps [.., d] states to [.., V] logits.
    """

    def __init__(self, model: Any, layer: int, head: nn.Module) -> None:
        super().__init__(model)
        self.layer = layer
        self.head = head
        self.norm = final_norm(model)

    def get_output_embeddings(self) -> nn.Module:
        """The head, in place of the model's own."""
        return self.head

    def states(self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """[B, T, d] the block's output after the final norm, in the head's precision."""
        with capturing_outputs(self.inner, [self.layer]) as found:
            self.body({"input_ids": input_ids}, attention_mask, cache)
        precision = next(self.head.parameters()).dtype
        return self.norm(found[self.layer]).to(precision)  # type: ignore[no-any-return]


class Intervened(Wrapped):
    """A model whose block outputs are changed while it runs.

    Args:
        model: the model.
        changes: block 1..L -> what its [B, T, d] output becomes.
    """

    def __init__(self, model: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> None:
        super().__init__(model)
        self._changes = dict(changes)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        modules = blocks(self.inner)

        def hook_of(change: Callable[[Tensor], Tensor]) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> Any:
                return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

            return hook

        with ExitStack() as stack:
            for layer, change in self._changes.items():
                stack.callback(modules[layer - 1].register_forward_hook(hook_of(change)).remove)
            yield

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward, changed."""
        with self._changing():
            return self.inner(*args, **kwargs)

    def generate(self, **kwargs: Any) -> Any:
        """The model's generation, changed."""
        with self._changing():
            return self.inner.generate(**kwargs)


def final_norm(model: Any) -> nn.Module:
    """The normalisation between the last block and the output embedding; the identity where there is none."""
    inner = unwrapped(model)
    listed = blocks(inner)
    for parent in inner.modules():
        children = dict(parent.named_children())
        if any(child is listed for child in children.values()):
            norms = [c for n, c in children.items() if "norm" in type(c).__name__.lower() or n == "ln_f"]
            return norms[-1] if norms else nn.Identity()
    return nn.Identity()
