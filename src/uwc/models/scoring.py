"""Token scores and gradient norms of examples: one teacher-forced pass, in batches that fit the memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uwc import progress
from uwc.data.batches import Batch, collate, collate_trees, labelled
from uwc.data.example import Example, Variant, with_variants
from uwc.data.prompts import EncodedExample
from uwc.data.trees import TokenTree, single_tree
from uwc.models.batching import (
    BATCH_COST,
    SCORING_BUDGET,
    dtype_of,
    is_out_of_memory,
    results_in_batches,
    shared_trees,
    token_budget_of,
)
from uwc.models.chunks import Columns
from uwc.models.deterministic import deterministic
from uwc.models.head import AnswerLogits, answer_logits, tile_grid, token_logprobs
from uwc.models.model import Model
from uwc.models.overflow import warn_of_overflow
from uwc.models.placement import require_on_one_device
from uwc.models.token_scores import BOOLEAN_COLUMNS, TOKEN_COLUMNS, Floats, Sampling, TokenScores

_FLOOR = -1e4  # exp of it is 0 in float32; stands for -inf where 0 * -inf would be NaN
_LOWEST = -1e30  # stands for the greatest logit of a tile where all are -inf
_BLOCK = 64
_DRAWN = "drawn at "


def tile_sums(
    logits: Tensor,
    targets: Tensor,
    *,
    first: int = 0,
    reference: Tensor | None = None,
    samplings: Sequence[Sampling] = (),
    margins: bool = False,
) -> dict[str, Tensor]:
    """The contribution of v adjacent tokens of the vocabulary to the statistics of n distributions.

    With m the greatest of the v logits: ``sum e^(z - m) (z - m)^k`` for k = 0, 1, 2; the position of the greatest; the
    target's logit, if it is among them; and whether all v logits are finite.

    Args:
        logits: [n, v]; overwritten if it is float32 already.
        targets: [n] the true tokens.
        first: the first of the v tokens.
        reference: [n, v] the same part of another model's logits; overwritten likewise.
        samplings: sampling settings.
        margins: whether to include the greatest logit of all tokens except the target.
    """
    z = logits.float()
    rival = _greatest_rival(z, targets - first) if margins else {}
    greatest, best = _first_greatest(z)
    greatest = greatest.clamp_min(_LOWEST)
    z.sub_(greatest[:, None])
    place = targets - first
    inside = (place >= 0) & (place < z.shape[1])
    place = place.clamp(0, z.shape[1] - 1)[:, None]
    sums = {"greatest": greatest, "best": best + first, "inside": inside, "target": z.gather(1, place)[:, 0]}
    for sampling in samplings:
        sums |= _sampled_sums(z, greatest, first, sampling)
    sums |= rival | _moments(z)
    return sums if reference is None else sums | _divergence_sums(z, place, reference)


def joined(
    tiles: Sequence[Mapping[str, Tensor]],
    targets: Tensor,
    ends: Sequence[int] = (),
    samplings: Sequence[Sampling] = (),
) -> dict[str, Tensor]:
    """The statistics of n distributions from the sums over all tiles of the vocabulary.

    Args:
        tiles: the results of `tile_sums`, in order.
        targets: [n] the true tokens.
        ends: the tokens that end a turn.
        samplings: sampling settings.

    Returns:
        ``finite``, whether all logits are; ``logprob``, ``greedy``, ``stops``, ``mean_logprob``, ``var_logprob``,
        ``kl`` and ``reference_logprob`` as in `TokenScores`; ``margin`` if the sums have it; and one column for each
        sampling, under its name.
    """
    each = {name: torch.stack([t[name] for t in tiles]) for name in tiles[0] if not name.startswith(_DRAWN)}
    greatest, shift, weight = _levels(each["greatest"])
    total = (weight * each["total"]).sum(dim=0)
    mean = (weight * (each["first"] + shift * each["total"])).sum(dim=0) / total
    second = each["second"] + 2 * shift * each["first"] + shift * shift * each["total"]
    square = (weight * second).sum(dim=0) / total
    log_sum = total.log()
    of_target = torch.where(each["inside"], each["target"] + shift, 0.0).sum(dim=0)
    best = each["best"].gather(0, each["greatest"].argmax(dim=0)[None])[0]
    columns = {
        "logprob": of_target - log_sum,
        "greedy": best == targets,
        "stops": torch.isin(best, torch.tensor(list(ends), dtype=best.dtype, device=best.device)),
        "finite": each["finite"].all(dim=0),
        "mean_logprob": mean - log_sum,
        "var_logprob": (square - mean * mean).clamp_min_(0.0),
        **_divergence(each, shift, log_sum),
    }
    if "rival" in each:
        columns["margin"] = of_target + greatest - each["rival"].amax(dim=0)
    return columns | {s.name: _sampled_logprob(tiles, of_target + greatest, targets, s) for s in samplings}


def _first_greatest(z: Tensor) -> tuple[Tensor, Tensor]:
    """[n] the greatest value of each row, and its first position.

    ``z.max(dim=1)``, but several times faster on a CPU: searches the position only in the block with the greatest
    value.
    """
    if z.shape[1] % _BLOCK:
        return z.max(dim=1)
    blocks = torch.unflatten(z, 1, (-1, _BLOCK))
    greatest, block = blocks.amax(dim=2).max(dim=1)
    place = blocks[torch.arange(len(z), device=z.device), block].argmax(dim=1)
    return greatest, block * _BLOCK + place


def _greatest_rival(z: Tensor, place: Tensor) -> dict[str, Tensor]:
    """[n] the greatest value of each row except the one at `place`, which may be outside the tile."""
    inside = ((place >= 0) & (place < z.shape[1]))[:, None]
    place = place.clamp(0, z.shape[1] - 1)[:, None]
    own = z.gather(1, place)
    z.scatter_(1, place, own.masked_fill(inside, float("-inf")))
    rival = z.amax(dim=1)
    z.scatter_(1, place, own)
    return {"rival": rival}


def _levels(greatest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[n] the greatest logit of all tiles, and [tiles, n] the difference of each tile's greatest, and its
    exponential."""
    overall = greatest.amax(dim=0)
    shift = (greatest - overall).clamp_min_(_FLOOR)
    return overall, shift, shift.exp()


