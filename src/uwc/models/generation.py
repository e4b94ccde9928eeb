"""Greedy generation of answers, ours and by the rules of other evaluation codes."""

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from torch import Tensor

from uwc import progress
from uwc.data.example import Example
from uwc.data.peer_prompts import cleaned, padding_of
from uwc.models.batching import own_settings_off, run_in_batches, token_budget_of
from uwc.models.model import Model

T = TypeVar("T")


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

    An answer ends at any token that ends the model's turn (`Model.stops`).

    Args:
        model: the model.
        examples: the questions.
        max_new_tokens: the most tokens of an answer.
        token_budget: the most tokens in a batch; from the free memory by default, halved when out of memory.

    Raises:
        DataError: a question with its answer does not fit into the context.
    """
    encoded = model.encode(examples)
    prompts = [list(e.before) for e in encoded]
    stops = model.stops(encoded)
    continued = partial(continue_greedily, model, stops=stops, max_new_tokens=max_new_tokens)
    added = continue_all(model, prompts, continued, max_new_tokens=max_new_tokens, token_budget=token_budget)
    texts = [model.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens, _ in added]
    return Generated(
        tuple(tuple(tokens) for tokens, _ in added), tuple(texts), np.array([finite for _, finite in added], dtype=bool)
    )


def shortest_similar_prefixes(
    model: Model, examples: Sequence[Example], exact: NDArray[np.int64], *, share: float = 0.5
) -> NDArray[np.float64]:
    """[E] the fewest answer tokens after which the greedy continuation is similar to the rest of the answer.

    ``k* = min{k : LCS(continuation of (x, y_1..y_k), y_{k+1..n}) >= share * (n - k)}``, at most `exact`. Prefixes are
    tried in order, since similarity need not increase with the prefix; those of all examples in one batch.

    Args:
        model: the model.
        examples: questions and answers.
        exact: [E] the shortest prefix whose continuation is exact, ``n (1 - ES)``.
        share: the least share of the rest that is in common, in order.
    """
    encoded = model.encode(examples)
    stops = model.stops(encoded)
    found = exact.astype(np.float64)
    open_ = [i for i in range(len(encoded)) if exact[i] > 0]
    with progress.bar(f"similar continuations {model.name}", total=int(max(exact, default=0))) as advance:
        for k in range(int(max(exact, default=0))):
            open_ = [i for i in open_ if k < exact[i]]
            prompts = [list(encoded[i].tokens[: encoded[i].start + k]) for i in open_]
            rests = [encoded[i].tokens[encoded[i].start + k : encoded[i].end] for i in open_]
            if not open_:
                break
            longest = max(len(r) for r in rests)
            continued = partial(continue_greedily, model, stops=stops, max_new_tokens=longest)
            added = continue_all(model, prompts, continued, max_new_tokens=longest)
            alike = [_similar(c[: len(r)], r, share) for (c, _), r in zip(added, rests, strict=True)]
            found[[i for i, a in zip(open_, alike, strict=True) if a]] = k
            open_ = [i for i, a in zip(open_, alike, strict=True) if not a]
            advance()
    return found


class _Ids:
    """A tokenizer for ROUGE whose words are token ids written as numbers."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


_IDS_ROUGE = RougeScorer(["rougeL"], tokenizer=_Ids())


def _similar(continuation: Sequence[int], rest: Sequence[int], share: float) -> bool:
    if not continuation:
        return False
    texts = [" ".join(map(str, tokens)) for tokens in (rest, continuation)]
    return bool(_IDS_ROUGE.score(*texts)["rougeL"].recall >= share)


def continue_all(
    model: Model,
    prompts: Sequence[list[int]],
    continued: Callable[[list[list[int]]], list[T]],
    *,
    max_new_tokens: int,
    token_budget: int | None = None,
) -> list[T]:
    """Apply `continued` to batches of prompts that fit the memory; results are in the order of the prompts.

    Args:
        model: the model.
        prompts: token ids.
        continued: a function from a batch of prompts to one result each.
        max_new_tokens: the most tokens that it adds to a prompt.
        token_budget: the most tokens in a batch; from the free memory by default, halved when out of memory.
    """
    found: dict[int, T] = {}

    def work(group: list[int]) -> None:
        found.update(zip(group, continued([prompts[i] for i in group]), strict=True))

    budget = token_budget or token_budget_of(model)
    with progress.bar(f"generate {model.name}", total=len(prompts)) as advance:
        kinds = model.sharing().prompt_kinds([len(p) for p in prompts], new=max_new_tokens)
        lengths = [len(p) + max_new_tokens for p in prompts]
        for group in run_in_batches(lengths, kinds=kinds, token_budget=budget, batch_cost=budget, work=work):
            advance(len(group))
    return [found[i] for i in range(len(prompts))]


@torch.inference_mode()
def continue_greedily(
    model: Model, prompts: Sequence[list[int]], *, max_new_tokens: int, stops: Sequence[int] | None = None
) -> list[tuple[list[int], bool]]:
    """The greedy continuation of each prompt of token ids, up to a token that ends it, and whether all logits were
    finite.

    Args:
        model: the model.
        prompts: non-empty lists of token ids; padded on the left into one batch.
        max_new_tokens: the most new tokens.
        stops: the tokens that end a continuation; those that end the model's turn by default.
    """
    from transformers import GenerationConfig, LogitsProcessorList

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
            input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=watching
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
    added = continue_all(model, prompts, continued, max_new_tokens=max_new_tokens, token_budget=token_budget)
    end, stops = model.tokenizer.decode([model.tokenizer.eos_token_id]), _listed(model)
    texts = [cleaned(tokens, model.tokenizer) for tokens, _ in added]
    return Generated(
        tuple(tuple(until(tokens, stops)) for tokens, _ in added),
        tuple((text.split(end)[0] if end else text).strip() for text in texts),
        np.array([finite for _, finite in added], dtype=bool),
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
