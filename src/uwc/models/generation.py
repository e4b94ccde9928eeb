"""Greedy generation of answers, ours and by the rules of other evaluation codes."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uwc import progress
from uwc.data.example import Example
from uwc.data.peer_prompts import cleaned, padding_of
from uwc.models.batching import own_settings_off, results_in_batches, token_budget_of
from uwc.models.chunks import Columns, of_lists, to_lists
from uwc.models.model import Model
from uwc.models.overflow import warn_of_overflow


@dataclass(frozen=True)
class Generated:
    """Greedy answers to E questions.

    Attributes:
        tokens: [E] the token ids of each answer, without the end.
        texts: [E] their texts, without special tokens and surrounding white space; ``""`` if the model stopped at once.
        finite: [E] whether all logits were finite; otherwise the answer is meaningless.
    """

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    finite: NDArray[np.bool_]


def generate(
    model: Model, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
) -> Generated:
    """Greedy answers of at most `max_new_tokens` tokens.

    An answer ends at any token that ends the model's turn (`Model.stops`), and before the first of the prompt's stop
    texts (`PromptTemplate.stop_texts`), which passages do not have.

    Args:
        model: the model.
        examples: the questions.
        max_new_tokens: the most tokens of an answer.
        token_budget: the most tokens in a batch; `token_budget_of` by default, halved when out of memory.

    Raises:
        DataError: a question with its answer does not fit into the context.
    """
    encoded = model.encode(examples)
    prompts = [list(e.before) for e in encoded]
    stops = model.stops(encoded)
    del encoded
    stop_texts = model.template.stop_texts(chat=model.template.uses_chat(model.tokenizer))
    plain = stop_texts and not hasattr(model.model, "inner") and not any(e.raw for e in examples)

    def continued(prompts: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
        ended = _Said(model.tokenizer, stop_texts, after=max(map(len, prompts))) if plain else None
        return continue_greedily(model, prompts, stops=stops, max_new_tokens=max_new_tokens, ended=ended)

    added = continue_all(
        model,
        prompts,
        continued,
        max_new_tokens=max_new_tokens,
        content=("ours", stops, stop_texts if plain else ()),
        token_budget=token_budget,
    )
    kept, texts = [], []
    for example, (tokens, _) in zip(examples, added, strict=True):
        tokens, text = answer_cut(model.tokenizer, tokens, () if example.raw else stop_texts)
        kept.append(tuple(tokens))
        texts.append(text.strip())
    finite = np.array([fine for _, fine in added], dtype=bool)
    warn_of_overflow(model, [e.id for e in examples], finite)
    return Generated(tuple(kept), tuple(texts), finite)


class _Said:
    """A stopping criterion: a row ends once one of the stop texts stands in its new tokens.

    Args:
        tokenizer: the tokenizer.
        stop_texts: the texts.
        after: the number of tokens before the new ones.
    """

    def __init__(self, tokenizer: Any, stop_texts: Sequence[str], *, after: int) -> None:
        self._tokenizer, self._texts, self._after = tokenizer, stop_texts, after

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """[B] which rows have ended."""
        return said(self._tokenizer, self._texts, input_ids[:, self._after :], last=1)


def said(tokenizer: Any, stop_texts: Sequence[str], tokens: Tensor, *, last: int) -> Tensor:
    """[B] whether one of the stop texts ends in the last tokens of [B, T] new ones.

    Args:
        tokenizer: the tokenizer.
        stop_texts: the texts.
        tokens: the new tokens of each row.
        last: the number of tokens since the search before.
    """
    longest = max(len(text.encode()) for text in stop_texts) + last
    texts = tokenizer.batch_decode(tokens[:, -longest:].tolist(), skip_special_tokens=True)
    return torch.tensor([any(t in text for t in stop_texts) for text in texts], device=tokens.device)


def before_any(text: str, others: Sequence[str]) -> str:
    """The text before the first of some others in it; all of it without one."""
    places = [place for other in others if (place := text.find(other)) >= 0]
    return text[: min(places)] if places else text


def answer_cut(tokenizer: Any, tokens: list[int], stop_texts: Sequence[str]) -> tuple[list[int], str]:
    """The tokens and the text before the first of the stop texts; a token that reaches into it is not one of them."""
    whole = str(tokenizer.decode(tokens, skip_special_tokens=True))
    text = before_any(whole, stop_texts)
    if len(text) == len(whole):
        return tokens, text
    while tokens and len(tokenizer.decode(tokens, skip_special_tokens=True)) > len(text):
        tokens = tokens[:-1]
    return tokens, text


def shortest_similar_prefixes(
    model: Model, examples: Sequence[Example], correct: Sequence[NDArray[np.bool_]], *, share: float = 0.5
) -> NDArray[np.float64]:
    """[E] the fewest answer tokens after which the greedy continuation is similar to the rest of the answer.

    ``k* = min{k : LCS(continuation of (x, y_1..y_k), y_{k+1..n}) >= share * (n - k)}``, at most the shortest prefix
    whose continuation is exact. Similarity need not increase with the prefix, so that all shorter ones are tried, in
    order and in growing batches. A prefix before correct tokens needs no generation of its own: they belong to its
    continuation, and to the common subsequence. A continuation ends as soon as it is similar, or can no longer be.

    Args:
        model: the model.
        examples: questions and answers.
        correct: for each example, which answer tokens greedy decoding predicts.
        share: the least share of the rest that is in common, in order; up to 1.
    """
    encoded = model.encode(examples)
    stops = model.stops(encoded)
    answers = [e.tokens[e.start : e.end] for e in encoded]
    places = [places_of(answer) for answer in answers]
    waiting = {i: _tries(answers[i], right, stops) for i, right in enumerate(correct)}
    found = np.array([tries[-1][1] + 1 if tries else 0 for tries in waiting.values()], dtype=np.float64)
    count = 1
    with progress.bar(f"similar continuations {model.name}", total=int(found.sum())) as advance:
        while waiting := {i: tries for i, tries in waiting.items() if tries}:
            parts = [(i, k, end) for i, tries in waiting.items() for k, end in tries[:count]]
            needed = [
                Similarity(places[i], end, len(answers[i]), _least(share, len(answers[i]) - k) - (end - k))
                for i, k, end in parts
            ]
            prompts = [list(encoded[i].tokens[: encoded[i].start + end]) for i, _, end in parts]
            similar = _reach(model, prompts, needed, stops)
            reached: dict[int, int] = {}
            for (i, k, _), alike in zip(parts, similar, strict=True):
                if alike:
                    reached.setdefault(i, k)
            for i, tries in waiting.items():
                waiting[i] = [] if i in reached else tries[count:]
                advance((waiting[i][0][0] if waiting[i] else int(found[i])) - tries[0][0])
            found[list(reached)] = list(reached.values())
            count = min(2 * count, _TRIES)
    return found


_TRIES = 256
"""The most prefixes of an answer that are tried at once."""


def _tries(answer: Sequence[int], correct: NDArray[np.bool_], stops: Collection[int]) -> list[tuple[int, int]]:
    """The prefixes to try, in order: ``(k, end)``, with the answer correct from k to `end` and not after it.

    Of the prefixes before a run of correct tokens the shortest is similar if any is.
    """
    wrong = np.flatnonzero(~correct)
    ends = [k for k in range(wrong[-1] + 1 if len(wrong) else 0) if not correct[k] or answer[k] in stops]
    return list(zip([0, *(end + 1 for end in ends)], ends, strict=False))


def _least(share: float, length: int) -> int:
    """The least number of common tokens that is a share of a length."""
    return next(n for n in range(max(int(share * length) - 1, 1), length + 1) if n / length >= share)


def places_of(tokens: Sequence[int]) -> dict[int, int]:
    """Token -> the bits of its places."""
    found: dict[int, int] = {}
    for place, token in enumerate(tokens):
        found[token] = found.get(token, 0) | 1 << place
    return found


class Similarity:
    """Whether a growing continuation has enough tokens in common with a rest, in order.

    The longest common subsequence is updated by each token in ``O(len(rest) / 64)`` (Hyyro 2004).

    Args:
        places: token -> the bits of its places in the answer.
        start: the first place of the rest.
        length: the length of the answer.
        least: the number of common tokens that is enough.
    """

    def __init__(self, places: Mapping[int, int], start: int, length: int, least: int) -> None:
        self.left, self.least, self.similar = length - start, least, least <= 0
        self.places, self._start = places, start
        self._all = self._row = (1 << self.left) - 1

    @property
    def open(self) -> bool:
        """Whether further tokens decide."""
        return not self.similar and self.left > 0

    def add(self, token: int) -> None:
        """Continue by a token."""
        same = self._row & self.places.get(token, 0) >> self._start
        self._row = (self._row + same | self._row - same) & self._all
        common = (self._all ^ self._row).bit_count()
        self.left -= 1
        self.similar = common >= self.least
        if common + self.left < self.least:
            self.left = 0


def _reach(model: Model, prompts: list[list[int]], needed: Sequence[Similarity], stops: Sequence[int]) -> list[bool]:
    """Whether each prompt's continuation has the needed tokens."""
    open_ = [i for i, need in enumerate(needed) if need.open]
    if not open_:
        return [need.similar for need in needed]

    def continued(group: list[int]) -> Columns:
        fresh = [copy.copy(needed[open_[i]]) for i in group]
        most = max(need.left for need in fresh)
        watch = _Decided(fresh, stops)
        continue_greedily(model, [prompts[open_[i]] for i in group], stops=stops, max_new_tokens=most, ended=watch)
        return {"similar": np.array([need.similar for need in fresh], dtype=bool)}

    def content() -> list[object]:
        sought = [(needed[i].left, needed[i].least, needed[i].places) for i in open_]
        return ["similar", str(model.device), stops, [prompts[i] for i in open_], repr(sought), model.model]

    lengths = [len(prompts[i]) + needed[i].left for i in open_]
    kinds = model.sharing().prompt_kinds([len(prompts[i]) for i in open_], new=max(needed[i].left for i in open_))
    budget = token_budget_of(model)
    for group, columns in results_in_batches(
        lengths, kinds=kinds, token_budget=budget, batch_cost=budget, work=continued, content=content
    ):
        for i, similar in zip(group, columns["similar"].tolist(), strict=True):
            needed[open_[i]].similar = similar
    return [need.similar for need in needed]


