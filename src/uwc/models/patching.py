"""Answers of a model with the states of another put in at one block (activation patching), resumed at that block."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from uwc import progress
from uwc.data.batches import Batch, collate
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.data.spans import Span, span_tokens
from uwc.errors import ModelError, UserError
from uwc.models.batching import BATCH_COST, SCORING_BUDGET, is_out_of_memory, results_in_batches, token_budget_of
from uwc.models.chunks import Columns, of_lists
from uwc.models.head import AnswerLogits, head_sees, relative_tolerance, tile_grid
from uwc.models.model import Model
from uwc.models.states import blocks, capturing_outputs, capturing_states, output_states
from uwc.models.token_scores import Floats

MOST_TOKENS = 8192
"""The most padded tokens in a batch: the outputs of all blocks are kept for it."""
_RESUMES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Module -> whether its runs can be resumed at a block."""


def patched_drops(
    original: Model,
    source: Model,
    sets: Mapping[str, Sequence[Example]],
    *,
    span: Span = "answer",
    token_budget: int | None = None,
    resume: bool = True,
) -> dict[str, Floats]:
    """The log-probability that the original loses with the states of another model at the output of one block.

    ``D_l = s(F) - s(F <- S, l)``, with s the mean log-probability of the span's tokens, teacher-forced, and
    ``F <- S, l`` the original with the output of its block l replaced by that of the source's block l, at the positions
    that predict these tokens. Outputs of blocks are those before the final norm, also for the last block.

    One pass of the source and one of the original give all states. The original's block outputs are kept, and the run
    that is patched at block l starts from them: blocks 1..l are not computed, so that a layer costs ``(L - l) / L`` of
    the blocks. The shortest example is also computed by whole passes, once for an original; if its runs cannot be
    resumed (its blocks share more than their output), all layers take whole passes, with a warning.

    Args:
        original: F, the model before unlearning.
        source: S, of the same number of blocks and size of states.
        sets: the examples by set.
        span: the measured tokens, see `span_tokens`.
        token_budget: the most padded tokens in a batch; `token_budget_of` by default, halved when out of memory.
        resume: whether runs may be resumed; False takes whole passes.

    Returns:
        Set -> [E, L] D in nats, for blocks 1..L; NaN for an example without such a span, or whose logits are not
        finite.

    Raises:
        ModelError: the models have other blocks, sizes or tokens, or no list of blocks.
        DataError: an example does not fit into the context.

    Source: arXiv:2605.24614.
    """
    depth = _common_depth(original, source)
    work = {name: _Work.of(original, source, examples, span) for name, examples in sets.items()}
    found = {name: np.full((len(of_set.spans), depth), np.nan) for name, of_set in work.items()}
    if original.model is source.model:
        for name, of_set in work.items():
            found[name][of_set.measured] = 0.0
        return found
    for model in (original, source):
        model.model.eval()
    resume = resume and _resumes(original, source, list(work.values()))
    for name, of_set in work.items():
        _fill(found[name], original, source, of_set, resume=resume, token_budget=token_budget)
    return found


class _Work:
    """The encoded examples of a set, cut behind the last measured token, which nothing after it affects."""

    def __init__(self, encoded: Sequence[EncodedExample], spans: Sequence[list[int]]) -> None:
        self.spans = spans
        self.measured = [i for i, tokens in enumerate(spans) if tokens]
        self.encoded = [
            replace(e, tokens=e.tokens[: tokens[-1] + 1]) if tokens else e
            for e, tokens in zip(encoded, spans, strict=True)
        ]

    @classmethod
    def of(cls, original: Model, source: Model, examples: Sequence[Example], span: Span) -> "_Work":
        encoded, theirs = original.encode(examples), source.encode(examples)
        for ours, other in zip(encoded, theirs, strict=True):
            if ours.tokens != other.tokens:
                raise ModelError(
                    f"{source.name} reads the question {ours.id!r} as other tokens than {original.name}, so that its "
                    "states cannot take the place of the original's; read all models with the original's tokenizer "
                    "and prompt (leave model.own_tokenizer out)"
                )
        spans = [span_tokens(e, example.secret, span) for e, example in zip(encoded, examples, strict=True)]
        return cls(encoded, spans)

    def batch(self, group: Sequence[int], device: torch.device) -> Batch:
        """The batch of some examples, in which only the tokens of the spans are labelled."""
        batch = collate([self.encoded[i] for i in group], device=device)
        wanted = {(row, token) for row, i in enumerate(group) for token in self.spans[i]}
        labelled = zip(batch.rows.tolist(), (batch.positions + 1).tolist(), strict=True)
        kept = torch.tensor([place in wanted for place in labelled], dtype=torch.bool, device=device)
        return replace(
            batch,
            rows=batch.rows[kept],
            positions=batch.positions[kept],
            targets=batch.targets[kept],
            in_answer=batch.in_answer[kept],
        )