def _moments(z: Tensor) -> dict[str, Tensor]:
    """Sums over a tile of e^z z^k for k = 0, 1, 2, for z with greatest value 0; and whether all z are finite."""
    p = z.exp()
    total = p.sum(dim=1)
    first = p.mul_(z).sum(dim=1)
    second = p.mul_(z).sum(dim=1)
    finite = torch.isfinite(first)  # a logit of -inf has e^z z = 0 * -inf
    if not finite.all() and torch.isinf(z).any():
        return {**_moments(z.clamp_min_(_FLOOR)), "finite": finite}
    return {"total": total, "first": first, "second": second, "finite": finite}


def _divergence_sums(z: Tensor, place: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """The same sums under the reference, of the difference between its logits and the model's; overwrites `z`."""
    other = reference.to(z.device).float()
    greatest = other.amax(dim=1).clamp_min(_LOWEST)
    other.sub_(greatest[:, None]).clamp_min_(_FLOOR)
    of_target = other.gather(1, place)[:, 0]
    gap = z.clamp_min_(_FLOOR).sub_(other).neg_()
    q = other.exp_()
    total = q.sum(dim=1)
    return {
        "q greatest": greatest,
        "q target": of_target,
        "q total": total,
        "q gap": q.mul_(gap).sum(dim=1),
    }


def _divergence(each: Mapping[str, Tensor], shift: Tensor, log_sum: Tensor) -> dict[str, Tensor]:
    """KL(reference || model) and the reference's log-probability of the targets."""
    if "q total" not in each:
        unknown = torch.full_like(log_sum, float("nan"))
        return {"kl": unknown, "reference_logprob": unknown}
    _greatest, other_shift, weight = _levels(each["q greatest"])
    total = (weight * each["q total"]).sum(dim=0)
    gap = (weight * (each["q gap"] + (other_shift - shift) * each["q total"])).sum(dim=0)
    of_target = torch.where(each["inside"], each["q target"] + other_shift, 0.0).sum(dim=0)
    kl = gap / total - total.log() + log_sum
    return {"kl": kl.clamp_min_(0.0), "reference_logprob": of_target - total.log()}


def _sampled_sums(z: Tensor, greatest: Tensor, first: int, sampling: Sampling) -> dict[str, Tensor]:
    """The contribution of a tile to a sampling: its log-sum-exp, or its most likely tokens."""
    name = _DRAWN + sampling.name
    if not sampling.top_k:
        return {name: (z / sampling.temperature).logsumexp(dim=1) + greatest / sampling.temperature}
    values, tokens = z.topk(min(sampling.top_k, z.shape[1]), dim=1)
    return {name: values + greatest[:, None], f"{name} tokens": tokens + first}


def _sampled_logprob(
    tiles: Sequence[Mapping[str, Tensor]], of_target: Tensor, targets: Tensor, sampling: Sampling
) -> Tensor:
    """[n] log-probability of drawing the target; -inf if it is not among the top k."""
    name = _DRAWN + sampling.name
    if not sampling.top_k:
        return of_target / sampling.temperature - torch.stack([t[name] for t in tiles]).logsumexp(dim=0)
    values = torch.cat([t[name] for t in tiles], dim=1)
    values, places = values.topk(min(sampling.top_k, values.shape[1]), dim=1)
    tokens = torch.cat([t[f"{name} tokens"] for t in tiles], dim=1).gather(1, places)
    logprob = of_target / sampling.temperature - (values / sampling.temperature).logsumexp(dim=1)
    return logprob.masked_fill(~(tokens == targets[:, None]).any(dim=1), float("-inf"))


@torch.inference_mode()
def score_tokens(
    model: Model,
    examples: Sequence[Example],
    *,
    variants: Sequence[Variant] = ("answer",),
    reference: Model | None = None,
    samplings: Sequence[Sampling] = (),
    margins: bool = False,
    token_budget: int | None = None,
) -> TokenScores:
    """Score every answer token of the examples, teacher-forced, in one pass.

    Args:
        model: the model.
        examples: the examples; the result has their order.
        variants: the answers to score; one row for each example and answer, ordered by variant, then by example.
        reference: a model with the same vocabulary; its divergence from the model is scored as ``kl``, and its
            log-probability of the true token as ``reference_logprob``.
        samplings: sampling settings; each adds a column with the log-probability of drawing the true token.
        margins: whether to compute by how much each true token's logit exceeds all others.
        token_budget: the most padded tokens in a batch; `token_budget_of` by default, halved when out of memory.

    Raises:
        DataError: an example does not fit into the context.
        ModelError: the reference has another vocabulary, or a single example does not fit into the memory.
    """
    rows, kinds = with_variants(examples, variants)
    encoded = model.encode(rows)
    for each in (model, reference):
        if each is not None:
            each.model.eval()
    names = (*TOKEN_COLUMNS, "finite", *(s.name for s in samplings), *(("margin",) if margins else ()))
    stops = model.stops(encoded)
    offsets = np.cumsum([0, *(len(labelled(e)) for e in encoded)], dtype=np.int64)
    flat = {name: np.empty(offsets[-1], dtype=_dtype_of(name)) for name in names}
    budget = token_budget or token_budget_of(model, elsewhere=SCORING_BUDGET)
    read = (model,) if reference is None or reference.model is model.model else (model, reference)
    trees = shared_trees(read, encoded, token_budget=budget)

    def score(group: Sequence[TokenTree]) -> Columns:
        members = [i for tree in group for i in tree.members]
        if group[0].shared:
            batch = collate_trees(group, encoded, device=model.device, dtype=dtype_of(model))
        else:
            batch = collate([encoded[i] for i in members], device=model.device)
        labels = len(batch.rows) > 0  # with a peer's prompt an answer may have no token
        columns = _score_batch(model, batch, reference, stops, samplings, margins) if labels else {}
        return {name: columns.get(name, np.zeros(0, dtype=_dtype_of(name))) for name in names}

    def work(group: list[int]) -> Columns:
        chosen = [trees[i] for i in group]
        try:
            columns = score(chosen)
            # in attention, what is not finite spreads to tokens that do not see it
            apart = not columns["finite"].all()
        except RuntimeError as error:
            if len(chosen) > 1 or not chosen[0].shared or not is_out_of_memory(error):
                raise
            columns, apart = {}, True
        if apart and chosen[0].shared:
            each = [score([single_tree(encoded, i)]) for tree in chosen for i in tree.members]
            columns = {name: np.concatenate([found[name] for found in each]) for name in names}
        return columns

    def content() -> list[object]:
        tokens = np.fromiter((t for e in encoded for t in e.tokens), dtype=np.int64)
        starts = np.array([(e.start, e.end, -1 if e.unattended is None else e.unattended) for e in encoded])
        models = [each.model for each in (model, reference) if each is not None]
        members = [tree.members for tree in trees]
        return ["scores", names, stops, str(model.device), members, tokens, starts, offsets, *models]

    with progress.bar(f"score {model.name}", total=len(encoded)) as advance:
        lengths, cost = [len(t.tokens) for t in trees], BATCH_COST.get(model.device.type, BATCH_COST["cpu"])
        labels = list(zip(model.sharing().kinds(lengths), [t.shared for t in trees], strict=True))
        for group, columns in results_in_batches(
            lengths, kinds=labels, token_budget=budget, batch_cost=cost, work=work, content=content
        ):
            members = [i for tree in group for i in trees[tree].members]
            places = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in members])
            for name in names:
                flat[name][places] = columns[name]
            advance(len(members))
    own = np.repeat(np.arange(len(rows)), np.diff(offsets))
    scores = TokenScores(
        ids=tuple(e.id for e in rows),
        subjects=tuple(e.subject for e in rows),
        variants=tuple(kinds),
        offsets=offsets,
        end_lengths=np.array([len(e.tokens) - e.end for e in encoded], dtype=np.int64),
        finite=np.bincount(own[~flat["finite"]], minlength=len(rows)) == 0,
        **{name: flat[name] for name in TOKEN_COLUMNS},
        sampled={s.name: flat[s.name] for s in samplings},
        margin=flat["margin"] if margins else None,
    )
    warn_of_overflow(model, scores.ids, scores.finite)
    return scores


