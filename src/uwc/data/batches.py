"""Batches of encoded examples; the only module that shifts labels by one token."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from uwc.data.prompts import EncodedExample
from uwc.data.trees import TokenTree

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Scope = Literal["answer", "attended"]


@dataclass(frozen=True)
class Batch:
    """B examples padded on the right to T tokens, with the N labelled tokens as flat lists.

    Right padding needs no attention mask, since under causal attention no token sees a later pad. A mask is made only
    if an example has tokens that are not attended to.

    Attributes:
        input_ids: [B, T] token ids.
        rows: [N] the example (0..B-1) of each labelled token, ascending.
        positions: [N] the position whose state *predicts* the labelled token: its own position minus one.
        targets: [N] the labelled tokens.
        in_answer: [N] False only for the further tokens that the scope "attended" labels.
        attention_mask: [B, T] False for padding and for tokens that are not attended to; None where all real ones are.
            Of token trees, [B, 1, T, T], which is added to the scores of attention: 0 where a token sees another one,
            and the least number of the dtype elsewhere.
        position_ids: [B, T] of token trees, the number of tokens on the way to each; None if that is its index.
        shifts: block (1..L) -> [B, T, d] that is added to its output; None where nothing is.
    """

    input_ids: "Tensor"
    rows: "Tensor"
    positions: "Tensor"
    targets: "Tensor"
    in_answer: "Tensor"
    attention_mask: "Tensor | None" = None
    position_ids: "Tensor | None" = None
    shifts: "Mapping[int, Tensor] | None" = None

    @property
    def inputs(self) -> dict[str, "Tensor"]:
        """The keyword arguments of a model's forward pass."""
        further = {"attention_mask": self.attention_mask, "position_ids": self.position_ids}
        return {"input_ids": self.input_ids, **{name: given for name, given in further.items() if given is not None}}

    @property
    def size(self) -> int:
        """B, the number of examples."""
        return int(self.input_ids.shape[0])


def labelled(example: EncodedExample, scope: Scope = "answer") -> range:
    """The indices of the labelled tokens of an example."""
    return range(max(example.start if scope == "answer" else 1, 1), len(example.tokens))


def collate(encoded: Sequence[EncodedExample], *, device: "torch.device", scope: Scope = "answer") -> Batch:
    """Pad examples into a batch. Labelled are the answer and its end token, or with `scope` "attended" every token
    that has a predecessor."""
    import torch

    longest = max(len(e.tokens) for e in encoded)
    ids = torch.zeros(len(encoded), longest, dtype=torch.long)
    rows: list[int] = []
    at: list[int] = []
    in_answer: list[bool] = []
    for row, example in enumerate(encoded):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        own = labelled(example, scope)
        rows.extend([row] * len(own))
        at.extend(own)
        in_answer.extend(t >= example.start for t in own)
    mask = None
    if any(e.unattended is not None for e in encoded):
        attended = [[token != e.unattended for token in e.tokens] for e in encoded]
        mask = torch.tensor([[*row, *[False] * (longest - len(row))] for row in attended], device=device)
    row_index, own_position = torch.tensor(rows, dtype=torch.long), torch.tensor(at, dtype=torch.long)
    return Batch(
        input_ids=ids.to(device),
        rows=row_index.to(device),
        positions=(own_position - 1).to(device),
        targets=ids[row_index, own_position].to(device),
        in_answer=torch.tensor(in_answer, dtype=torch.bool).to(device),
        attention_mask=mask,
    )


def collate_trees(
    trees: Sequence[TokenTree], encoded: Sequence[EncodedExample], *, device: "torch.device", dtype: "torch.dtype"
) -> Batch:
    """Pad token trees into a batch. Labelled are the answer and the end of each sequence, in the order of the trees and
    of their members; `dtype` is that of the model's states.

    A token sees itself and the tokens on the way to it, and has the position that it has in its sequence. Therefore a
    model that reads mask and positions gives it the state that it has in the sequence alone.
    """
    import torch

    longest = max(len(tree.tokens) for tree in trees)
    ids = torch.zeros(len(trees), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    sees = torch.eye(longest, dtype=torch.bool).repeat(len(trees), 1, 1)
    rows: list[int] = []
    before: list[int] = []
    targets: list[int] = []
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        for member, path in zip(tree.members, tree.paths, strict=True):
            nodes, own = torch.tensor(path), labelled(encoded[member])
            positions[row, nodes] = torch.arange(len(nodes))
            sees[row, nodes[:, None], nodes] = torch.ones(len(nodes), len(nodes), dtype=torch.bool).tril()
            rows.extend([row] * len(own))
            before.extend(path[t - 1] for t in own)
            targets.extend(encoded[member].tokens[t] for t in own)
    mask = torch.zeros(sees.shape, dtype=dtype, device=device)
    mask.masked_fill_(~sees.to(device), torch.finfo(dtype).min)
    return Batch(
        input_ids=ids.to(device),
        rows=torch.tensor(rows, dtype=torch.long, device=device),
        positions=torch.tensor(before, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
        in_answer=torch.ones(len(rows), dtype=torch.bool, device=device),
        attention_mask=mask[:, None],
        position_ids=positions.to(device),
    )


def group_by_length(
    lengths: Sequence[int], *, token_budget: int, batch_cost: int = 64, kinds: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Indices grouped into batches, longest first, at the least cost in padded tokens and number of batches.

    Cuts the sorted lengths into batches of at most `token_budget` padded tokens such that ``sum over batches of
    (longest * size + batch_cost)`` is minimal, by dynamic programming. An example longer than the budget is a batch of
    its own.

    Args:
        lengths: in tokens.
        token_budget: the most padded tokens in a batch.
        batch_cost: fixed cost of a batch (reading weights, launching kernels), in tokens.
        kinds: a label for each item; only items of one label share a batch. One label for all by default.
    """
    if kinds is not None and len(set(kinds)) > 1:
        groups = []
        for kind in dict.fromkeys(kinds):
            members = [i for i, k in enumerate(kinds) if k == kind]
            parts = group_by_length([lengths[i] for i in members], token_budget=token_budget, batch_cost=batch_cost)
            groups += [[members[i] for i in part] for part in parts]
        return sorted(groups, key=lambda group: -lengths[group[0]])
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    longest = np.array([lengths[i] for i in order], dtype=np.int64)
    costs = np.zeros(len(order) + 1, dtype=np.int64)  # least cost of the examples from this one on
    sizes = np.ones(len(order), dtype=np.int64)
    for start in range(len(order) - 1, -1, -1):
        most = min(max(token_budget // max(int(longest[start]), 1), 1), len(order) - start)
        size = np.arange(1, most + 1)
        cost = longest[start] * size + batch_cost + costs[start + 1 : start + most + 1]
        best = most - 1 - int(np.argmin(cost[::-1]))
        sizes[start], costs[start] = size[best], cost[best]
    groups, start = [], 0
    while start < len(order):
        groups.append(order[start : start + int(sizes[start])])
        start += int(sizes[start])
    return groups
