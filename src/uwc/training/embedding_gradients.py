"""Gradients of the input and output embedding, added in place instead of through tensors as large as the vocabulary."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear


@contextmanager
def embedding_gradients(model: Any) -> Iterator[None]:
    """While open, ``backward()`` adds the gradients of both embeddings to ``weight.grad`` in place.

    Autograd makes a [V, d] tensor of the input embedding's, nearly all zeros, and one of the output embedding's for
    each forward, and then adds them up; for a small model each is a good part of all its memory. The values are the
    same up to the order of a sum. An embedding that is more than a table or a matrix (a subclass, hooks on a table, a
    norm, a bias) is left as it is. `torch.autograd.grad` does not see these gradients, and neither do hooks on the
    weights.
    """
    table: Any = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    with ExitStack() as replaced:
        if _is_table(table):
            anchor = torch.zeros((), requires_grad=True)
            table.forward = lambda ids: _Rows.apply(ids, anchor, table)  # type: ignore[no-untyped-call]
            replaced.callback(vars(table).pop, "forward")
        if _is_matrix(head):
            head.forward = lambda states: _product(states, head)
            replaced.callback(vars(head).pop, "forward")
        yield


def _is_table(table: Any) -> bool:
    return (
        type(table) is torch.nn.Embedding
        and table.weight.requires_grad
        and table.max_norm is None
        and not (table.scale_grad_by_freq or table.sparse)
        and not (table._forward_hooks or table._forward_pre_hooks or "forward" in vars(table))
    )


def _is_matrix(head: Any) -> bool:
    return (
        type(head) is torch.nn.Linear
        and head.weight.requires_grad
        and head.bias is None
        and "forward" not in vars(head)
    )


def _product(states: Tensor, head: torch.nn.Linear) -> Tensor:
    if torch.is_autocast_enabled(states.device.type) or not states.requires_grad:
        return linear(states, head.weight)
    logits: Tensor = _Product.apply(states, head)  # type: ignore[no-untyped-call]
    return logits


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


class _Product(torch.autograd.Function):
    """``states @ weight.T``."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, head: torch.nn.Linear) -> Tensor:
        ctx.save_for_backward(states)
        ctx.head = head
        return linear(states, head.weight.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (states,), weight = ctx.saved_tensors, ctx.head.weight
        rows = gradient.flatten(0, -2)
        if weight.grad is None:
            weight.grad = rows.T @ states.flatten(0, -2)
        else:
            weight.grad.addmm_(rows.T, states.flatten(0, -2))
        return gradient @ weight.detach(), None
