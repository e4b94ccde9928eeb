"""Passes made from known probabilities, so that a term's value can be worked out by hand."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.objectives.forwards import Forwards, Pass

LN2 = math.log(2.0)


def made_pass(
    answers: Sequence[Sequence[float]], *, before: int = 0, width: int = 4, states: Tensor | None = None
) -> Pass:
    """A pass over answers whose tokens have these probabilities; the rest of each is spread evenly over the others.

    Args:
        answers: for each example the probability of each answer token.
        before: how many labelled tokens, of probability 1/2, stand before each answer (the scope "attended").
        width: size of the vocabulary; the true token is always number 1.
        states: [N, d] hidden states at layer 1.
    """
    probabilities = [p for answer in answers for p in [0.5] * before + list(answer)]
    lengths = [before + len(answer) for answer in answers]
    table = torch.tensor([[(1 - p) / (width - 1)] * width for p in probabilities], dtype=torch.float64)
    table[:, 1] = torch.tensor(probabilities, dtype=torch.float64)
    return Pass(made_batch(lengths, before=before), table.log().requires_grad_(), {} if states is None else {1: states})


def made_batch(lengths: Sequence[int], *, before: int = 0) -> Batch:
    rows = torch.tensor([row for row, n in enumerate(lengths) for _ in range(n)])
    places = torch.tensor([t for n in lengths for t in range(n)])
    return Batch(
        input_ids=torch.ones(len(lengths), max(lengths) + 1, dtype=torch.long), rows=rows, positions=places,
        targets=torch.ones(len(rows), dtype=torch.long), in_answer=places >= before,
    )  # fmt: skip


def forwards(passes: dict[str, Pass], references: dict[str, Pass] | None = None, layer: int = 1) -> Forwards:
    """Forwards that hold the passes, and every kind of reference value of the original's passes."""
    values = {}
    for role, original in (references or {}).items():
        values[f"{role}.reference_logprobs"] = original.logprobs.detach()
        values[f"{role}.reference_logits"] = original.logits.detach()
        values[f"{role}.reference_states"] = {layer: original.states[layer]} if original.states else {}
    return Forwards(passes, values)
