"""Generation by the rules of other evaluation codes."""

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from uwc.data.example import Example
from uwc.data.peer_prompts import cleaned, padding_of
from uwc.models.generation import FiniteWatch, Generated, continue_all, until
from uwc.models.target import Target


def generate_as_open_unlearning(
    target: Target, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int | None = None
) -> Generated:
    """As `generate`, by OpenUnlearning's rules.

    Generation is greedy with the other settings of the checkpoint's ``generation_config.json`` (such as a repetition
    penalty), and ends only at the tokens listed there. The padding token is not attended to, also inside the prompt. A
    text is cut at the end of sequence if that is not a special token.
    """
    prompts = [list(e.before) for e in target.encode(examples)]
    continued = partial(_continued, target, max_new_tokens=max_new_tokens)
    added = continue_all(target, prompts, continued, max_new_tokens=max_new_tokens, token_budget=token_budget)
    end, stops = target.tokenizer.decode([target.tokenizer.eos_token_id]), _listed(target)
    texts = [cleaned(tokens, target.tokenizer) for tokens, _ in added]
    return Generated(
        tuple(tuple(until(tokens, stops)) for tokens, _ in added),
        tuple((text.split(end)[0] if end else text).strip() for text in texts),
        np.array([finite for _, finite in added], dtype=bool),
    )


@torch.inference_mode()
def _continued(target: Target, prompts: Sequence[list[int]], *, max_new_tokens: int) -> list[tuple[list[int], bool]]:
    """The continuation of each prompt, including the token that ends it, and whether all logits were finite."""
    from transformers import LogitsProcessorList

    padding, stops = padding_of(target.tokenizer), _listed(target)
    width = max(len(p) for p in prompts)
    ids = torch.tensor([[padding] * (width - len(p)) + p for p in prompts], device=target.device)
    own = copy.deepcopy(target.model.generation_config)
    own.update(do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=target.tokenizer.eos_token_id)
    target.model.eval()
    watch = FiniteWatch(len(prompts), suppressed=True)
    output = target.model.generate(
        input_ids=ids,
        attention_mask=ids != padding,
        generation_config=own,
        logits_processor=LogitsProcessorList([watch]),
    )
    added = [tokens[: len(until(tokens, stops)) + 1] for tokens in output[:, width:].tolist()]
    return [(tokens, watch.finite(row, len(tokens))) for row, tokens in enumerate(added)]


def _listed(target: Target) -> list[int]:
    """The end tokens of the generation configuration."""
    listed = target.model.generation_config.eos_token_id
    return [listed] if isinstance(listed, int) else list(listed or ())
