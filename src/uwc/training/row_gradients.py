"""The input embedding's gradient, added to the rows that were read instead of made as large as the vocabulary."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding


@contextmanager
def row_gradients(model: Any) -> Iterator[None]:
    """While open, ``backward()`` adds the input embedding's gradient to ``weight.grad`` row by row.

    Autograd makes a [V, d] tensor of it, nearly all zeros, and where input and output embedding are tied a second one
    for their sum; for a small model each is a good part of all its memory. The values are the same up to the order of
    a sum. An embedding that is more than a table (a subclass, hooks, a norm) is left as it is.
    `torch.autograd.grad` does not see this gradient, and neither do hooks on the weight.
    """
    table: Any = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    if not _plain(table):
        yield
        return
    anchor = torch.zeros((), requires_grad=True)
    table.forward = lambda ids: _Rows.apply(ids, anchor, table)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        del table.forward


def _plain(table: Any) -> bool:
    return (
        type(table) is torch.nn.Embedding
        and table.weight.requires_grad
        and table.max_norm is None
        and not (table.scale_grad_by_freq or table.sparse)
        and not (table._forward_hooks or table._forward_pre_hooks or "forward" in vars(table))
    )


class _Rows(torch.autograd.Function):
    """Looks rows up; `anchor` stands in for the weight, so that autograd asks for the gradient and sums nothing."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, anchor: Tensor, table: torch.nn.Embedding) -> Tensor:
        ctx.ids, ctx.table = ids, table
        return embedding(ids, table.weight.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        ids, weight = ctx.ids.flatten(), ctx.table.weight
        rows = gradient.flatten(0, -2).to(weight.dtype)
        if ctx.table.padding_idx is not None:
            rows = rows.masked_fill((ids == ctx.table.padding_idx)[:, None], 0.0)
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids, rows)
        return None, None, None
