"""From batches to logits and TokenScores: one forward pass, logits at labelled positions only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uwc import progress
from uwc.data.batches import Batch, collate, group_by_length
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import ModelError
from uwc.models.target import Target
from uwc.models.token_scores import TokenScores

DEFAULT_TOKEN_BUDGET = 8192
LOGIT_CHUNK = 512


@contextmanager
def _head_sees(model: Any, rows: Tensor, positions: Tensor) -> Iterator[list[Tensor]]:
    """While open, the output embedding sees only the states at (rows, positions), as one [1, N, d] sequence.

    The model's own forward runs unchanged around it, so whatever it does to logits (scaling, soft caps) still
    happens, and no [B, T, V] tensor is made. The list yielded receives the selected states.
    """
    selected: list[Tensor] = []

    def select(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        selected.append(args[0][rows, positions].unsqueeze(0))
        return (selected[-1], *args[1:])

    head = unwrapped(model).get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output embedding; uwc needs a causal language model")
    handle = head.register_forward_pre_hook(select)
    try:
        yield selected
    finally:
        handle.remove()


def unwrapped(model: Any) -> Any:
    """The model inside a data-parallel wrapper, or the model itself."""
    return getattr(model, "module", model)


def answer_logits(model: Any, batch: Batch) -> Tensor:
    """[N, V] logits that predict the batch's labelled tokens, differentiable, in the model's dtype."""
    with _head_sees(model, batch.rows, batch.positions) as selected:
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
    if not selected or logits.shape[:2] != (1, len(batch.rows)):
        raise ModelError(f"{type(model).__name__} does not compute its logits through its output embedding alone")
    return logits[0]  # type: ignore[no-any-return]


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """[N] float32 log-probabilities of the targets under [N, V] logits."""
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=1)


@torch.inference_mode()
def score_tokens(
    target: Target,
    examples: Sequence[Example],
    *,
    reference: Target | None = None,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
) -> TokenScores:
    """Score every answer token of the examples, teacher-forced, in one pass.

    Args:
        target: the model under test.
        examples: what it is asked; the result keeps their order.
        reference: a model with the same vocabulary; its divergence from the target is scored as ``kl``.
        token_budget: the most padded tokens in a batch.

    Raises:
        DataError: an example does not fit into the context.
        ModelError: the reference has another vocabulary.
    """
    encoded = target.encode(examples)
    groups = group_by_length([len(e.tokens) for e in encoded], token_budget=token_budget)
    target.model.eval()
    by_example: list[dict[str, np.ndarray]] = [{}] * len(encoded)
    with progress.bar(f"score {target.name}", total=len(encoded)) as advance:
        for group in groups:
            batch = collate([encoded[i] for i in group], device=target.device)
            columns = _score_batch(target, batch, reference)
            cuts = np.cumsum(np.bincount(batch.rows.cpu().numpy(), minlength=len(group)))[:-1]
            pieces = {name: np.split(column, cuts) for name, column in columns.items()}
            for row, index in enumerate(group):
                by_example[index] = {name: parts[row] for name, parts in pieces.items()}
            advance(len(group))
    return _join(examples, encoded, by_example)


def _score_batch(target: Target, batch: Batch, reference: Target | None) -> dict[str, np.ndarray]:
    """The token columns of one batch, as numpy arrays of length N."""
    logits = answer_logits(target.model, batch)
    other = None
    if reference is not None:
        reference.model.eval()
        other = answer_logits(reference.model, batch)
        if other.shape != logits.shape:
            raise ModelError(
                f"{reference.name} and {target.name} have vocabularies of {other.shape[1]} and {logits.shape[1]} "
                "tokens; a divergence needs the same one"
            )
    chunks = []
    for start in range(0, len(logits), LOGIT_CHUNK):
        part = slice(start, start + LOGIT_CHUNK)
        chunks.append(_score_chunk(logits[part], batch.targets[part], None if other is None else other[part]))
    return {name: torch.cat([c[name] for c in chunks]).cpu().numpy() for name in chunks[0]}


def _score_chunk(logits: Tensor, targets: Tensor, reference: Tensor | None) -> dict[str, Tensor]:
    """Statistics of [n, V] logits; everything in float32."""
    log_p = logits.float().log_softmax(dim=1)
    p = log_p.exp()
    weighted = p * log_p.clamp_min(torch.finfo(torch.float32).min)  # 0 * -inf would be NaN
    mean = weighted.sum(dim=1)
    kl = torch.full_like(mean, float("nan"))
    if reference is not None:
        log_q = reference.float().log_softmax(dim=1)
        kl = torch.nn.functional.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)
    return {
        "logprob": log_p.gather(1, targets[:, None])[:, 0],
        "greedy": log_p.argmax(dim=1) == targets,
        "mean_logprob": mean,
        "var_logprob": ((log_p - mean[:, None]).square() * p).sum(dim=1),
        "kl": kl,
    }


def _join(
    examples: Sequence[Example], encoded: Sequence[EncodedExample], columns: Sequence[dict[str, np.ndarray]]
) -> TokenScores:
    names = ("logprob", "greedy", "mean_logprob", "var_logprob", "kl")
    empty = {name: np.zeros(0, dtype=bool if name == "greedy" else np.float32) for name in names}
    lengths = [len(c["logprob"]) for c in columns]
    return TokenScores(
        ids=tuple(e.id for e in examples),
        subjects=tuple(e.subject for e in examples),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        has_end=np.array([e.end < len(e.tokens) for e in encoded], dtype=bool),
        **{name: np.concatenate([empty[name], *[c[name] for c in columns]]) for name in names},
    )