class _Decided:
    """A stopping criterion: a row ends once its similarity is decided."""

    def __init__(self, needed: Sequence[Similarity], stops: Collection[int]) -> None:
        self._needed, self._stops = needed, stops

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """[B] which rows have ended."""
        for need, token in zip(self._needed, input_ids[:, -1].tolist(), strict=True):
            if need.open and token in self._stops:
                need.left = 0
            elif need.open:
                need.add(token)
        return torch.tensor([not need.open for need in self._needed], device=input_ids.device)


def continue_all(
    model: Model,
    prompts: Sequence[list[int]],
    continued: Callable[[list[list[int]]], list[tuple[list[int], bool]]],
    *,
    max_new_tokens: int,
    content: Sequence[object] = (),
    token_budget: int | None = None,
) -> list[tuple[list[int], bool]]:
    """Apply `continued` to batches of prompts that fit the memory; results are in the order of the prompts.

    Args:
        model: the model.
        prompts: token ids.
        continued: a function from a batch of prompts to the new tokens of each, and whether all logits were finite.
        max_new_tokens: the most tokens that it adds to a prompt.
        content: what determines its results besides the model, the prompts and `max_new_tokens`.
        token_budget: the most tokens in a batch; `token_budget_of` by default, halved when out of memory.
    """
    found: list[tuple[list[int], bool]] = [([], True)] * len(prompts)
    numbers: dict[int, int] = {}  # one object for each token, since every new one takes 28 bytes

    def work(group: list[int]) -> Columns:
        added = continued([prompts[i] for i in group])
        return {**of_lists([t for t, _ in added]), "finite": np.array([fine for _, fine in added], dtype=bool)}

    def determining() -> list[object]:
        return ["answers", *content, max_new_tokens, str(model.device), list(prompts), model.model]

    budget = token_budget or token_budget_of(model)
    with progress.bar(f"generate {model.name}", total=len(prompts)) as advance:
        kinds = model.sharing().prompt_kinds([len(p) for p in prompts], new=max_new_tokens)
        lengths = [len(p) + max_new_tokens for p in prompts]
        for group, columns in results_in_batches(
            lengths, kinds=kinds, token_budget=budget, batch_cost=budget, work=work, content=determining
        ):
            for i, tokens, fine in zip(group, to_lists(columns), columns["finite"].tolist(), strict=True):
                found[i] = list(map(numbers.setdefault, tokens, tokens)), fine
            advance(len(group))
    return found