def _score_batch(
    model: Model,
    batch: Batch,
    reference: Model | None,
    stops: Sequence[int],
    samplings: Sequence[Sampling],
    margins: bool,
) -> dict[str, np.ndarray]:
    """The token columns of one batch, as numpy arrays of length N."""
    itself = reference is not None and reference.model is model.model
    ours = AnswerLogits(model.model, batch)
    theirs = None if reference is None or itself else AnswerLogits(reference.model, batch)
    columns = []
    for rows, parts in tile_grid(ours, *(() if theirs is None else (theirs,))):
        targets, tiles = batch.targets[rows].to(ours.device), []
        for tokens in parts:
            logits = ours.tile(rows, tokens)
            other = theirs.tile(rows, tokens) if theirs is not None else logits.clone() if itself else None
            sums = tile_sums(logits, targets, first=tokens.start, reference=other, samplings=samplings, margins=margins)
            tiles.append(sums)
        columns.append(joined(tiles, targets, stops, samplings))
    return {name: torch.cat([c[name] for c in columns]).cpu().numpy() for name in columns[0]}


def _dtype_of(name: str) -> type[np.generic]:
    """The type of a token column."""
    return np.bool_ if name in (*BOOLEAN_COLUMNS, "finite") else np.float32


def let_train(model: Any) -> Any:
    """Require gradients for all parameters, except those that the model's class does not train; returns the model."""
    from transformers import PreTrainedModel

    model.requires_grad_(True)
    inside: set[int] = set()
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and id(part) not in inside:
            inside.update(id(module) for module in part.modules())
            with torch.device("meta"):
                made = type(part)(part.config)
            for name, parameter in made.named_parameters():
                if not parameter.requires_grad:
                    part.get_parameter(name).requires_grad_(False)
    return model


