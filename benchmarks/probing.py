"""Probing: heads of all depths on cached states, against separate heads with a forward pass at each step."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.comparison import Comparison, measure
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.data.batches import collate
from uwc.data.benchmarks.fictional import fictional_authors
from uwc.metrics.likelihood import extraction_strength
from uwc.models.load import build_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens

SIZES = {"cpu": (384, 12, 12), "cuda": (2048, 24, 40)}
EPOCHS, BATCH, LR = 5, 16, 1e-3


def comparisons(device: str) -> Iterator[Comparison]:
    """Train three heads on the retained authors and score the forgotten ones with each."""
    hidden, layers, authors = SIZES[device]
    benchmark = fictional_authors(authors=authors, holdout=0, phrasings=1, general=False)
    model = random_model(benchmark.training_examples(with_forget=True), hidden, layers, device)
    data = AttackData(benchmark["forget"], retain=benchmark["retain"])
    depths = (round(layers / 3), round(2 * layers / 3), layers)
    ours = measure(lambda: cached(model, data, depths), device=device)
    baseline = measure(lambda: one_by_one(model, data, depths), device=device)
    yield Comparison(
        name=f"probing at 3 of {layers} layers", ours_seconds=ours.seconds, baseline_seconds=baseline.seconds,
        ours_peak_bytes=ours.peak_bytes, baseline_peak_bytes=baseline.peak_bytes, device=device,
        extra={"train examples": len(data.retain), "scored": len(data.scored), "epochs": EPOCHS},
    )  # fmt: skip


def random_model(examples: list, hidden: int, layers: int, device: str) -> Model:
    small = build_model(examples, vocabulary=4096, hidden_size=64, layers=1, heads=2, context=256)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(small.tokenizer), hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=256,
    )  # fmt: skip
    return replace(small, model=LlamaForCausalLM(config).to(device).eval())


def cached(model: Model, data: AttackData, depths: tuple[int, ...]) -> list[float]:
    settings = {"layers": list(depths), "epochs": EPOCHS, "lr": LR}
    with attacked(model, data, make_chain("probe", {"probe": settings})) as variants:
        return [float(extraction_strength(score_tokens(v.model, data.scored)).mean()) for v in variants]


def one_by_one(model: Model, data: AttackData, depths: tuple[int, ...]) -> list[float]:
    """As the open code does it: cut the model, put a fresh head on it, and train that through the whole model."""
    found = []
    encoded = model.encode(data.retain)
    for depth in depths:
        module = copy.deepcopy(model.model)
        module.model.layers = module.model.layers[:depth]
        module.config.num_hidden_layers = depth
        module.requires_grad_(False)
        module.lm_head.weight.requires_grad_(True)
        optimizer = torch.optim.Adam([module.lm_head.weight], lr=LR)
        for _ in range(EPOCHS):
            for start in range(0, len(encoded), BATCH):
                batch = collate(encoded[start : start + BATCH], device=model.device)
                logits = module(input_ids=batch.input_ids, use_cache=False).logits
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits[batch.rows, batch.positions], batch.targets).backward()
                optimizer.step()
        probed = replace(model, model=module.eval())
        found.append(float(extraction_strength(score_tokens(probed, data.scored)).mean()))
    return found