@torch.inference_mode()
def continue_greedily(
    model: Model,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stops: Sequence[int] | None = None,
    ended: Callable[..., Tensor] | None = None,
) -> list[tuple[list[int], bool]]:
    """The greedy continuation of each prompt of token ids, up to a token that ends it, and whether all logits were
    finite.

    Args:
        model: the model.
        prompts: non-empty lists of token ids; padded on the left into one batch.
        max_new_tokens: the most new tokens.
        stops: the tokens that end a continuation; those that end the model's turn by default.
        ended: a further criterion of transformers that ends rows.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    stops = model.stops(()) if stops is None else stops
    ids, mask, pad = padded_left(model, prompts, stops)
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=list(stops) or None, pad_token_id=pad
    )
    model.model.eval()
    watch = FiniteWatch(len(prompts))
    with own_settings_off(model.model):
        watching = LogitsProcessorList([watch])
        output = model.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=watching,
            stopping_criteria=StoppingCriteriaList([] if ended is None else [ended]),
        )
    added = [until(tokens, stops) for tokens in output[:, ids.shape[1] :].tolist()]
    return [(tokens, watch.finite(row, len(tokens) + 1)) for row, tokens in enumerate(added)]


def padded_left(model: Model, prompts: Sequence[list[int]], stops: Sequence[int]) -> tuple[Tensor, Tensor, int]:
    """[B, T] prompts padded on the left, their attention mask, and the padding token."""
    pad = model.tokenizer.pad_token_id
    pad = int(pad if pad is not None else next(iter(stops), 0))
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    return ids, mask, pad


def until(tokens: Sequence[int], stops: Collection[int]) -> list[int]:
    """The tokens before the first one in `stops`."""
    return list(takewhile(lambda token: token not in stops, tokens))


class FiniteWatch:
    """A logits processor that records whether logits are finite, and returns them unchanged.

    Args:
        rows: the number of prompts, each possibly with several beams.
        suppressed: whether logits of minus infinity, as made by some generation settings, are allowed besides others.
    """

    def __init__(self, rows: int, *, suppressed: bool = False) -> None:
        self._rows, self._suppressed = rows, suppressed
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores, unchanged."""
        finite = torch.isfinite(scores.amax(dim=1, keepdim=True) if self._suppressed else scores)
        self._steps.append(finite.all(dim=1).view(self._rows, -1).all(dim=1))
        return scores

    def finite(self, row: int, steps: int) -> bool:
        """Whether a row's logits were finite in the first `steps` steps."""
        return all(bool(step[row]) for step in self._steps[:steps])


