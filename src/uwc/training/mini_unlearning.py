"""Mini-Unlearning (arXiv:2406.16986), as far as its public description allows; see `docs/papers.md` for the rest."""

from collections.abc import Mapping

import torch
from torch import Tensor

from uwc.data.batches import collate
from uwc.errors import ConfigError
from uwc.models.model import Model
from uwc.objectives.forwards import Forwards
from uwc.objectives.objective import Objective
from uwc.objectives.rules import MiniUnlearning
from uwc.training.data import Loader, TrainingData
from uwc.training.forward import run_passes
from uwc.training.loop import TrainingLog, require_finite
from uwc.training.settings import TrainingSettings

FORGET, RETAIN = "nll(forget)", "nll"


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
    if not isinstance(rule, MiniUnlearning) or {t.label for t in objective.terms} != {FORGET, RETAIN}:
        raise ConfigError("mini-unlearning retraces training on forget and retain answers, and takes no other terms")
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
    with torch.no_grad():
        for name, weight in weights.items():
            weight += (rule.strength * difference[name]).to(weight.dtype)


def _add_gradient(total: Mapping[str, Tensor], loss: Tensor, weights: Mapping[str, Tensor]) -> None:
    gradients = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
    for name, gradient in zip(weights, gradients, strict=True):
        total[name].add_(gradient.float())
