"""Unlearning from start to end: adapter, training or Mini-Unlearning, contrast, and the check for collapse."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import collate
from uwc.errors import ConfigError, TrainingDiverged
from uwc.models.adapters import adapter_config, add_adapter, merge_adapter, require_peft
from uwc.models.contrast import contrast
from uwc.models.load import require_no_model
from uwc.models.mixing import require_unquantised
from uwc.models.model import Model
from uwc.models.placement import require_on_one_device
from uwc.models.scoring import let_train
from uwc.models.selection import select
from uwc.objectives.forwards import Forwards
from uwc.objectives.methods import Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.objectives.rules import Contrast, Lat, MiniUnlearning, Undo
from uwc.results import Collapse
from uwc.training.callbacks import StopRule, collapse, retain_perplexity
from uwc.training.data import Loader, TrainingData, anchor_set, require_data, step_count
from uwc.training.forward import frozen_copy, run_passes
from uwc.training.gradient_rules import perturbed_block
from uwc.training.loop import TrainingLog, require_finite, require_optimizer, train, warmup_steps
from uwc.training.rule_actions import trained
from uwc.training.settings import TrainingSettings, check_retain, check_rule
from uwc.training.weight_rules import mix_in_noise

FORGET, RETAIN = "nll(forget)", "nll"
DISTILLED = "distillation"
"""The name of the distillation's loss in the log."""


def mini_unlearn(
    model: Model, objective: Objective, data: TrainingData, settings: TrainingSettings, *, log: TrainingLog
) -> None:
    """Take the forget data's part out of the last few updates, earlier ones contracted, in place.

    Training is retraced for a few steps of plain gradient descent on forget and retain answers together,
    ``w_k+1 = w_k - lr (g_f,k + g_r,k) / 2``. Had the forget data been left out, the weights would differ by about
    ``d_k+1 = c d_k + lr g_f,k / 2``, as an update contracts differences by c. So ``w_u = w_K + strength d_K``. With one
    step and strength 1 this is exactly the step on the retain data alone.

    Args:
        model: the model; its weights change.
        objective: the two likelihood terms, of forget and of retain answers; its method has the rule.
        data: the examples.
        settings: `epochs`, `batch_size`, `micro_batch_size`, `lr` and `seed`; no other is read.
        log: gets one entry a step.

    Raises:
        ConfigError: the objective has other terms.
        TrainingDiverged: a loss is NaN or infinite.
    """
    rule = objective.method.rule
    assert isinstance(rule, MiniUnlearning)
    _require_retraced(objective)
    loader = Loader(model, objective, data, settings)
    weights = {name: p for name, p in model.model.named_parameters() if p.requires_grad}
    difference = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
    model.model.eval()
    for number, step in enumerate(loader.plan, start=1):
        shares = dict.fromkeys((FORGET, RETAIN), 0.0)
        forget, retain = ({n: torch.zeros_like(d) for n, d in difference.items()} for _ in range(2))
        for micro in loader.micro_batches(step, settings.micro_batch_size):
            batches = {role: collate(part.encoded, device=model.device) for role, part in micro.roles.items()}
            passes = run_passes(model.model, objective, batches, sharing=model.sharing())
            passes = {role: objective.apply_tricks(role, passed) for role, passed in passes.items()}
            losses = objective.losses(Forwards(passes, {}), loader.denominators(step))
            for label, total in ((FORGET, forget), (RETAIN, retain)):
                shares[label] += float(losses[label].detach())
                _add_gradient(total, losses[label], weights)
        require_finite(shares, number)
        norm = sum(float((forget[n] + retain[n]).square().sum()) for n in weights) ** 0.5 / 2
        require_finite({"gradient": norm}, number)
        with torch.no_grad():
            for name, weight in weights.items():
                weight -= (settings.lr / 2 * (forget[name] + retain[name])).to(weight.dtype)
                difference[name].mul_(rule.contraction).add_(forget[name], alpha=settings.lr / 2)
        loss = sum(shares.values()) / 2
        log.steps.append({"step": number, "loss": loss, **shares, "gradient_norm": norm, "lr": settings.lr})
        log.tell()
    with torch.no_grad():
        for name, weight in weights.items():
            weight += (rule.strength * difference[name]).to(weight.dtype)


