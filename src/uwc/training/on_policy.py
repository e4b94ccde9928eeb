"""Answers sampled from the model itself, for preferences over its own words (arXiv:2404.14367)."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.models.target import Target
from uwc.training.loading import Key
from uwc.training.settings import SampleSettings

TOKEN_BUDGET = 8192


@torch.no_grad()
def sample_answers(
    target: Target, examples: Sequence[Example], settings: SampleSettings, *, seed: int
) -> dict[Key, EncodedExample]:
    """(question, number) -> the prompt with an answer drawn from the model's own distribution.

    An answer ends with the end-of-sequence token, unless it was cut at `max_new_tokens`, or where the longest prompt
    would leave the model's context; one that ends at once has that token alone. The same seed and weights give the same
    answers.

    Args:
        target: the model to sample from.
        examples: the questions.
        settings: how many answers of each, how long, at which temperature.
        seed: of the draws.
    """
    prompts = [(e.id, list(e.tokens[: e.start])) for e in target.encode(examples)]
    room = target.context_length - max(len(prompt) for _, prompt in prompts)
    longest = min(settings.max_new_tokens, room)  # learned positions have no place beyond the context
    config = GenerationConfig(
        do_sample=True, temperature=settings.temperature, top_k=0, top_p=1.0, num_return_sequences=settings.count,
        max_new_tokens=longest, eos_token_id=target.tokenizer.eos_token_id, pad_token_id=_pad(target),
    )  # fmt: skip
    was_training = target.model.training
    target.model.eval()
    sampled: dict[Key, EncodedExample] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lengths = [(len(p) + longest) * settings.count for _, p in prompts]
        for group in group_by_length(lengths, token_budget=TOKEN_BUDGET):
            answers = _continuations(target, [prompts[i][1] for i in group], config)
            for place, answer in enumerate(answers):
                index, number = group[place // settings.count], place % settings.count
                sampled[index, number] = _encoded(target, *prompts[index], answer)
    target.model.train(was_training)
    return sampled


def _continuations(target: Target, prompts: Sequence[list[int]], config: GenerationConfig) -> list[list[int]]:
    """The new tokens of each prompt's continuations, one prompt's after the other's."""
    width, pad = max(len(p) for p in prompts), _pad(target)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=target.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=target.device)
    output = target.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return [tokens[width:] for tokens in output.tolist()]


def _encoded(target: Target, name: str, prompt: list[int], answer: list[int]) -> EncodedExample:
    eos = target.tokenizer.eos_token_id
    words = answer[: answer.index(eos)] if eos in answer else answer
    ended = [eos] if eos in answer else []
    return EncodedExample(name, (*prompt, *words, *ended), len(prompt), len(prompt) + len(words))


def _pad(target: Target) -> int:
    pad = target.tokenizer.pad_token_id
    return int(pad if pad is not None else target.tokenizer.eos_token_id or 0)
