"""The optimisation loop of fine-tuning, unlearning and relearning."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uwc import progress
from uwc.data.batches import collate
from uwc.data.example import fingerprint, learnt
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, ModelError, TrainingDiverged
from uwc.models.deterministic import deterministic
from uwc.models.double import device_of_double, in_double
from uwc.models.model import Model
from uwc.models.placement import require_on_one_device
from uwc.objectives.forwards import Forwards
from uwc.objectives.objective import Objective, Weights
from uwc.registry import unknown_name
from uwc.training.callbacks import StopRule, gradient_effect
from uwc.training.checkpoint import Kept, TrainingState, load_checkpoint, save_checkpoint
from uwc.training.data import ANY, Key, Loader, MicroBatch, StepPlan, TrainingData, tokens_in
from uwc.training.distributed import Placement, from_main, placed, shard_state, whole, whole_state
from uwc.training.forward import (
    DetachedForwards,
    Reference,
    attention_in_float32,
    embedding_gradients,
    run_passes,
    separate_roles,
)
from uwc.training.on_policy import sample_answers
from uwc.training.rule_actions import Batches, Change, Side
from uwc.training.settings import TrainingSettings
from uwc.training.weight_rules import rule_actions

FUSED = ("adam", "adamw", "sgd", "adagrad")
OF_BITSANDBYTES = ("8bit", "32bit", "paged")
"""Parts of the names of bitsandbytes' optimizers, with quantised or paged states."""


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer of the settings; weight decay is on matrices only, not on biases and norms.

    Raises:
        ConfigError: there is no such optimizer, or it does not take one of the settings.
        ModelError: an 8-bit or paged optimizer is asked for and bitsandbytes is not installed.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = _optimizer_class(settings.optimizer)
    fused = {"fused": True} if _plain(settings.optimizer) in FUSED else {}
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **{"lr": settings.lr, **fused, **settings.optimizer_settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {settings.optimizer!r}: {error}") from None
    return optimizer


def require_optimizer(name: str) -> None:
    """Raise ConfigError if there is no such optimizer, ModelError if it needs a library that is not installed."""
    _optimizer_class(name)


def warmup_steps(settings: TrainingSettings, steps: int) -> int:
    """The steps of the warm-up, ``ceil(warmup_ratio steps)``.

    Raises:
        ConfigError: the only step is the first of the warm-up, at a learning rate of 0.
    """
    warmup = math.ceil(settings.warmup_ratio * steps) if settings.warmup_ratio else 0
    if warmup and steps == 1:
        raise ConfigError(
            f"training: warmup_ratio = {settings.warmup_ratio:g} with a single step, whose learning rate is then 0, so "
            "that no weight would change; set warmup_ratio to 0, or give more epochs or a smaller batch_size"
        )
    return warmup


def make_schedule(optimizer: Any, settings: TrainingSettings, *, steps: int) -> Any:
    """The learning rate over the run: a linear warm-up from 0, then constant or falling to 0."""
    from transformers import get_scheduler  # with it PEFT is imported, which takes a while

    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = warmup_steps(settings, steps)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def _optimizer_class(name: str) -> Any:
    module: Any = torch.optim
    if any(part in _plain(name) for part in OF_BITSANDBYTES):
        try:
            module = import_module("bitsandbytes.optim")
        except ImportError:
            raise ModelError(
                f"the optimizer {name!r} needs bitsandbytes; install it with: pip install bitsandbytes"
            ) from None
    classes = {
        key.lower(): value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and key not in ("LBFGS", "SparseAdam")  # the one needs a closure, the other sparse gradients
    }
    if _plain(name) not in classes:
        raise ConfigError(unknown_name("optimizer", name, sorted(classes)))
    return classes[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


@dataclass
class TrainingLog:
    """The log of a training run.

    Attributes:
        steps: one entry a step: its loss, each term's share, the gradient's norm before clipping, the learning rate,
            dual variables and the score of early stopping where there are such.
        effects: one entry a recorded step: ``step``, and risk -> layer group -> inner product.
        stopped: the step after which early stopping ended the run, if it did.
        on_step: called with each entry of `steps` once the step is finished, those of a resumed run included.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    stopped: int | None = None
    on_step: Callable[[dict[str, float]], None] | None = None
    _told: int = 0

    def tell(self) -> None:
        """Call `on_step` with the entries that are new."""
        if self.on_step is not None:
            for entry in self.steps[self._told :]:
                self.on_step(entry)
        self._told = len(self.steps)


def train(
    model: Model,
    objective: Objective,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    checkpoints: Path | Kept | None = None,
    frozen: Any = None,
    stop: StopRule | None = None,
    log: TrainingLog | None = None,
) -> TrainingLog:
    """Minimise the objective, changing the model's weights in place.

    Every forget example meets one retain example drawn uniformly. The result is a function of the arguments alone:
    global random state is neither read nor changed. Under ``accelerate launch`` each process takes its share of every
    step's examples, and the result is that of one process up to rounding.

    Args:
        model: the model; its weights before training are the reference of the terms that need one.
        objective: the loss.
        data: the examples.
        settings: the optimisation.
        checkpoints: a folder for checkpoints every `checkpoint_every` steps, or those that are kept of an attack. If
            there is one of this run, the run resumes there and ends with the same bits as one that was never
            interrupted; call with the weights it started with.
        frozen: a `frozen_copy` of the original model to share between runs, instead of making one.
        stop: ends the run early at a chosen score.
        log: is filled as the run goes, so that it can be read where the run ends with an error.

    Raises:
        DataError: the objective needs data that is empty, or an example does not fit into the context.
        ConfigError: settings do not go together, or the checkpoint is another run's.
        ModelError: the model is placed over several devices.
        TrainingDiverged: a loss or gradient is NaN or infinite; the weights are those of the step before.
    """
    require_on_one_device(model.model, model.name or "the model", "training")
    loader = Loader(model, objective, data, settings)
    identity = "" if checkpoints is None else identity_of(loader)

    def work() -> TrainingLog:
        attention = attention_in_float32(model.device, settings.precision)
        with torch.random.fork_rng(), attention, placed(model, settings, objective.method.rule) as placement:
            run = _Run(placement, loader, frozen=frozen, identity=identity, checkpoints=checkpoints)
            run.log = log if log is not None else run.log
            run.begin()
            run.go(stop)
        run.rule.finish()
        return run.log

    return deterministic(model.device, work)


class _Run:
    """The state of one training run."""

    def __init__(
        self, placement: Placement, loader: Loader, *, frozen: Any, identity: str, checkpoints: Path | Kept | None
    ) -> None:
        self.placement, self.model, self.loader = placement, placement.model, loader
        self.accelerator, self.module = placement.accelerator, placement.module
        self.objective, self.settings, self.data = loader.objective, loader.settings, loader.data
        self.identity, self.checkpoints = identity, checkpoints
        self.log, self.step = TrainingLog(), 0
        self.weights = Weights(self.objective)
        self.reference = Reference(
            self.model, self.objective, self.settings, frozen=frozen, autocast=self.accelerator.autocast
        )
        self.rule = rule_actions(self.objective.method.rule, self.model, self.objective)

    def begin(self) -> None:
        """Compute what depends on the original weights, then prune and load the checkpoint, if any."""
        for role in self.objective.roles:
            self.reference.remember(role, self.loader.encoded[role])
        state = self._load()
        if self.loader.samples:
            self._use_samples(_unpacked(state.samples) if state else self._sample())
        self.rule.begin(self.data, state=state.rule if state else None)
        if state is not None:
            self._restore_weights(state)
        self.placement.start(frozen=self.reference.copy)
        self.module = self.placement.module
        self.optimizer = self.accelerator.prepare_optimizer(make_optimizer(self.module.parameters(), self.settings))
        self.schedule = make_schedule(self.optimizer, self.settings, steps=len(self.loader.plan))
        if state is not None:
            self._restore(state)

    def go(self, stop: StopRule | None) -> None:
        """Carry out all steps that are not finished yet."""
        plan, name = self.loader.plan, f"{self.objective.method.name} {self.model.name}"
        self.module.train()
        with progress.bar(name, total=len(plan)) as advance:
            advance(self.step)
            for number, step in enumerate(plan[self.step :], start=self.step + 1):
                started = time.perf_counter()
                tokens = self._take(number, step)
                self.step = number
                speed = tokens / (time.perf_counter() - started)
                advance(note=f"loss {self.log.steps[-1]['loss']:.3f}, {speed:,.0f} tokens/s")
                if stop is not None and self._reached(stop, number):
                    self.log.stopped = number
                self.log.tell()
                if self.log.stopped is not None:
                    break
                if self._due(number):
                    self._save()

    def _reached(self, stop: StopRule, number: int) -> bool:
        """Whether to stop after this step, by the score that the main process measures."""
        if not stop.due(number):
            return False
        with self.placement.whole() as model:
            score = from_main(lambda: stop.score(model))
        self.log.steps[-1]["stop_score"] = score
        return score <= stop.bound

    def _take(self, number: int, step: StepPlan) -> int:
        """One optimizer step; returns the number of tokens that this process read."""
        every = self.settings.samples.every
        if self.loader.samples and every and number > 1 and (number - 1) % every == 0:
            self._use_samples(self._sample(number))
        torch.manual_seed(self.settings.seed * 1_000_003 + number)  # dropout depends on the step, not on history
        accelerator = self.accelerator
        micro_batches = self.loader.micro_batches(
            step, self.settings.micro_batch_size, rank=accelerator.process_index, of=accelerator.num_processes
        )
        means = self.accumulate(micro_batches, self.loader.denominators(step))
        shares = self.weights.shares(means)
        require_finite(shares, number)
        self._record_effect(number, micro_batches)
        norm = float(whole(accelerator.clip_grad_norm_(self.module.parameters(), self.settings.clip or math.inf)))
        if accelerator.scaler is None:  # fp16 finds overflow itself, skips the step and lowers its scale
            require_finite({"gradient": norm}, number)
        duals = {f"dual {t.label}": self.weights.values[t.label] for t in self.objective.terms if t.constraint}
        rate = self.schedule.get_last_lr()[0]
        self.log.steps.append(
            {"step": number, "loss": sum(shares.values()), **shares, "gradient_norm": norm, "lr": rate, **duals}
        )
        self.rule.before_step()
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        done = number / len(self.loader.plan)
        self.rule.after_step(rate, progress=done)
        self.weights.follow(means, progress=done)
        return tokens_in(micro_batches)

    def accumulate(self, micro_batches: list[MicroBatch], denominators: Mapping[str, float]) -> dict[str, float]:
        """Make the gradients of one step, as the rule says; returns each term's mean loss over all processes."""

        def add(side: Side | None = None, change: Change | None = None) -> dict[str, float]:
            return self._add(micro_batches, denominators, self.objective.part(side), change)

        means = self.rule.accumulate(add)
        return {term.label: means[term.label] for term in self.objective.terms}

    def _add(
        self,
        micro_batches: list[MicroBatch],
        denominators: Mapping[str, float],
        objective: Objective,
        change: Change | None,
    ) -> dict[str, float]:
        """Add up the gradients of a step's micro-batches; returns each term's mean loss over all processes."""
        if not objective.terms:
            return {}
        accelerator = self.accelerator
        zero = torch.zeros((), dtype=torch.float64, device=device_of_double(accelerator.device))
        sums = dict.fromkeys((t.label for t in objective.terms), zero)
        for i, micro in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            batches: Batches = {
                role: collate(micro.roles[role].encoded, device=accelerator.device, scope=objective.scope(role))
                for role in objective.roles
            }
            if change is not None:
                batches = change(batches, partial(self._loss, micro, denominators, objective))
            alone = nullcontext() if self._shared else embedding_gradients(self.module)
            with alone, nullcontext() if last else accelerator.no_sync(self.module):
                for label, mean in self._backward(micro, batches, denominators, objective).items():
                    sums[label] = sums[label] + in_double(mean) * micro.live
        if self._shared:
            total = accelerator.reduce(torch.stack(list(sums.values())), reduction="sum")  # on CPUs or CUDA devices
            return dict(zip(sums, total.tolist(), strict=True))
        return {label: float(value) for label, value in sums.items()}

    def _loss(
        self, micro: MicroBatch, denominators: Mapping[str, float], objective: Objective, batches: Batches
    ) -> Tensor:
        """The loss of a micro-batch on changed batches; its gradients do not go through a data-parallel wrapper."""
        forwards = self._forwards(micro, batches, objective, self.accelerator.unwrap_model(self.module), None)
        return self.weights.total(objective.losses(forwards, denominators))

    def _backward(
        self, micro: MicroBatch, batches: Batches, denominators: Mapping[str, float], objective: Objective
    ) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch, one group of roles after the other; returns each term's mean loss.

        Terms that read no common pass have gradients of their own, so that the activations of a group are freed before
        those of the next are computed.
        """
        accelerator, means = self.accelerator, dict[str, Tensor]()
        groups = [list(batches)] if self._shared else separate_roles(objective, batches, self.model.sharing())
        for roles in groups:
            detached = None if self._shared else DetachedForwards()
            of_roles = {role: batches[role] for role in roles}
            forwards = self._forwards(micro, of_roles, objective, self.module, detached)
            of_group = objective.losses(forwards, denominators, roles=roles)
            loss = self.weights.total(of_group)
            # data parallelism averages gradients over processes; the loss is a sum over their examples
            accelerator.backward(loss * accelerator.num_processes * micro.live if self._shared else loss)
            if detached is not None:
                detached.backward()
            means |= {label: mean.detach() for label, mean in of_group.items()}
        return means

    @property
    def _shared(self) -> bool:
        return bool(self.accelerator.num_processes > 1)

    def _forwards(
        self,
        micro: MicroBatch,
        batches: Batches,
        objective: Objective,
        module: Any,
        detached: DetachedForwards | None,
    ) -> Forwards:
        """Run the passes over these batches, and look up or run those of the reference, which nothing changes."""
        references: dict[str, Tensor | Mapping[int, Tensor]] = {}
        for role, batch in batches.items():
            references |= self.reference.values(role, micro.roles[role].keys, replace(batch, shifts=None))
        with self.accelerator.autocast():
            passes = run_passes(module, objective, batches, detached=detached, sharing=self.model.sharing())
        return Forwards({role: objective.apply_tricks(role, p) for role, p in passes.items()}, references)

    def _sample(self, number: int = 0) -> dict[Key, EncodedExample]:
        """Answers drawn by the main process from the model as it is now, the same for all processes."""
        seed = self.settings.seed * 1_000_003 + number
        with self.placement.whole() as model, self.accelerator.autocast():
            return from_main(lambda: sample_answers(model, self.data.forget, self.settings.samples, seed=seed))

    def _use_samples(self, samples: dict[Key, EncodedExample]) -> None:
        self.loader.use_samples(samples)
        self.reference.remember("sampled", samples)

    def _record_effect(self, number: int, micro_batches: list[MicroBatch]) -> None:
        every = self.settings.gradient_effect_every
        if not every or number % every:
            return
        inner = self.accelerator.unwrap_model(self.module)
        gradients = {name: whole(p.grad) for name, p in inner.named_parameters() if p.grad is not None}
        if self.accelerator.scaler is not None:
            gradients = {name: gradient / self.accelerator.scaler.get_scale() for name, gradient in gradients.items()}
        sets = {"forget": self.data.forget, "retain": self.data.retain}
        encoded = {name: self.model.encode(list(map(learnt, of[:16]))) for name, of in sets.items() if of}
        risks = {
            name: [[of[i] for i in group] for group in self.model.groups(of, token_budget=ANY, batch_cost=ANY)]
            for name, of in encoded.items()
        }
        with self.placement.whole() as model:
            effects = gradient_effect(model.model, gradients, risks, device=self.accelerator.device)
        self.log.effects.append({"step": number, **effects})

    def _load(self) -> TrainingState | None:
        if isinstance(self.checkpoints, Kept):
            return self.checkpoints.load(self.identity)
        return None if self.checkpoints is None else load_checkpoint(self.checkpoints, self.identity)

    def _due(self, number: int) -> bool:
        if isinstance(self.checkpoints, Kept):
            return self.checkpoints.due(last=number == len(self.loader.plan))
        every = self.settings.checkpoint_every
        return self.checkpoints is not None and bool(every) and number % (every or 1) == 0

    def _save(self) -> None:
        last = self.step == len(self.loader.plan)
        sampled = next((self.loader.encoded[r] for r in self.objective.roles if r == "sampled"), {})
        with self.placement.whole() as model:
            weights = {name: tensor.cpu() for name, tensor in _weights(model.model).items()}
        state = TrainingState(
            identity=self.identity,
            step=self.step,
            weights=weights,
            optimizer={} if last else whole_state(self.optimizer.state_dict()),
            schedule=self.schedule.state_dict(),
            scaler=self.accelerator.scaler.state_dict() if self.accelerator.scaler else {},
            duals=self.weights.values,
            samples={k: (e.id, e.tokens, e.start, e.end) for k, e in sampled.items()},
            log=self.log.steps,
            effects=self.log.effects,
            rule=self.rule.state,
        )
        if isinstance(self.checkpoints, Kept):
            self.checkpoints.write(state)
        elif self.checkpoints is not None and self.accelerator.is_main_process:
            save_checkpoint(self.checkpoints, state)

    @torch.no_grad()
    def _restore_weights(self, state: TrainingState) -> None:
        for name, tensor in _weights(self.model.model).items():
            tensor.copy_(state.weights[name])

    def _restore(self, state: TrainingState) -> None:
        if state.optimizer:
            self.optimizer.load_state_dict(shard_state(state.optimizer, self.optimizer))
        self.schedule.load_state_dict(state.schedule)
        if self.accelerator.scaler and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        self.weights.values = dict(state.duals)
        self.log.steps[:], self.log.effects[:], self.step = state.log, state.effects, state.step
        progress.note(f"resumes after step {state.step} of {len(self.loader.plan)}")


def require_finite(values: Mapping[str, float], number: int) -> None:
    """Raise TrainingDiverged, naming the first value that is NaN or infinite and the step."""
    for label, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"training diverged: {label} is {value} at step {number}; "
                "lower the learning rate or clip gradients harder (the weights of the step before are kept)",
                step=number,
                term=label,
            )


def _weights(model: Any) -> dict[str, Tensor]:
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return trained | {name: b for name, b in model.named_buffers() if b.numel()}


def identity_of(loader: Loader) -> str:
    """Hash of everything that determines a run's result, the weights by their sums."""
    data, objective = loader.data, loader.objective
    method = asdict(objective.method)
    weights = {
        n: (tuple(p.shape), str(p.dtype), float(in_double(p).sum())) for n, p in _weights(loader.model.model).items()
    }
    content = {
        "terms": method["terms"],
        "rule": method["rule"],
        "tricks": [(entry.name, settings_of) for entry, settings_of in objective.tricks],
        "settings": asdict(loader.settings),
        "data": [fingerprint(data.forget), fingerprint(data.retain), list(data.refusals)],
        "template": asdict(loader.model.template),
        "tokens": {role: list(encoded.values()) for role, encoded in loader.encoded.items()},
        "weights": weights,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _unpacked(samples: Mapping[Key, tuple[str, tuple[int, ...], int, int]]) -> dict[Key, EncodedExample]:
    return {key: EncodedExample(*values) for key, values in samples.items()}
