"""Tricks that combine with every forget term: each changes a pass before the term reads it.

They are applied in the order of this file, independent of the user's: tokens are selected by the model's own
likelihoods, then logits are scaled by the temperature.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from uwc.objectives.registry import tricks

if TYPE_CHECKING:
    from torch import Tensor

    from uwc.objectives.forwards import Pass


@tricks.register(
    "loss_selection",
    source="arXiv:2406.09179",
    formula="the q N_i likeliest tokens",
    neutral=1.0,
    reads="logprobs",
    acts_on="forget questions",
)
def loss_selection(passed: "Pass", *, value: Annotated[float, Field(gt=0, le=1)] = 1.0) -> "Pass":
    """Keep only the most likely share q of each answer's tokens: the floor(q N_i), at least 1, of smallest loss.

    Token means are over the kept tokens. Tokens before the answer, and tokens of it that no term reads, are not
    affected. Neutral at 1.
    """
    import torch

    if value == 1.0:
        return passed
    answer = passed.batch.in_answer & (passed.order_in_answer() >= passed.unread)
    logprobs, rows = passed.logprobs.detach()[answer], passed.batch.rows[answer]
    order = torch.argsort(logprobs, descending=True, stable=True)
    order = order[torch.argsort(rows[order], stable=True)]  # by example, likeliest first
    counts = torch.bincount(rows, minlength=passed.batch.size)
    rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows[order]]
    kept = torch.zeros_like(rows, dtype=torch.bool)
    kept[order] = rank < kept_tokens(counts, share=value)[rows[order]]
    selected = torch.ones_like(answer)
    selected[answer] = kept
    return replace(_weighted(passed, selected.to(logprobs.dtype)), selected=selected)


def kept_tokens(counts: "Tensor", *, share: float) -> "Tensor":
    """[B] number of each answer's tokens that loss selection keeps: floor(share x count), at least one."""
    from uwc.models.double import in_double

    return (in_double(counts) * share + 1e-9).floor().clamp_min(1).to(counts.dtype).to(counts.device).minimum(counts)


@tricks.register(
    "likelihood_cap",
    source="arXiv:2406.09179",
    formula="only tokens with p_t > cap",
    neutral=0.0,
    reads="logprobs",
    acts_on="forgotten answers",
)
def likelihood_cap(passed: "Pass", *, value: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> "Pass":
    """Ignore tokens of forgotten answers whose likelihood is at or below a cap.

    ``w_t = 1[p_t > cap]``; means still divide by all N tokens, so that the loss decreases as tokens are forgotten.
    Answers that are trained in place of the forgotten ones (a refusal, an alternative), and tokens before the answer,
    are not affected. Neutral at 0.
    """
    if value == 0.0:
        return passed
    above = passed.logprobs.detach().exp() > value
    return _weighted(passed, (above | ~passed.batch.in_answer).to(passed.logprobs.dtype))


@tricks.register(
    "temperature",
    source="arXiv:2406.09179",
    formula="z / tau",
    neutral=1.0,
    reads="logits",
    acts_on="forget questions",
)
def temperature(passed: "Pass", *, value: Annotated[float, Field(gt=0)] = 1.0) -> "Pass":
    """Scale the forget logits: ``z / tau`` in the forget loss only. Neutral at 1."""
    return passed if value == 1.0 else replace(passed, all_logits=passed.logits.float() / value, known_logprobs=None)


def _weighted(passed: "Pass", weights: "Tensor") -> "Pass":
    combined = weights if passed.weights is None else passed.weights * weights
    return replace(passed, weights=combined, known_logprobs=passed.logprobs)
