"""Token scores of examples from one teacher-forced forward pass, in batches that fit the memory."""

from collections.abc import Sequence

import numpy as np
import torch

from uwc import progress
from uwc.data.batches import Batch, collate
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.data.variants import Variant, with_variants
from uwc.models.budget import BATCH_COST, SCORING_BUDGET, run_in_batches, token_budget_of
from uwc.models.head import AnswerLogits, tile_grid
from uwc.models.statistics import joined, tile_sums
from uwc.models.target import Target
from uwc.models.token_scores import BOOLEAN_COLUMNS, TOKEN_COLUMNS, Sampling, TokenScores


@torch.inference_mode()
def score_tokens(
    target: Target,
    examples: Sequence[Example],
    *,
    variants: Sequence[Variant] = ("answer",),
    reference: Target | None = None,
    samplings: Sequence[Sampling] = (),
    margins: bool = False,
    token_budget: int | None = None,
) -> TokenScores:
    """Score every answer token of the examples, teacher-forced, in one pass.

    Args:
        target: the model.
        examples: the examples; the result has their order.
        variants: the answers to score; one row for each example and answer, ordered by variant, then by example.
        reference: a model with the same vocabulary; its divergence from the target is scored as ``kl``, and its
            log-probability of the true token as ``reference_logprob``.
        samplings: sampling settings; each adds a column with the log-probability of drawing the true token.
        margins: whether to compute by how much each true token's logit exceeds all others.
        token_budget: the most padded tokens in a batch; from the free memory by default, halved when out of memory.

    Raises:
        DataError: an example does not fit into the context.
        ModelError: the reference has another vocabulary, or a single example does not fit into the memory.
    """
    rows, kinds = with_variants(examples, variants)
    encoded = target.encode(rows)
    for model in (target, reference):
        if model is not None:
            model.model.eval()
    names = (*TOKEN_COLUMNS, "finite", *(s.name for s in samplings), *(("margin",) if margins else ()))
    stops = target.stops(encoded)
    by_row: list[dict[str, np.ndarray]] = [{}] * len(encoded)

    def work(group: list[int]) -> None:
        batch = collate([encoded[i] for i in group], device=target.device)
        labelled = len(batch.rows) > 0  # with a peer's prompt an answer may have no token
        columns = _score_batch(target, batch, reference, stops, samplings, margins) if labelled else {}
        columns = {name: columns.get(name, _none_of(name)) for name in names}
        cuts = np.cumsum(np.bincount(batch.rows.cpu().numpy(), minlength=len(group)))[:-1]
        pieces = {name: np.split(columns[name], cuts) for name in names}
        for place, index in enumerate(group):
            by_row[index] = {name: parts[place] for name, parts in pieces.items()}

    budget = token_budget or token_budget_of(target, elsewhere=SCORING_BUDGET)
    with progress.bar(f"score {target.name}", total=len(encoded)) as advance:
        lengths, cost = [len(e.tokens) for e in encoded], BATCH_COST.get(target.device.type, BATCH_COST["cpu"])
        labels = target.sharing().kinds(lengths)
        for group in run_in_batches(lengths, kinds=labels, token_budget=budget, batch_cost=cost, work=work):
            advance(len(group))
    return _join(rows, kinds, encoded, by_row, [s.name for s in samplings], margins)


def _score_batch(
    target: Target,
    batch: Batch,
    reference: Target | None,
    stops: Sequence[int],
    samplings: Sequence[Sampling],
    margins: bool,
) -> dict[str, np.ndarray]:
    """The token columns of one batch, as numpy arrays of length N."""
    itself = reference is not None and reference.model is target.model
    ours = AnswerLogits(target.model, batch)
    theirs = None if reference is None or itself else AnswerLogits(reference.model, batch)
    columns = []
    for rows, parts in tile_grid(ours, *(() if theirs is None else (theirs,))):
        targets, tiles = batch.targets[rows], []
        for tokens in parts:
            logits = ours.tile(rows, tokens)
            other = theirs.tile(rows, tokens) if theirs is not None else logits.clone() if itself else None
            sums = tile_sums(logits, targets, first=tokens.start, reference=other, samplings=samplings, margins=margins)
            tiles.append(sums)
        columns.append(joined(tiles, targets, stops, samplings))
    return {name: torch.cat([c[name] for c in columns]).cpu().numpy() for name in columns[0]}


def _join(
    rows: Sequence[Example],
    kinds: Sequence[Variant],
    encoded: Sequence[EncodedExample],
    columns: Sequence[dict[str, np.ndarray]],
    samplings: Sequence[str],
    margins: bool,
) -> TokenScores:
    def flat(name: str) -> np.ndarray:
        return np.concatenate([_none_of(name), *[c[name] for c in columns]])

    return TokenScores(
        ids=tuple(e.id for e in rows),
        subjects=tuple(e.subject for e in rows),
        variants=tuple(kinds),
        offsets=np.concatenate([[0], np.cumsum([len(c["logprob"]) for c in columns])]).astype(np.int64),
        end_lengths=np.array([len(e.tokens) - e.end for e in encoded], dtype=np.int64),
        finite=np.array([c["finite"].all() for c in columns], dtype=bool),
        **{name: flat(name) for name in TOKEN_COLUMNS},
        sampled={name: flat(name) for name in samplings},
        margin=flat("margin") if margins else None,
    )


def _none_of(name: str) -> np.ndarray:
    """An empty token column."""
    return np.zeros(0, dtype=bool if name in (*BOOLEAN_COLUMNS, "finite") else np.float32)
