"""The gradient effect: how a step of the objective moves the risks of forget and retain data (arXiv:2502.19301)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.models.head import answer_logits, unwrapped
from uwc.models.states import blocks
from uwc.objectives.forwards import target_logprobs


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
        risks: name -> the examples it is measured on, in groups that the model may read at once.
        device: where the model is.
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
