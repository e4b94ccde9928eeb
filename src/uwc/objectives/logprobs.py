"""Log-probabilities and divergences from logits, with gradients that need no float32 copies of them.

Both functions process rows in chunks, and their gradients are one tensor of the logits' shape and dtype.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_ROWS, _CACHE_BYTES = 256, 2 << 20


def chunk_rows(logits: Tensor) -> int:
    """The number of rows in a chunk; on a CPU as many as fit its cache."""
    return _ROWS if logits.is_cuda else max(_CACHE_BYTES // (4 * logits.shape[1]), 8)


def target_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """[N] float32 log-probabilities ``z_y - log sum_v exp z_v`` of the targets [N] under logits [N, V]."""
    result: Tensor = _TargetLogprobs.apply(logits, targets)  # type: ignore[no-untyped-call]
    return result


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """[N] float32 ``KL(softmax(reference) || softmax(logits))`` in nats; no gradient flows to the reference."""
    result: Tensor = _Divergence.apply(reference, logits)  # type: ignore[no-untyped-call]
    return result


def _log_normalizers(logits: Tensor) -> Tensor:
    return torch.cat(
        [part.float().logsumexp(dim=1) for part in torch.split(logits, chunk_rows(logits))]
        or [logits.new_zeros(0).float()]
    )


def _parts(logits: Tensor) -> Iterator[slice]:
    size = chunk_rows(logits)
    return (slice(start, start + size) for start in range(0, len(logits), size))


def _float32(memory: Tensor) -> Tensor:
    """A float32 buffer for a gradient that is written to `memory`: `memory` itself if it is float32, else a new one."""
    return memory if memory.dtype == torch.float32 else torch.empty_like(memory, dtype=torch.float32)


def _put(piece: Tensor, memory: Tensor) -> None:
    """Copy the buffer ``_float32(memory)`` to `memory`, unless it is the same."""
    if piece is not memory:
        memory.copy_(piece)


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        normalizers = _log_normalizers(logits)
        ctx.save_for_backward(logits, targets, normalizers)
        return logits.gather(1, targets[:, None])[:, 0].float() - normalizers

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalizers = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _parts(logits):
            memory = result[part]
            piece = torch.sub(logits[part], normalizers[part, None], out=_float32(memory))
            piece.exp_().mul_(-gradient[part, None])
            piece.scatter_add_(1, targets[part, None], gradient[part, None])
            _put(piece, memory)
        return result, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, reference: Tensor, logits: Tensor) -> Tensor:
        result, ours, theirs = (torch.empty(len(logits), device=logits.device) for _ in range(3))
        for part in _parts(logits):
            z, z_reference = logits[part].float(), reference[part].float()
            ours[part], theirs[part] = z.logsumexp(dim=1), z_reference.logsumexp(dim=1)
            log_q = z_reference - theirs[part, None]
            difference = (log_q - z).add_(ours[part, None])
            q = log_q.exp_()
            result[part] = difference.mul_(q).masked_fill_(q == 0, 0.0).sum(dim=1)  # 0 log 0 = 0, also where z = -inf
        ctx.save_for_backward(reference, logits, theirs, ours)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        reference, logits, theirs, ours = ctx.saved_tensors
        result = torch.empty_like(logits)
        for part in _parts(logits):
            memory = result[part]
            p = torch.sub(logits[part], ours[part, None], out=_float32(memory)).exp_()
            q = (reference[part].float() - theirs[part, None]).exp_()
            _put(p.sub_(q).mul_(gradient[part, None]), memory)
        return None, result
