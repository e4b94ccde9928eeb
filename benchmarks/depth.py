"""The unlearning depth score of a second model: resumed runs, against whole passes for every layer with no reuse."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.comparison import Comparison, measure
from benchmarks.scoring import make_examples, random_model
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.metrics.depth import Depth, unlearning_depth_score
from uwc.models.batching import BATCH_COST, SCORING_BUDGET
from uwc.models.model import Model
from uwc.models.patching import MOST_TOKENS, patched_drops
from uwc.models.states import blocks

SIZES = {
    "cpu": ("66 M, 32,000 tokens", 12, 32_000, 512, 16, 1376),
    "cuda": ("1.2 B, 128,256 tokens", 200, 128_256, 2048, 16, 8192),
}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of a block's drop in nats a token."""


def comparisons(device: str) -> Iterator[Comparison]:
    """Score one unlearned model where another one was scored before, so that D1 is known.

    The baseline makes the same batches, and takes in each the retrained and the unlearned model's states, and then a
    whole pass of the original for every layer and both, with the logits of all positions.
    """
    size, count, vocabulary, hidden, layers, intermediate = SIZES[device]
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    original = random_model(vocabulary, hidden, layers, intermediate, device=device, dtype=dtype)
    examples = make_examples(original, count)
    retrained, unlearned = noisy(original, 0.6, "retrained"), noisy(original, 0.3, "unlearned")
    known = patched_drops(original, retrained, {"forget": examples})["forget"]
    for model in (original, unlearned):
        model.sharing()  # examined once a model, and for both ways

    def ours() -> Depth:
        return Depth("answer", known, patched_drops(original, unlearned, {"forget": examples})["forget"])

    fast = measure(ours, device=device, repeats=3)
    slow = measure(lambda: published(original, retrained, unlearned, examples), device=device)
    pairs = ((fast.value.known, slow.value.known), (fast.value.changed, slow.value.changed))
    gap = max(float(np.abs(a - b).max()) for a, b in pairs)
    if not gap <= TOLERANCE[dtype]:
        raise RuntimeError(f"our drops and the baseline's differ by {gap}")
    scores = [unlearning_depth_score(found.value) for found in (fast, slow)]
    yield Comparison(
        f"UDS of a second model, {size}", fast.seconds, slow.seconds, fast.peak_bytes, slow.peak_bytes, device,
        {"examples": count, "layers": layers, "precision": str(dtype)[6:], "scored": int(np.isfinite(scores[0]).sum()),
         "mean": float(np.nanmean(scores[0])), "baseline's mean": float(np.nanmean(scores[1])),
         "largest difference of a drop, nats": gap},
    )  # fmt: skip


def noisy(model: Model, scale: float, name: str) -> Model:
    """A copy of the model with noise on its weights."""
    module = copy.deepcopy(model.model)
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(len(name))
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=device, dtype=parameter.dtype)
            parameter.add_(scale * parameter.std() * noise)
    return replace(model, model=module, name=name)


@torch.no_grad()
def published(original: Model, retrained: Model, unlearned: Model, examples: list[Example]) -> Depth:
    """The drops by the procedure of arXiv:2605.24614, with block outputs by hooks."""
    encoded = original.encode(examples)
    layers = list(blocks(original.model))
    known, changed = (np.full((len(encoded), len(layers)), np.nan) for _ in range(2))
    cut = [replace(e, tokens=e.tokens[: e.end]) for e in encoded]
    budget = MOST_TOKENS if original.device.type == "cuda" else SCORING_BUDGET
    for group in original.groups(cut, token_budget=budget, batch_cost=BATCH_COST[original.device.type]):
        batch = collate([cut[i] for i in group], device=original.device)

        def mean(batch: Any = batch) -> np.ndarray:
            logits = original.model(input_ids=batch.input_ids, use_cache=False).logits
            chosen = logits[batch.rows, batch.positions].float()
            logprobs = chosen.log_softmax(dim=-1).gather(1, batch.targets[:, None])[:, 0]
            rows = batch.rows.cpu().numpy()
            return np.bincount(rows, logprobs.double().cpu().numpy()) / np.bincount(rows)

        plain = mean()
        for source, found in ((retrained, known), (unlearned, changed)):
            states = outputs_of(source, batch.input_ids)
            for i, layer in enumerate(layers):

                def put_in(_m: Any, _a: Any, output: torch.Tensor, new: Any = states[i], batch: Any = batch) -> Any:
                    patched = output.clone()
                    patched[batch.rows, batch.positions] = new[batch.rows, batch.positions]
                    return patched

                handle = layer.register_forward_hook(put_in)
                found[group, i] = plain - mean()
                handle.remove()
    return Depth("answer", known, changed)


def outputs_of(model: Model, input_ids: torch.Tensor) -> list[torch.Tensor]:
    """The outputs of all blocks."""
    found: list[torch.Tensor] = []
    handles = [b.register_forward_hook(lambda _m, _a, output: found.append(output)) for b in blocks(model.model)]
    model.model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return found