def _fill(
    found: Floats, original: Model, source: Model, work: _Work, *, resume: bool, token_budget: int | None
) -> None:
    """Write the drops of the measured examples of a set into `found`, [E, L]."""
    lengths = [len(work.encoded[i].tokens) for i in work.measured]

    def run(group: list[int]) -> Columns:
        batch = work.batch([work.measured[i] for i in group], original.device)
        return {"drops": _drops(original.model, source.model, batch, resume=resume)}

    def content() -> list[object]:
        texts, spans = ([of[i] for i in work.measured] for of in ([e.tokens for e in work.encoded], work.spans))
        read = [column for lists in (texts, spans) for column in of_lists(lists).values()]
        return ["depth", str(original.device), resume, *read, original.model, source.model]

    budget = token_budget or min(token_budget_of(original, elsewhere=SCORING_BUDGET), MOST_TOKENS)
    kinds = list(zip(original.sharing().kinds(lengths), source.sharing().kinds(lengths), strict=True))
    cost = BATCH_COST.get(original.device.type, BATCH_COST["cpu"])
    with progress.bar(f"depth {source.name}", total=len(lengths)) as advance:
        for group, columns in results_in_batches(
            lengths, kinds=kinds, token_budget=budget, batch_cost=cost, work=run, content=content
        ):
            found[[work.measured[i] for i in group]] = columns["drops"]
            advance(len(group))


def _common_depth(original: Model, source: Model) -> int:
    """The number of blocks of both models. Raises ModelError if they differ in it, or in the size of their states."""
    sizes = []
    for model in (original, source):
        config = model.model.config.get_text_config()
        sizes.append((len(blocks(model.model)), int(config.hidden_size)))
    if sizes[0] != sizes[1]:
        (ours, width), (theirs, other) = sizes
        raise ModelError(
            f"{source.name} has {theirs} blocks with states of {other} numbers, and {original.name} {ours} blocks of "
            f"{width}: the states of the one cannot take the place of the other's; the unlearning depth score needs "
            "models of one architecture and size"
        )
    return sizes[0][0]


def _resumes(original: Model, source: Model, sets: Sequence[_Work]) -> bool:
    """Whether the original's runs can be resumed; found out with the first example."""
    lengths = [(len(work.encoded[i].tokens), place, i) for place, work in enumerate(sets) for i in work.measured]
    shortest = min(lengths, default=None)
    if shortest is None:
        return True
    if original.model not in _RESUMES:
        batch = sets[shortest[1]].batch([shortest[2]], original.device)
        _RESUMES[original.model] = _agree(original, source, batch)
    return _RESUMES[original.model]


def _agree(original: Model, source: Model, batch: Batch) -> bool:
    """Whether the resumed runs of a batch give the drops of whole passes."""
    whole = _drops(original.model, source.model, batch, resume=False)
    try:
        resumed = _drops(original.model, source.model, batch, resume=True)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # whatever a block does without the one before it
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    else:
        bound = 10 * relative_tolerance(next(original.model.parameters()).dtype)
        if np.allclose(resumed, whole, rtol=bound, atol=bound, equal_nan=True):
            return True
        reason = f"the result differs by {np.nanmax(np.abs(resumed - whole)):.3g} nats"
    progress.warn(
        f"{original.name}: a run cannot be resumed at one of its blocks ({reason}); every layer takes a whole pass"
    )
    return False