def _require_retraced(objective: Objective) -> None:
    if {t.label for t in objective.terms} != {FORGET, RETAIN}:
        raise ConfigError(
            "mini-unlearning retraces training on forget and retain answers, and takes no other terms; give the method "
            "'mini-unlearning' as it is"
        )


def _add_gradient(total: Mapping[str, Tensor], loss: Tensor, weights: Mapping[str, Tensor]) -> None:
    gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    for name, gradient in zip(weights, gradients, strict=True):
        total[name].add_(gradient.float())


_KL = WeightedTerm("kl", settings={"scope": "attended"})
DISTILLATION = Method("distillation", "imitate a model at every token", "arXiv:2506.06278", (_KL,))


def noise_and_distil(
    model: Model,
    rule: Undo,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    checkpoints: Path | None = None,
    log: TrainingLog,
) -> None:
    """Mix noise into the weights of an unlearned model, and distil it as it was into the result, in place.

    ``KL(p_unlearned || p)`` at every token of the retain examples is minimised. A copy of the unlearned model is held
    in the precision of training. The noise depends on the run's seed alone.

    Args:
        model: the unlearned model; its weights change.
        rule: the noise and the distillation.
        data: the retain examples.
        settings: of the unlearning; the epochs and perhaps the learning rate are the rule's.
        checkpoints: a folder for checkpoints of the distillation.
        log: gets one entry a step, numbered after those that it has.

    Raises:
        ConfigError: the distillation has a single step, which the warm-up leaves without effect.
        TrainingDiverged: a loss is NaN or infinite.
    """
    teacher = frozen_copy(copy.deepcopy(model.model), settings)
    mix_in_noise(trained(model.model).values(), alpha=rule.alpha, beta=rule.beta, seed=settings.seed)
    settings = replace(settings, epochs=rule.epochs, lr=rule.lr or settings.lr, gradient_effect_every=None)
    first = int(log.steps[-1]["step"]) if log.steps else 0

    def tell(entry: dict[str, float]) -> None:
        log.steps.append({**entry, "step": first + entry["step"], DISTILLED: entry["loss"]})
        log.steps[-1].pop("kl")
        log.tell()

    objective = Objective(DISTILLATION, model.model)
    train(
        model,
        objective,
        TrainingData(retain=data.retain),
        settings,
        checkpoints=checkpoints,
        frozen=teacher,
        log=TrainingLog(on_step=tell),
    )


@dataclass(frozen=True)
class Unlearned:
    """The outcome of an unlearning run.

    Attributes:
        model: the model to keep; of a diverged run that of the last finite step.
        log: the log of the training.
        diverged: the error of a run that diverged.
        collapse: retain perplexity before and after, where there are retain examples and it was asked for.
    """

    model: Model
    log: TrainingLog
    diverged: TrainingDiverged | None
    collapse: Collapse | None


def check_unlearning(
    method: Method,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    tricks: Mapping[str, float] | None,
    model: Any,
    where: str,
) -> None:
    """Refuse what `unlearn` cannot do, as far as that is known without weights.

    Args:
        method, data, settings, tricks: as `unlearn` takes them.
        model: the model, or its number of blocks.
        where: the run or method in messages.

    Raises:
        ConfigError: a trick, setting or rule cannot be used, there is no such block, or the only step has no effect.
        DataError: the method needs data that is empty.
        ModelError: a library is not installed.
    """
    check_rule(method, settings, where=where)
    check_retain(settings, data.retain, where=where)
    require_data(method, data)
    require_optimizer(settings.optimizer)
    if settings.lora is not None:
        require_peft(f"{where}: lora")
    objective = Objective(method, model, trick_settings=tricks)
    if isinstance(method.rule, Lat):
        perturbed_block(method.rule, model, objective)
    if isinstance(method.rule, MiniUnlearning):
        _require_retraced(objective)  # its steps have one learning rate
        return
    anchors = len(data.forget)
    if anchor_set(objective.roles) == "retain":
        anchors = len(data.retain) if settings.retain is None else settings.retain.examples
    warmup_steps(settings, step_count(anchors, batch_size=settings.batch_size, epochs=settings.epochs))


