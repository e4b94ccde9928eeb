"""Measurements during training: early stopping, the gradient effect (arXiv:2502.19301), and collapse."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.models.batching import DEFAULT_TOKEN_BUDGET
from uwc.models.double import in_double
from uwc.models.head import answer_logits, unwrapped
from uwc.models.model import Model
from uwc.models.states import blocks
from uwc.objectives.forwards import target_logprobs
from uwc.results import COLLAPSE_BOUND, Collapse

COLLAPSE_EXAMPLES = 100


@dataclass(frozen=True)
class StopRule:
    """Early stopping: a run ends once a score of the model is at most a bound.

    Attributes:
        measure: the score of the model; must change neither weights nor global random state.
        bound: stop at or below it.
        every: steps between measurements; the first measurement is after that many steps.
    """

    measure: Callable[[Model], float]
    bound: float
    every: int = 10

    def due(self, step: int) -> bool:
        """Whether the score is measured after a step."""
        return step % self.every == 0

    def score(self, model: Model) -> float:
        """The score of the model in eval mode."""
        was_training = model.model.training
        model.model.eval()
        score = self.measure(model)
        model.model.train(was_training)
        return score


def layer_groups(model: Any) -> dict[str, str]:
    """Parameter name -> "embedding", "early", "middle" or "late" (thirds of the depth), or "head"."""
    inner = unwrapped(model)
    stack = blocks(inner)
    prefix = next(name for name, module in inner.named_modules() if module is stack) + "."
    head = inner.get_output_embeddings()
    head_names = {name for name, p in inner.named_parameters() if head is not None and p is head.weight}
    groups = {}
    for name, _ in inner.named_parameters():
        if name.startswith(prefix):
            third = int(name.removeprefix(prefix).split(".")[0]) * 3 // len(stack)
            groups[name] = ("early", "middle", "late")[third]
        elif "embed" in name or "wte" in name or "wpe" in name:
            groups[name] = "embedding"
        else:
            groups[name] = "head" if name in head_names or "norm" in name or "ln_f" in name else "embedding"
    return groups


def gradient_effect(
    model: Any,
    gradients: Mapping[str, Tensor],
    risks: Mapping[str, Sequence[Sequence[EncodedExample]]],
    *,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Risk -> layer group -> ``<grad objective, grad risk>``, the risk being the mean NLL per answer token.

    A descent step along the objective's gradient lowers the risk where the product is positive and raises it where it
    is negative: unlearning wants it negative on forget data, and not negative on retain data. No smoothing.

    Args:
        model: the trained model, not wrapped.
        gradients: parameter name -> the objective's gradient [...]; parameters without one are left out.
        risks: name -> its examples, in groups that may share a forward pass.
        device: the model's device.
    """
    groups = layer_groups(model)
    parameters = {name: p for name, p in model.named_parameters() if name in gradients}
    effects: dict[str, dict[str, float]] = {}
    for risk, groups_of in risks.items():
        batches = [collate(examples, device=device) for examples in groups_of]
        logprobs = [target_logprobs(answer_logits(model, batch), batch.targets) for batch in batches]
        loss = -torch.cat(logprobs).mean()
        risk_gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        totals = dict.fromkeys(sorted(set(groups.values())), 0.0)
        for name, gradient in zip(parameters, risk_gradients, strict=True):
            if gradient is not None:
                totals[groups[name]] += float((gradients[name].float() * gradient.float()).sum())
        effects[risk] = totals
    return effects


def collapse(before: float, after: float) -> Collapse:
    """Retain perplexity before and after training: collapsed beyond `COLLAPSE_BOUND` times the original's.

    An infinite perplexity is kept as NaN.
    """
    kept = {"before": before, "after": after}
    finite = {name: value if math.isfinite(value) else math.nan for name, value in kept.items()}
    return Collapse(**finite, bound=COLLAPSE_BOUND, collapsed=not after <= COLLAPSE_BOUND * before)


@torch.inference_mode()
def retain_perplexity(model: Model, examples: Sequence[Example]) -> float:
    """``exp`` of the mean NLL per answer token over the first `COLLAPSE_EXAMPLES` examples, end token included."""
    encoded = model.encode(examples[:COLLAPSE_EXAMPLES])
    was_training = model.model.training
    model.model.eval()
    total, tokens = 0.0, 0
    for group in model.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET):
        batch = collate([encoded[i] for i in group], device=model.device)
        logprobs = target_logprobs(answer_logits(model.model, batch), batch.targets)
        total, tokens = total - float(in_double(logprobs).sum()), tokens + len(logprobs)
    model.model.train(was_training)
    mean = total / max(tokens, 1)
    return math.exp(mean) if mean < 700 else (math.inf if mean == mean else math.nan)