@torch.no_grad()
def _drops(original: Any, source: Any, batch: Batch, *, resume: bool) -> Floats:
    """[B, L] the drops of one batch, each example of which has a labelled token."""
    depth = len(blocks(original))
    layers = range(1, depth + 1)
    with capturing_states(source, layers, batch) as theirs, head_sees(source, _first):
        source(**batch.inputs, use_cache=False)
    outputs: list[Any] = []
    with _keeping_outputs(original, outputs) if resume else capturing_outputs(original, ()):
        plain = _span_means(original, batch)
    drops = np.empty((batch.size, depth))
    for layer in reversed(layers):  # what blocks 1..l keep from their last run is then that of the model's own
        states = theirs.pop(layer)
        with _resumed(original, outputs, states, batch) if resume else _hooked(original, layer, states, batch):
            drops[:, layer - 1] = plain - _span_means(original, batch)
        if resume:
            outputs.pop()
    return drops


@contextmanager
def _keeping_outputs(model: Any, outputs: list[Any]) -> Iterator[None]:
    """While open, a forward pass fills `outputs` with what each block returns."""
    modules = blocks(model)
    outputs[:] = [None] * len(modules)

    def hook_of(index: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            outputs[index] = output

        return hook

    with ExitStack() as stack:
        for index, module in enumerate(modules):
            stack.callback(module.register_forward_hook(hook_of(index)).remove)
        yield


@contextmanager
def _resumed(model: Any, outputs: Sequence[Any], states: Tensor, batch: Batch) -> Iterator[None]:
    """While open, the first ``len(outputs)`` blocks return these outputs without computing them, the last one with the
    [N, d] states put in."""
    returned = [*outputs[:-1], _with_states(outputs[-1], states, batch)]
    modules = list(blocks(model))[: len(returned)]
    before = [vars(module).get("forward") for module in modules]
    try:
        for module, output in zip(modules, returned, strict=True):
            module.forward = _returning(output)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                vars(module).pop("forward", None)
            else:
                module.forward = own


def _returning(output: Any) -> Any:
    return lambda *_args, **_options: output


@contextmanager
def _hooked(model: Any, layer: int, states: Tensor, batch: Batch) -> Iterator[None]:
    """While open, a whole pass has the [N, d] states put in at the output of a block."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return _with_states(output, states, batch)

    handle = blocks(model)[layer - 1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _with_states(output: Any, states: Tensor, batch: Batch) -> Any:
    """A block's output with the [N, d] states at the positions that predict the batch's labelled tokens."""
    patched = output_states(output).clone()
    if patched.shape[:-1] != batch.input_ids.shape:
        raise ModelError(
            f"the blocks return states of shape {tuple(patched.shape)}, and not one for each of "
            f"{tuple(batch.input_ids.shape)} tokens, so that they cannot be replaced; leave the metric uds out"
        )
    places = batch.rows.to(patched.device), batch.positions.to(patched.device)
    patched[places] = states.to(device=patched.device, dtype=patched.dtype)
    if isinstance(output, tuple | list):
        return type(output)((patched, *output[1:]))
    return patched


def _span_means(model: Any, batch: Batch) -> Floats:
    """[B] the mean log-probability of each example's labelled tokens; NaN if a logit is not finite."""
    logits = AnswerLogits(model, batch)
    found = np.concatenate([_logprobs(logits, batch, rows, parts).cpu().numpy() for rows, parts in tile_grid(logits)])
    rows = batch.rows.cpu().numpy()
    sums = np.bincount(rows, weights=found.astype(np.float64), minlength=batch.size)
    means: Floats = sums / np.bincount(rows, minlength=batch.size)
    return means


def _logprobs(logits: AnswerLogits, batch: Batch, rows: slice, parts: Sequence[slice]) -> Tensor:
    """[n] float32 log-probabilities of a slice of the labelled tokens, from tiles of the vocabulary."""
    targets, sums = batch.targets[rows], []
    own = torch.zeros(len(targets), device=targets.device)
    for tokens in parts:
        z = logits.tile(rows, tokens).float()
        place = targets.to(z.device) - tokens.start
        inside = (place >= 0) & (place < z.shape[1])
        picked = z.gather(1, place.clamp(0, z.shape[1] - 1)[:, None])[:, 0]
        own = own.to(z.device) + torch.where(inside, picked, 0.0)
        sums.append(z.logsumexp(dim=1))
    found = own - torch.stack(sums).logsumexp(dim=0)
    return torch.where(torch.isfinite(found), found, torch.nan)


def _first(entering: Tensor) -> Tensor:
    return entering[0, :1]