def gradient_norms(model: Model, examples: Sequence[Example]) -> Floats:
    """[E] mean over the model's parameter tensors of the 2-norm of the gradient of an example's mean token loss.

    ``(1/P) sum_p || d(NLL / n) / d theta_p ||_2`` over the n answer tokens, without the end-of-sequence token; dropout
    is off; NaN if there is no answer token. One backward pass an example; leaves the parameters unchanged and without
    gradients.

    Raises:
        DataError: an example does not fit into the context.
    """
    require_on_one_device(model.model, model.name, "the norm of gradients")
    parameters = list(model.model.parameters())
    trainable = [p.requires_grad for p in parameters]
    model.model.eval()
    norms = np.full(len(examples), np.nan)
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with progress.bar(f"gradients {model.name}", total=len(examples)) as advance, torch.enable_grad():
            encoded = [replace(e, tokens=e.tokens[: e.end]) for e in model.encode(examples)]

            def work(group: list[int]) -> Columns:
                answered = [encoded[i] for i in group if encoded[i].end > encoded[i].start]
                found = [
                    deterministic(model.device, partial(_mean_gradient_norm, model, e, parameters)) for e in answered
                ]
                return {"norms": np.array(found or [np.nan])}

            def content() -> list[object]:
                tokens = np.fromiter((t for e in encoded for t in e.tokens), dtype=np.int64)
                return ["gradients", str(model.device), tokens, np.array([e.start for e in encoded]), model.model]

            lengths, kinds = [len(e.tokens) for e in encoded], [()] * len(encoded)
            for group, columns in results_in_batches(
                lengths, kinds=kinds, token_budget=1, batch_cost=0, work=work, content=content
            ):
                norms[group] = columns["norms"]
                advance(len(group))
    finally:
        for parameter, before in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(before)
    return norms


def _mean_gradient_norm(model: Model, encoded: EncodedExample, parameters: Sequence[torch.nn.Parameter]) -> float:
    batch = collate([encoded], device=model.device)
    loss = -token_logprobs(answer_logits(model.model, batch), batch.targets).mean()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return float(np.mean([0.0 if g is None else float(g.float().norm()) for g in gradients]))
