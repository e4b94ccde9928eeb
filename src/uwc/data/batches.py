"""Batches of encoded examples, and the one place of the token shift."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from uwc.data.prompts import EncodedExample

Scope = Literal["answer", "attended"]


@dataclass(frozen=True)
class Batch:
    """B examples padded on the right to T tokens, with the N labelled tokens as flat lists.

    Right padding needs no attention mask: under causal attention no real token ever sees a pad.

    Attributes:
        input_ids: [B, T] token ids.
        rows: [N] the example (0..B-1) of each labelled token, ascending.
        positions: [N] the position whose state *predicts* the labelled token: its own position minus one.
        targets: [N] the labelled tokens.
        in_answer: [N] False only for the further tokens that the scope "attended" labels.
    """

    input_ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    in_answer: Tensor

    @property
    def size(self) -> int:
        """B, the number of examples."""
        return int(self.input_ids.shape[0])


def collate(encoded: Sequence[EncodedExample], *, device: torch.device, scope: Scope = "answer") -> Batch:
    """Pad examples into a batch. Labelled are the answer and its end token, or with `scope` "attended" every token
    that has a predecessor."""
    longest = max(len(e.tokens) for e in encoded)
    ids = torch.zeros(len(encoded), longest, dtype=torch.long)
    rows: list[int] = []
    at: list[int] = []
    in_answer: list[bool] = []
    for row, example in enumerate(encoded):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        labelled = range(max(example.start if scope == "answer" else 1, 1), len(example.tokens))
        rows.extend([row] * len(labelled))
        at.extend(labelled)
        in_answer.extend(t >= example.start for t in labelled)
    row_index, own_position = torch.tensor(rows), torch.tensor(at)
    return Batch(
        input_ids=ids.to(device),
        rows=row_index.to(device),
        positions=(own_position - 1).to(device),
        targets=ids[row_index, own_position].to(device),
        in_answer=torch.tensor(in_answer).to(device),
    )


def group_by_length(
    lengths: Sequence[int], *, token_budget: int, batch_cost: int = 64, kinds: Sequence[Hashable] | None = None
) -> list[list[int]]:
    """Indices grouped into batches, longest first, so that the work is least: that of padded tokens and of batches.

    Among the ways to cut the sorted lengths into batches of at most `token_budget` padded tokens, the one with the
    least ``sum over batches of (longest * size + batch_cost)``, by dynamic programming. A single example longer than
    the budget makes a batch of its own.

    Args:
        lengths: in tokens.
        token_budget: the most padded tokens in a batch.
        batch_cost: what a batch costs beside its tokens, in tokens: reading the weights, starting operations.
        kinds: a label for each; a batch has items of one only. By default all share one.
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
    costs = np.zeros(len(order) + 1, dtype=np.int64)  # of the examples from here on
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
