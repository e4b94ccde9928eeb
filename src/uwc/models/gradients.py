"""The gradient norm of each example's loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from uwc import progress
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.models.head import answer_logits, token_logprobs
from uwc.models.target import Target
from uwc.models.token_scores import Floats


def let_train(model: Any) -> Any:
    """Require gradients for all parameters, except those that the model's class does not train; returns the model."""
    from transformers import PreTrainedModel

    model.requires_grad_(True)
    inside: set[int] = set()
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and id(part) not in inside:
            inside.update(id(module) for module in part.modules())
            with torch.device("meta"):
                made = type(part)(part.config)
            for name, parameter in made.named_parameters():
                if not parameter.requires_grad:
                    part.get_parameter(name).requires_grad_(False)
    return model


def gradient_norms(target: Target, examples: Sequence[Example]) -> Floats:
    """[E] mean over the model's parameter tensors of the 2-norm of the gradient of an example's mean token loss.

    ``(1/P) sum_p || d(NLL / n) / d theta_p ||_2`` over the n answer tokens, without the end-of-sequence token; dropout
    is off; NaN if there is no answer token. One backward pass an example; leaves the parameters unchanged and without
    gradients.

    Raises:
        DataError: an example does not fit into the context.
    """
    parameters = list(target.model.parameters())
    trainable = [p.requires_grad for p in parameters]
    target.model.eval()
    norms = np.full(len(examples), np.nan)
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with progress.bar(f"gradients {target.name}", total=len(examples)) as advance, torch.enable_grad():
            for i, encoded in enumerate(target.encode(examples)):
                if encoded.end > encoded.start:
                    without_end = replace(encoded, tokens=encoded.tokens[: encoded.end])
                    batch = collate([without_end], device=target.device)
                    loss = -token_logprobs(answer_logits(target.model, batch), batch.targets).mean()
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                    sizes = [0.0 if g is None else float(g.float().norm()) for g in gradients]
                    norms[i] = float(np.mean(sizes))
                advance()
    finally:
        for parameter, before in zip(parameters, trainable, strict=True):
            parameter.requires_grad_(before)
    return norms
