"""Steps a second and peak memory of training against a plain loop, each in a process of its own.

With a folder of a pretrained model in UWC_REAL_MODEL, that model is trained too, with forward passes in bfloat16.
As a module (`python -m benchmarks.training METHOD SIDE DEVICE [FOLDER]`) it runs one side and prints what it measured
as JSON.
"""

import copy
import json
import os
import random
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.comparison import Comparison, matmul_peak, peak_bytes, start_of_peak
from benchmarks.plain_loop import plain_loop
from uwc.data.example import Example
from uwc.models.load import build_model, load_model
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING, METHODS, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.training.callbacks import StopRule
from uwc.training.data import Loader, TrainingData, tokens_in
from uwc.training.distributed import placed
from uwc.training.forward import attention_in_float32, needs_frozen_copy
from uwc.training.loop import _Run, train
from uwc.training.settings import TrainingSettings

STEPS, WARM_UP = 20, 3
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": 4, "num_attention_heads": 14,
            "num_key_value_heads": 14, "vocab_size": 32_000},
    "cuda": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
             "num_key_value_heads": 8, "vocab_size": 128_256},
}  # fmt: skip
BATCH = {"cpu": 4, "cuda": 32}
BENCHED = {
    "npo": METHODS["npo"],
    "dpo": Method("dpo", "", "", (WeightedTerm("dpo"),)),
    "kl": METHODS["kl"],
}


REAL = {"fine-tuning": FINE_TUNING, "npo": METHODS["npo"], "kl": METHODS["kl"]}
REAL_BATCH = {"fine-tuning": 16, "npo": 10, "kl": 10}


def comparisons(device: str) -> Iterator[Comparison]:
    folder = os.environ.get("UWC_REAL_MODEL", "")
    cases = [(method, "") for method in BENCHED] + [(method, folder) for method in REAL if folder]
    for method, real in cases:
        ours, plain = (_in_own_process(method, side, device, real) for side in ("ours", "plain"))
        yield Comparison(
            name=f"{STEPS - WARM_UP} training steps of {method}{f', {Path(real).name} in bfloat16' if real else ''}",
            ours_seconds=ours["seconds"],
            baseline_seconds=plain["seconds"],
            ours_peak_bytes=ours["peak_bytes"],
            baseline_peak_bytes=plain["peak_bytes"],
            device=device,
            extra={
                "steps/s": (STEPS - WARM_UP) / ours["seconds"],
                "ratio in processor time": plain["cpu_seconds"] / ours["cpu_seconds"],
                "tokens/s": ours["tokens"] / ours["seconds"],
                "share of matmul peak": ours["flops"] / ours["seconds"] / ours["matmul_peak"],
                "largest loss difference": max(
                    abs(a - b) for a, b in zip(ours["losses"], plain["losses"], strict=True)
                ),
                "peak over weights+gradients+optimizer+frozen weights": ours["peak_bytes"] / ours["state_bytes"],
                "activations of the largest step, MB": ours["activation_bytes"] / 1e6,
                "peak over 1.5 x weights+gradients+optimizer+frozen weights + activations": ours["peak_bytes"]
                / (1.5 * ours["state_bytes"] + ours["activation_bytes"]),
                "set-up, s": ours["setup_seconds"],
            },
        )