def unlearn(
    model: Model,
    method: Method,
    data: TrainingData,
    settings: TrainingSettings,
    *,
    tricks: Mapping[str, float] | None = None,
    checkpoints: Path | None = None,
    frozen: Any = None,
    stop: StopRule | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
    check_collapse: bool = True,
) -> Unlearned:
    """Unlearn the forget examples from a model, in place or with an adapter.

    Args:
        model: the model; its weights change, unless an adapter is trained and kept apart.
        method: the terms and the rule.
        data: the examples.
        settings: the optimisation; with `lora` only an adapter is trained, and merged at the end or kept.
        tricks: trick -> value.
        checkpoints: a folder for checkpoints; see `uwc.training.loop.train`.
        frozen: a frozen copy of the original model to share between runs.
        stop: ends the run early at a chosen score.
        on_step: called with each entry of the log.
        check_collapse: whether to measure the perplexity of the retain examples before and after.

    Raises:
        DataError: the method needs data that is empty, or an example does not fit into the context.
        ConfigError: a trick, setting or rule cannot be used.
        ModelError: the model is placed over several devices.
    """
    require_on_one_device(model.model, model.name or "the model", "training")
    rule, lora = method.rule, settings.lora
    check_unlearning(method, data, settings, tricks=tricks, model=model.model, where=f"the method {method.name!r}")
    before = retain_perplexity(model, data.retain) if data.retain and check_collapse else None
    trained_on = _with_chosen_retain(model, data, settings)
    original = copy.deepcopy(model.model) if isinstance(rule, Contrast) else None
    if lora is not None:
        chosen = {name: value for name, value in asdict(lora).items() if name != "save"}
        model = add_adapter(model, **chosen, seed=settings.seed)
    objective = Objective(method, model.model, trick_settings=tricks)
    log, diverged = TrainingLog(on_step=on_step), None
    try:
        if isinstance(rule, MiniUnlearning):
            mini_unlearn(model, objective, trained_on, settings, log=log)
        else:
            train(model, objective, trained_on, settings, checkpoints=checkpoints, frozen=frozen, stop=stop, log=log)
        if isinstance(rule, Undo):
            after_it = None if checkpoints is None else checkpoints / DISTILLED
            noise_and_distil(model, rule, trained_on, settings, checkpoints=after_it, log=log)
    except TrainingDiverged as error:
        diverged = error
    if lora is not None and lora.save == "merged":
        model = merge_adapter(model)
    if isinstance(rule, Contrast):
        model = contrast(replace(model, model=original), model, strength=rule.strength)
    after = None if before is None else collapse(before, retain_perplexity(model, data.retain))
    return Unlearned(model, log, diverged, after)


def _with_chosen_retain(model: Model, data: TrainingData, settings: TrainingSettings) -> TrainingData:
    """The data with the retain examples that the settings choose, by the model as it is."""
    if settings.retain is None:
        return data
    chosen = select(model, data.retain, settings.retain.examples, rule=settings.retain.select, seed=settings.seed)
    return replace(data, retain=[data.retain[i] for i in chosen])


def trainable(model: Model) -> Model:
    """A plain model that may be trained, without a name. Raises ModelError if it is quantised."""
    require_unquantised(model.model, model.name)
    return replace(model, model=let_train(model.model), name="")  # peft freezes what it puts an adapter on


def require_free(output: Path, model: Any, settings: TrainingSettings, *, overwrite: bool) -> None:
    """Raise UserError if `output` is the model itself or has a model that must not be replaced, or if an adapter would
    be written whose base is not on disk."""
    if isinstance(model, str | Path) and Path(model).resolve() == output.resolve():
        raise ConfigError(f"the output {output} is the model itself; give another folder")
    adapter = settings.lora is not None and settings.lora.save == "adapter"
    if adapter and isinstance(model, str | Path) and adapter_config(model) is not None:
        raise ConfigError(
            f"{model} is an adapter, and a further one (lora.save: adapter) would lack its base; save it merged, or "
            "give the merged model"
        )
    require_no_model(output, overwrite=overwrite)