def generate_as_open_unlearning(
    model: Model, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
) -> Generated:
    """As `generate`, by OpenUnlearning's rules.

    Generation is greedy with the other settings of the checkpoint's ``generation_config.json`` (such as a repetition
    penalty), and ends only at the tokens listed there. The padding token is not attended to, also inside the prompt. A
    text is cut at the end of sequence if that is not a special token.
    """
    prompts = [list(e.before) for e in model.encode(examples)]
    continued = partial(_continued, model, max_new_tokens=max_new_tokens)
    added = continue_all(
        model,
        prompts,
        continued,
        max_new_tokens=max_new_tokens,
        content=("open-unlearning", str(getattr(model.model, "generation_config", ""))),
        token_budget=token_budget,
    )
    end, stops = model.tokenizer.decode([model.tokenizer.eos_token_id]), _listed(model)
    texts = [cleaned(tokens, model.tokenizer) for tokens, _ in added]
    finite = np.array([fine for _, fine in added], dtype=bool)
    warn_of_overflow(model, [e.id for e in examples], finite)
    return Generated(
        tuple(tuple(until(tokens, stops)) for tokens, _ in added),
        tuple((text.split(end)[0] if end else text).strip() for text in texts),
        finite,
    )


@torch.inference_mode()
def _continued(model: Model, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[tuple[list[int], bool]]:
    """The continuation of each prompt, including the token that ends it, and whether all logits were finite."""
    from transformers import LogitsProcessorList

    padding, stops = padding_of(model.tokenizer), _listed(model)
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=model.device)
    own = copy.deepcopy(model.model.generation_config)
    own.update(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=model.tokenizer.eos_token_id)
    model.model.eval()
    watch = FiniteWatch(len(prompts), suppressed=True)
    output = model.model.generate(
        input_ids=ids,
        attention_mask=ids != padding,
        generation_config=own,
        logits_processor=LogitsProcessorList([watch]),
    )
    added = [tokens[: len(until(tokens, stops)) + 1] for tokens in output[:, width:].tolist()]
    return [(tokens, watch.finite(row, len(tokens))) for row, tokens in enumerate(added)]


def _listed(model: Model) -> list[int]:
    """The end tokens of the generation configuration."""
    listed = model.model.generation_config.eos_token_id
    return [listed] if isinstance(listed, int) else list(listed or ())