def _in_own_process(method: str, side: str, device: str, real: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", method, side, device, *([real] if real else [])]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_side(method: str, side: str, device: str, real: str = "") -> dict[str, Any]:
    """Train for STEPS steps, a model with random weights or the one in a folder; the first WARM_UP are not timed."""
    size = REAL_BATCH[method] if real else BATCH[device]
    model, data = _made(device, size, real)
    if method == "fine-tuning":
        data = TrainingData(retain=data.forget)
    _import_everything()
    settings = TrainingSettings(
        epochs=1, batch_size=size, lr=1e-5, schedule="constant", warmup_ratio=0.0, clip=1.0,
        precision="bf16" if real else "no",
    )  # fmt: skip
    objective = Objective((REAL if real else BENCHED)[method], model.model)
    loader = Loader(model, objective, data, settings)
    activations = _activations(loader) if side == "ours" else 0
    weights = sum(p.numel() * p.element_size() for p in model.model.parameters())
    frozen_bytes = 0
    if needs_frozen_copy(objective, settings):  # in the precision of the forward passes
        frozen_bytes = weights // 2 if real else weights
    before = start_of_peak(device)
    started = time.perf_counter()
    times: list[tuple[float, float]] = []
    if side == "ours":
        clock = StopRule(lambda _model: times.append(_now()) or 1.0, bound=0.0, every=1)
        losses = [s["loss"] for s in train(model, objective, data, settings, stop=clock).steps]
    else:
        frozen = copy.deepcopy(model.model).eval()
        losses = []
        for loss in plain_loop(method, model.model, frozen, loader, settings):
            losses.append(loss)
            times.append(_now())
    peak = peak_bytes(device) - before + weights
    timed = loader.plan[WARM_UP:STEPS]
    read, flops = _work(model, loader, timed)
    return {
        "losses": losses, "seconds": times[STEPS - 1][0] - times[WARM_UP - 1][0],
        "cpu_seconds": times[STEPS - 1][1] - times[WARM_UP - 1][1], "peak_bytes": peak, "tokens": read,
        "flops": flops, "state_bytes": 4 * weights + frozen_bytes, "setup_seconds": times[0][0] - started,
        "activation_bytes": activations,
        "matmul_peak": matmul_peak(device, torch.bfloat16 if device == "cuda" or real else torch.float32),
    }  # fmt: skip


def _import_everything() -> None:
    """Train a tiny model for a step, so that modules imported at the first use are not counted as memory of the run."""
    example = Example(id="0", question="abc", answer="abd")
    tiny = build_model([example], vocabulary=300, hidden_size=32, layers=1)
    train(
        tiny,
        Objective(METHODS["ga"], tiny.model),
        TrainingData([example]),
        TrainingSettings(epochs=1, warmup_ratio=0.0),
    )


def _activations(loader: Loader) -> int:
    """The most bytes that autograd keeps at once, without parameters, in the backward passes of the largest steps."""
    parameters = {p.untyped_storage().data_ptr() for p in loader.model.model.parameters()}
    kept, most = Counter[tuple[int, int]](), 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        storage = tensor.untyped_storage()
        held = tensor.detach()  # an output that its own node holds would never be freed
        if storage.data_ptr() not in parameters:
            place = (storage.data_ptr(), storage.nbytes())
            kept[place] += 1
            most = max(most, sum(size for _, size in +kept))
            weakref.finalize(held, kept.subtract, (place,))
        return held

    attention = attention_in_float32(loader.model.device, loader.settings.precision)
    with attention, placed(loader.model, loader.settings, loader.objective.method.rule) as placement:
        run = _Run(placement, loader, frozen=None, identity="", checkpoints=None)
        run.begin()
        for step in sorted(loader.plan[:STEPS], key=lambda s: -tokens_in(loader.micro_batches(s, None)))[:2]:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                run.accumulate(loader.micro_batches(step, None), loader.denominators(step))
    loader.model.model.zero_grad()
    loader.model.model.eval()
    return most


def _made(device: str, size: int, real: str) -> tuple[Model, TrainingData]:
    """A model, and questions with answers of the lengths of TOFU's: 15 to 30 tokens, and 30 to 80."""
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=3)) for _ in range(200)]

    def text(least: int, most: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(least, most)))

    def examples(name: str, count: int) -> list[Example]:
        return [Example(id=f"{name}{i}", question=text(6, 15), answer=text(15, 40)) for i in range(count)]

    count = size * STEPS
    forget, retain = examples("f", count), examples("r", count)
    data = TrainingData(forget, retain, tuple(text(6, 12) for _ in range(20)))
    if real:
        return _loaded(real, device), data
    tokenizer = build_model([*forget, *retain], vocabulary=400, hidden_size=32, layers=1).tokenizer
    config = LlamaConfig(**SIZES[device], max_position_embeddings=512, tie_word_embeddings=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    return Model(model.eval(), tokenizer), data


def _loaded(folder: str, device: str) -> Model:
    """A pretrained model, with its weights in memory and not in the file."""
    model = load_model(folder, device="cuda" if device == "cuda" else "cpu")
    for parameter in model.model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _work(model: Model, loader: Loader, steps: Any) -> tuple[int, float]:
    """Tokens that are trained on, and floating-point operations of our passes (no padding, no recomputation)."""
    head = model.model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.model.parameters()) - head
    read, operations = 0, 0.0
    for step in steps:
        micro_batches = loader.micro_batches(step, None)
        read += tokens_in(micro_batches)
        for role, batch in ((role, batch) for micro in micro_batches for role, batch in micro.roles.items()):
            tokens = sum(len(e.tokens) for e in batch.encoded)
            answers = sum(len(e.tokens) - e.start for e in batch.encoded)
            passes = 4 if f"{role}.reference_logits" in loader.objective.needs else 3  # a backward pass counts twice
            operations += 2.0 * passes * (body * tokens + head * answers)
    return read, operations


def _now() -> tuple[float, float]:
    """Wall-clock and processor time, in seconds."""
    return time.perf_counter(), time.process_time()


if __name__ == "__main__":
    print(json.dumps(run_side(*sys.argv[1:])))
