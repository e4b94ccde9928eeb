"""The one optimisation loop: fine-tuning, unlearning and relearning all run through it."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import get_scheduler

from uwc import progress
from uwc.data.batches import collate
from uwc.errors import TrainingDiverged
from uwc.models.forward import answer_logits
from uwc.models.states import capturing_states
from uwc.models.target import Target
from uwc.objectives.forwards import Forwards, Pass
from uwc.objectives.objective import Objective
from uwc.training.loading import Loader, MicroBatch, TrainingData, tokens_in
from uwc.training.reference import Reference
from uwc.training.settings import TrainingSettings


@dataclass
class TrainingLog:
    """One entry a step: its loss, each term's share, the gradient's norm before clipping, and the learning rate."""

    steps: list[dict[str, float]] = field(default_factory=list)


def train(target: Target, objective: Objective, data: TrainingData, settings: TrainingSettings) -> TrainingLog:
    """Minimise the objective, changing the target's weights in place.

    Every forget example meets one retain example drawn uniformly. The result is a function of the arguments alone:
    global random state is neither read nor changed.

    Args:
        target: the model; its weights before training are the reference of the terms that need one.
        objective: the loss.
        data: the examples.
        settings: the optimisation.

    Raises:
        DataError: the objective needs data that is empty, or an example does not fit into the context.
        TrainingDiverged: a loss or gradient is NaN or infinite; the weights are those of the step before.
    """
    loader = Loader(target, objective, data)
    reference = Reference(target, objective, loader.encoded)
    plan = loader.plan(settings)
    log = TrainingLog()
    with torch.random.fork_rng(), _accelerated(target, settings) as (accelerator, model):
        optimizer = accelerator.prepare(_adamw(target.model, settings))
        schedule = _schedule(optimizer, settings, steps=len(plan))
        model.train()
        with progress.bar(f"{objective.method.name} {target.name}", total=len(plan)) as advance:
            for number, step in enumerate(plan, start=1):
                started = time.perf_counter()
                torch.manual_seed(settings.seed * 1_000_003 + number)  # dropout depends on the step, not on history
                micro_batches = loader.micro_batches(step, settings.micro_batch_size)
                shares = _accumulate(accelerator, model, loader, reference, micro_batches, number)
                norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
                _require_finite({"gradient": norm}, number)
                log.steps.append(
                    {"step": number, "loss": sum(shares.values()), **shares, "gradient_norm": float(norm),
                     "lr": schedule.get_last_lr()[0]}
                )  # fmt: skip
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                speed = tokens_in(micro_batches) / (time.perf_counter() - started)
                advance(note=f"loss {log.steps[-1]['loss']:.3f}, {speed:,.0f} tokens/s")
    target.model.eval()
    return log


def _accumulate(
    accelerator: Accelerator,
    model: Any,
    loader: Loader,
    reference: Reference,
    micro_batches: Sequence[MicroBatch],
    number: int,
) -> dict[str, float]:
    """Add up the gradients of one step's micro-batches; returns each term's share of the loss."""
    objective = loader.objective
    denominators = loader.denominators(micro_batches)
    shares: dict[str, float] = {term.label: 0.0 for term in objective.terms}
    for i, micro in enumerate(micro_batches):
        last = i == len(micro_batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            losses = objective.losses(_forwards(accelerator, model, objective, reference, micro), denominators)
            _require_finite(losses, number)
            accelerator.backward(torch.stack(list(losses.values())).sum())
        for label, loss in losses.items():
            shares[label] += loss.item()
    return shares


def _forwards(
    accelerator: Accelerator, model: Any, objective: Objective, reference: Reference, micro: MicroBatch
) -> Forwards:
    """Run the passes that the objective declared, and look up or run those of the reference."""
    passes: dict[str, Pass] = {}
    references: dict[str, Tensor | Mapping[int, Tensor]] = {}
    for role in objective.roles:
        batch = collate(micro[role].encoded, device=accelerator.device, scope=objective.scope(role))
        with accelerator.autocast():
            with capturing_states(model, objective.layers(role), batch) as states:
                logits = answer_logits(model, batch)
            references |= reference.values(role, micro[role].indices, batch)
        passes[role] = objective.apply_tricks(role, Pass(batch, logits, states))
    return Forwards(passes, references)


def _require_finite(values: Mapping[str, Tensor], number: int) -> None:
    for label, value in values.items():
        if not torch.isfinite(value):
            raise TrainingDiverged(
                f"training diverged: {label} is {float(value)} at step {number}; "
                "lower the learning rate or clip gradients harder (the weights of the step before are kept)",
                step=number, term=label,
            )  # fmt: skip


def _adamw(model: Any, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW that decays matrices only, as biases and norms have no scale to keep small."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def _schedule(optimizer: Any, settings: TrainingSettings, *, steps: int) -> Any:
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = math.ceil(settings.warmup_ratio * steps) if settings.warmup_ratio else 0
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


@contextmanager
def _accelerated(target: Target, settings: TrainingSettings) -> Iterator[tuple[Accelerator, Any]]:
    """An Accelerator for this run, and the model prepared by it; afterwards the model is as it was."""
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=target.device.type == "cpu")
    model = accelerator.prepare_model(target.model)
    try:
        yield accelerator, model
    finally:
        accelerator.unwrap_model(model, keep_fp32_wrapper=False)
