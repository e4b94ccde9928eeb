"""Greedy generation of answers, for the metrics that read text."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer
from transformers import GenerationConfig

from uwc import progress
from uwc.data.example import Example
from uwc.models.budget import run_in_batches, token_budget_of
from uwc.models.target import Target


def generate(
    target: Target, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
) -> list[str]:
    """Answer each question greedily, with up to `max_new_tokens` tokens; special tokens are left out.

    Returns:
        One text an example, in their order, without surrounding white space; ``""`` if the model stopped at once.

    Raises:
        DataError: a question with its answer does not fit into the context.
    """
    tokens = generate_tokens(target, examples, max_new_tokens=max_new_tokens, token_budget=token_budget)
    return decode(target, tokens)


def generate_tokens(
    target: Target, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
) -> list[list[int]]:
    """As `generate`, but the token ids of the answers, without the end-of-sequence token.

    Args:
        target: the model.
        examples: the questions.
        max_new_tokens: the most tokens of an answer.
        token_budget: the most tokens in a batch; by default what fits the memory. Halved on out-of-memory.
    """
    prompts = [list(e.tokens[: e.start]) for e in target.encode(examples)]
    return _continue_all(target, prompts, max_new_tokens=max_new_tokens, token_budget=token_budget)


def decode(target: Target, tokens: Sequence[Sequence[int]]) -> list[str]:
    """The texts of token ids, without special tokens and surrounding white space."""
    return [target.tokenizer.decode(list(t), skip_special_tokens=True).strip() for t in tokens]


def shortest_similar_prefixes(
    target: Target, examples: Sequence[Example], exact: NDArray[np.int64], *, share: float = 0.5
) -> NDArray[np.float64]:
    """[E] the fewest answer tokens after which the greedy continuation is similar to the rest of the answer.

    ``k* = min{k : LCS(continuation of (x, y_1..y_k), y_{k+1..n}) >= share * (n - k)}``; where every shorter prefix
    fails, the prefix from which the continuation is exact. All prefixes are tried in order, those of all examples at
    once, for similarity need not grow with the prefix.

    Args:
        target: the model.
        examples: questions and answers.
        exact: [E] the shortest prefix whose continuation is exact, ``n (1 - ES)``.
        share: how much of the rest must be in common, in order.
    """
    encoded = target.encode(examples)
    found = exact.astype(np.float64)
    open_ = [i for i in range(len(encoded)) if exact[i] > 0]
    with progress.bar(f"similar continuations {target.name}", total=int(max(exact, default=0))) as advance:
        for k in range(int(max(exact, default=0))):
            open_ = [i for i in open_ if k < exact[i]]
            prompts = [list(encoded[i].tokens[: encoded[i].start + k]) for i in open_]
            rests = [encoded[i].tokens[encoded[i].start + k : encoded[i].end] for i in open_]
            if not open_:
                break
            longest = max(len(r) for r in rests)
            continued = _continue_all(target, prompts, max_new_tokens=longest, token_budget=None)
            alike = [_similar(c[: len(r)], r, share) for c, r in zip(continued, rests, strict=True)]
            found[[i for i, a in zip(open_, alike, strict=True) if a]] = k
            open_ = [i for i, a in zip(open_, alike, strict=True) if not a]
            advance()
    return found


class _Ids:
    """A tokenizer for ROUGE that takes token ids, written as numbers, for words."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


_IDS_ROUGE = RougeScorer(["rougeL"], tokenizer=_Ids())


def _similar(continuation: Sequence[int], rest: Sequence[int], share: float) -> bool:
    if not continuation:
        return False
    texts = [" ".join(map(str, tokens)) for tokens in (rest, continuation)]
    return bool(_IDS_ROUGE.score(*texts)["rougeL"].recall >= share)


def _continue_all(
    target: Target, prompts: Sequence[list[int]], *, max_new_tokens: int, token_budget: int | None
) -> list[list[int]]:
    """`continue_greedily` in batches that fit the memory, in the order of the prompts."""
    result: list[list[int]] = [[]] * len(prompts)

    def work(group: list[int]) -> None:
        added = continue_greedily(target, [prompts[i] for i in group], max_new_tokens=max_new_tokens)
        for index, tokens in zip(group, added, strict=True):
            result[index] = tokens

    budget = token_budget or token_budget_of(target)
    with progress.bar(f"generate {target.name}", total=len(prompts)) as advance:
        lengths = [len(p) + max_new_tokens for p in prompts]
        for group in run_in_batches(lengths, token_budget=budget, batch_cost=budget, work=work):
            advance(len(group))
    return result


@torch.inference_mode()
def continue_greedily(target: Target, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[list[int]]:
    """The tokens a model adds to each prompt of token ids, without the end-of-sequence token.

    Args:
        target: the model.
        prompts: non-empty lists of token ids; padded on the left into one batch.
        max_new_tokens: the most tokens added.
    """
    eos = target.tokenizer.eos_token_id
    pad = target.tokenizer.pad_token_id if target.tokenizer.pad_token_id is not None else (eos or 0)
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=target.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=target.device)
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=eos, pad_token_id=pad
    )
    target.model.eval()
    output = target.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    added = output[:, width:].tolist()
    return [tokens[: tokens.index(eos)] if eos in tokens else tokens for tokens in added]
