"""Calibration of two checkpoints of 1.1 B parameters in bfloat16 with one copy of the weights in memory.

A Llama with random weights answers questions greedily, so that it knows the answers (extraction strength 1); the
unlearned model is the same with noise in every matrix. Both are written shard by shard. The calibration reads both at
each mixture; its memory is compared with the bytes of one model, and its time with that of scoring alone: the original
in memory scores as many questions.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.comparison import Comparison, measure
from benchmarks.mixing import TEMPLATE, answered, word_tokenizer
from uwc.api import calibrate
from uwc.data.example import Example
from uwc.memory import start_of_peak
from uwc.models.load import load_model
from uwc.models.scoring import score_tokens

SIZE = {"vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
QUESTIONS, ANSWER, NOISE, SHARD = 5, (6, 8), 0.02, 200 << 20
TAU, RESOLUTION, MOST = 0.95, 1 / 32, 1.2


def comparisons(device: str) -> Iterator[Comparison]:
    """The calibration of the pair. Raises RuntimeError if it takes more than 1.2 times the bytes of one model."""
    with tempfile.TemporaryDirectory() as folder:
        original, unlearned = Path(folder) / "original", Path(folder) / "unlearned"
        size = write(original, noise=0.0)
        write(unlearned, noise=NOISE)
        loading = {"dtype": "auto", "device": device}
        model = load_model(original, template=TEMPLATE, **loading)
        examples = answered(model, QUESTIONS, answer=ANSWER)
        retain, forget = examples[::2], examples[1::2]
        del model
        before = start_of_peak(device) or 0

        def ours() -> object:
            retention = {"tau": TAU, "resolution": RESOLUTION}
            asked = {"forget": forget, "retain": retain, "retention": retention, "curve": False}
            return calibrate(original, unlearned, prompt=TEMPLATE, **asked, **loading).calibration

        found = measure(ours, device=device)
        scored = sum(p.scored for p in found.value.probes) + 2 * len(forget)
        alone = measure(lambda: score_alone(original, retain, scored, **loading), device=device)
        if found.peak_bytes > MOST * size:
            raise RuntimeError(f"calibration took {found.peak_bytes / size:.2f} times the bytes of one model")
        yield Comparison(
            "calibration, 1.1 B in bfloat16", found.seconds, alone.seconds, found.peak_bytes, alone.peak_bytes, device,
            {
                "GB of one model": size / 1e9, "peak over the bytes of one model": found.peak_bytes / size,
                "GB of the process before": before / 1e9, "probes": len(found.value.probes),
                "alpha": found.value.alpha, "questions": len(examples), "questions scored": scored,
            },
        )  # fmt: skip


def score_alone(path: Path, examples: list[Example], count: int, **loading: str) -> None:
    """Load a model, and score at least `count` questions."""
    model = load_model(path, template=TEMPLATE, **loading)
    for _ in range(math.ceil(count / len(examples))):
        score_tokens(model, examples)


def write(folder: Path, *, noise: float) -> int:
    """Write the model with noise of this size, relative to a weight's standard deviation; returns its bytes."""
    folder.mkdir()
    config = LlamaConfig(
        **SIZE, num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=SIZE["vocab_size"] - 1, pad_token_id=SIZE["vocab_size"] - 1, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    word_tokenizer(SIZE["vocab_size"]).save_pretrained(folder)
    first, second = (torch.Generator().manual_seed(seed) for seed in (0, 1))
    deviation, where, shard, total = SIZE["hidden_size"] ** -0.5, {}, {}, 0
    for number, (name, shape) in enumerate(shapes.items(), start=1):
        if len(shape) > 1:
            weight = torch.empty(shape).normal_(std=deviation, generator=first)
            if noise:
                weight.add_(torch.empty(shape).normal_(std=noise * deviation, generator=second))
        else:
            weight = torch.ones(shape)
        shard[name] = weight.to(torch.bfloat16)
        if sum(t.nbytes for t in shard.values()) >= SHARD or number == len(shapes):
            file = f"model-{len(set(where.values())) + 1:05d}.safetensors"
            save_file(shard, folder / file, metadata={"format": "pt"})
            where |= dict.fromkeys(shard, file)
            total += sum(t.nbytes for t in shard.values())
            shard = {}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index) + "\n", encoding="utf-8")
    return total
