"""The output embedding: logits at the labelled positions only, all at once or a few at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.errors import ModelError

_CHUNK_BYTES = {"cpu": 32 << 20, "mps": 128 << 20, "cuda": 512 << 20}
_RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def unwrapped(model: Any) -> Any:
    """The model inside a data-parallel wrapper, or the model itself."""
    return getattr(model, "module", model)


@contextmanager
def head_sees(model: Any, choose: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """While open, the output embedding sees, instead of the [B, T, d] states, ``choose(states)`` as one [1, n, d].

    The model's own forward runs unchanged around it, so whatever it does to logits (scaling, soft caps) still
    happens, and no [B, T, V] tensor is made. The list yielded receives the chosen states.
    """
    chosen: list[Tensor] = []

    def replace(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        chosen.append(choose(args[0]).unsqueeze(0))
        return (chosen[-1], *args[1:])

    handle = _head(model).register_forward_pre_hook(replace)
    try:
        yield chosen
    finally:
        handle.remove()


def answer_logits(model: Any, batch: Batch) -> Tensor:
    """[N, V] logits that predict the batch's labelled tokens, differentiable, in the model's dtype."""
    with head_sees(model, lambda states: states[batch.rows, batch.positions]) as chosen:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    if not chosen or logits.shape[:2] != (1, len(batch.rows)):
        raise ModelError(f"{type(model).__name__} does not compute its logits through its output embedding alone")
    return logits[0]  # type: ignore[no-any-return]


def logit_chunks(model: Any, batch: Batch) -> Iterator[Tensor]:
    """The [N, V] logits that predict the batch's labelled tokens, as [n, V] pieces in order, made one at a time.

    The model's own forward gives the states and the logits of one position; the output embedding and the model's
    usual steps after it (`after_head`) give the others. Where these disagree with the model at that position, the
    model does something else to its logits, and they are computed at once by `answer_logits` instead.
    """
    states: list[Tensor] = []

    def choose(entering: Tensor) -> Tensor:
        states.append(entering[batch.rows, batch.positions])
        return states[0][:1]

    with head_sees(model, choose):
        own = model(input_ids=batch.input_ids, use_cache=False).logits[0, 0]
    size = chunk_rows(own.shape[0], own.device)
    head, finish = _head(model), after_head(model)
    ours = finish(head(states[0][None, :1]))[0, 0]
    if not _agree(ours, own):
        yield from torch.split(answer_logits(model, batch), size)
        return
    for part in torch.split(states[0], size):
        yield finish(head(part[None]))[0]


def after_head(model: Any) -> Callable[[Tensor], Tensor]:
    """What the model's forward does to logits after its output embedding, as its configuration says.

    Divided by ``logits_scaling`` (Granite), multiplied by ``logit_scale`` (Cohere), and with c the
    ``final_logit_softcapping`` (Gemma) turned into ``c tanh(z / c)``.
    """
    config = unwrapped(model).config.get_text_config()
    divisor = getattr(config, "logits_scaling", None)
    factor = getattr(config, "logit_scale", None)
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: Tensor) -> Tensor:
        if divisor is not None:
            logits = logits / divisor
        if factor is not None:
            logits = logits * factor
        return logits if cap is None else torch.tanh(logits / cap) * cap

    return finish


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """How many rows of float32 logits are handled at a time on a device."""
    return max(16, _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cpu"]) // (4 * vocabulary))


def _head(model: Any) -> Any:
    head = unwrapped(model).get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding; uwc needs a causal language model")
    return head


def _agree(ours: Tensor, own: Tensor) -> bool:
    """Whether two [V] logits are equal up to rounding; NaN where both are NaN counts as equal."""
    if ours.shape != own.shape:
        return False
    bound = _RELATIVE_TOLERANCE.get(own.dtype, 1e-4) * float(own.float().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(ours.float(), own.float(), rtol=0.0, atol=bound, equal_nan=True)
