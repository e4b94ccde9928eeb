"""Sampled answers, 64 for each question: against one at a time, and against transformers with 64 sequences."""

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from transformers import GenerationConfig

from benchmarks.comparison import Comparison, Measured, measure
from benchmarks.scoring import as_text, lengths, random_model
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.data.example import Example
from uwc.models.batching import own_settings_off
from uwc.models.load import load_model
from uwc.models.model import Model
from uwc.models.samples import sample

SAMPLES, NEW, ANSWER = 64, 64, 46
"""Samples of a question, the most tokens of one, and their mean number in TOFU."""
SIZES = {
    "cpu": {"40 M, 32,000 tokens": (4, 32_000, 512, 8, 1376)},
    "cuda": {"1.2 B, 128,256 tokens": (64, 128_256, 2048, 16, 8192)},
}


def comparisons(device: str) -> Iterator[Comparison]:
    """Both baselines for each size; also for the model of the environment variable UWC_REAL_MODEL, if it is set."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    for size, (count, *sizes) in SIZES[device].items():
        model = random_model(*sizes, device=device, dtype=dtype)
        yield from both(with_ends(model), questions(model, count), device, size)
    if path := os.environ.get("UWC_REAL_MODEL"):
        model = load_model(path, device=device, dtype=str(dtype)[6:])
        asked = fictional_authors(authors=8, holdout=0, phrasings=1, general=False)["forget"]
        yield from both(model, list(asked)[: 4 if device == "cpu" else 64], device, model.name)


def with_ends(model: Model) -> Model:
    """The model with a bias of its output embedding with which answers are as long as TOFU's on average."""
    head = model.model.lm_head
    wide = torch.nn.Linear(head.in_features, head.out_features, device=head.weight.device, dtype=head.weight.dtype)
    wide.weight = head.weight
    with torch.no_grad():
        wide.bias.zero_()
        wide.bias[1] = np.log(head.out_features / ANSWER) + head.weight.var().item() * head.in_features / 2
    model.model.lm_head = wide
    return replace(model, model=model.model)


def questions(model: Model, count: int) -> list[Example]:
    random = np.random.default_rng(0)
    asked = [random.integers(2, model.model.config.vocab_size, n) for n in lengths(random, count, mean=20, spread=0.3)]
    return [Example(id=str(i), question=as_text(tokens.tolist()), answer="w2") for i, tokens in enumerate(asked)]


def both(model: Model, examples: list[Example], device: str, size: str) -> Iterator[Comparison]:
    prompts = [list(e.before) for e in model.encode(examples)]
    sample(model, examples[:1], count=2, max_new_tokens=2)
    by_transformers(model, prompts[:1], 2, 2)
    ours = measure(lambda: sample(model, examples, count=SAMPLES, max_new_tokens=NEW), device=device)
    together = measure(lambda: by_transformers(model, prompts, SAMPLES, NEW), device=device)
    few = max(2, SAMPLES // (16 if device == "cpu" else 32))
    alone = measure(lambda: [by_transformers(model, prompts, 1, NEW) for _ in range(few)], device=device)
    theirs = [model.tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in together.value]
    extra = {
        "questions": len(examples), "prompt tokens": float(np.mean([len(p) for p in prompts])),
        "our words a sample": words(ours.value.texts),
        "their words a sample": words(theirs),
    }  # fmt: skip
    if abs(extra["our words a sample"] - extra["their words a sample"]) > 0.2 * extra["their words a sample"]:
        raise RuntimeError(f"our samples and those of transformers differ in length: {extra}")
    name = f"{SAMPLES} samples a question, {size}"
    yield compared(f"{name}, against num_return_sequences", ours, together, 1.0, device, extra)
    yield compared(f"{name}, against one by one", ours, alone, SAMPLES / few, device, {"scaled from samples": few})


def compared(name: str, ours: Measured, theirs: Measured, scale: float, device: str, extra: dict) -> Comparison:
    return Comparison(
        name, ours.seconds, theirs.seconds * scale, ours.peak_bytes, theirs.peak_bytes, device, extra
    )  # fmt: skip


@torch.inference_mode()
def by_transformers(model: Model, prompts: list[list[int]], count: int, new: int) -> list[list[list[int]]]:
    """[Q][count] new tokens, a call of `generate` for each question."""
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=count, max_new_tokens=new,
        eos_token_id=list(model.end_ids), pad_token_id=model.end_ids[0],
    )  # fmt: skip
    found = []
    with own_settings_off(model.model):
        for prompt in prompts:
            ids = torch.tensor([prompt], device=model.device)
            output = model.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )
            found.append(output[:, len(prompt) :].tolist())
    return found


def words(texts: list) -> float:
    return float(np.mean([len(text.split()) for row in texts for text in row]))
