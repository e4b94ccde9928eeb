"""Greedy generation of answers, for the metrics that read text."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from uwc import progress
from uwc.data.batches import group_by_length
from uwc.data.example import Example
from uwc.models.target import Target

DEFAULT_TOKEN_BUDGET = 8192


@torch.inference_mode()
def generate(
    target: Target, examples: Sequence[Example], *, max_new_tokens: int, token_budget: int = DEFAULT_TOKEN_BUDGET
) -> list[str]:
    """Answer each question greedily, with up to `max_new_tokens` tokens; special tokens are left out.

    Returns:
        One text an example, in their order, without surrounding white space; ``""`` if the model stopped at once.

    Raises:
        DataError: a question with its answer does not fit into the context.
    """
    prompts = [list(e.tokens[: e.start]) for e in target.encode(examples)]
    texts = [""] * len(prompts)
    groups = group_by_length([len(p) + max_new_tokens for p in prompts], token_budget=token_budget)
    with progress.bar(f"generate {target.name}", total=len(prompts)) as advance:
        for group in groups:
            new_tokens = continue_greedily(target, [prompts[i] for i in group], max_new_tokens=max_new_tokens)
            for index, tokens in zip(group, new_tokens, strict=True):
                texts[index] = target.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            advance(len(group))
    return texts


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
