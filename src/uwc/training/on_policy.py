"""Answers sampled from the model itself, for on-policy preference terms (arXiv:2404.14367)."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.models.batching import own_settings_off
from uwc.models.generation import padded_left, until
from uwc.models.model import Model
from uwc.training.data import Key
from uwc.training.settings import SampleSettings

TOKEN_BUDGET = 8192


@torch.no_grad()
def sample_answers(
    model: Model, examples: Sequence[Example], settings: SampleSettings, *, seed: int
) -> dict[Key, EncodedExample]:
    """(question, number) -> the prompt with an answer drawn from the model's own distribution.

    An answer ends with a token that ends the turn, unless it was cut at `max_new_tokens`, or where the longest prompt
    would leave the model's context; one that ends at once has that token alone. The same seed and weights give the same
    answers.

    Args:
        model: the model to sample from.
        examples: the questions.
        settings: number of answers of each question, length and temperature.
        seed: of the draws.
    """
    encoded = model.encode(examples)
    stops = model.stops(encoded)
    prompts = [(e.id, list(e.tokens[: e.start])) for e in encoded]
    room = model.context_length - max(len(prompt) for _, prompt in prompts)
    longest = min(settings.max_new_tokens, room)  # learned positions have no place beyond the context
    config = GenerationConfig(
        do_sample=True,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        num_return_sequences=settings.count,
        max_new_tokens=longest,
        eos_token_id=stops or None,
    )
    was_training = model.model.training
    model.model.eval()
    sampled: dict[Key, EncodedExample] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lengths = [(len(p) + longest) * settings.count for _, p in prompts]
        kinds = model.sharing().prompt_kinds([len(p) for _, p in prompts], new=longest)
        for group in group_by_length(lengths, token_budget=TOKEN_BUDGET, kinds=kinds):
            answers = _continuations(model, [prompts[i][1] for i in group], config, stops)
            for place, answer in enumerate(answers):
                index, number = group[place // settings.count], place % settings.count
                sampled[index, number] = _encoded(*prompts[index], answer, stops)
    model.model.train(was_training)
    return sampled


def _continuations(
    model: Model, prompts: Sequence[list[int]], config: GenerationConfig, stops: Sequence[int]
) -> list[list[int]]:
    """The new tokens of each prompt's continuations, one prompt's after the other's."""
    ids, mask, config.pad_token_id = padded_left(model, prompts, stops)
    with own_settings_off(model.model):
        output = model.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    return [tokens[ids.shape[1] :] for tokens in output.tolist()]


def _encoded(name: str, prompt: list[int], answer: list[int], stops: Sequence[int]) -> EncodedExample:
    words = until(answer, stops)
    ended = answer[len(words) : len(words) + 1]
    return EncodedExample(name, (*prompt, *words, *ended), len(prompt), len(prompt) + len(words))
