"""What training does to weights besides following the gradient: pruning, shrinking, and the opposite direction."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import collate
from uwc.errors import ConfigError
from uwc.models.lora import has_adapter
from uwc.models.model import DEFAULT_TOKEN_BUDGET, Target
from uwc.training.loading import TrainingData
from uwc.training.settings import TrainingSettings
from uwc.training.sparsity import apply_masks, linear_weights, magnitude_masks, soft_threshold, wanda_masks

CALIBRATION_EXAMPLES = 128


class WeightSpace:
    """The settings `prune`, `l1` and `negate` of one run.

    Args:
        target: the model before training.
        settings: the run's.

    Raises:
        ConfigError: the settings ask for more than one process or an adapter can give.
    """

    def __init__(self, target: Target, settings: TrainingSettings) -> None:
        self._target, self._settings = target, settings
        sparse = settings.prune is not None or settings.l1 > 0
        self._weights: Mapping[str, Any] = linear_weights(target.model) if sparse else {}
        self.masks: dict[str, Tensor] = {}
        self._nonzero: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}
        if settings.negate is not None:
            self._start = {name: p.detach().clone() for name, p in _trained(target.model).items()}

    def prune(self, data: TrainingData, *, masks: Mapping[str, Tensor] | None = None) -> None:
        """Remove weights before the first step, or with the `masks` of a checkpoint those that it removed."""
        prune = self._settings.prune
        if prune is None:
            return
        if masks:
            self.masks = dict(masks)
        elif prune.by == "magnitude":
            self.masks = magnitude_masks(self._weights, share=prune.share)
        else:
            self.masks = self._wanda(data, prune.share)
        apply_masks(self._weights, self.masks)

    def before_step(self) -> None:
        """Note which weights have been shrunk to zero, so that the optimizer's step does not bring them back."""
        if self._settings.l1 > 0:
            self._nonzero = {name: weight != 0 for name, weight in self._weights.items()}

    def after_step(self, lr: float, *, progress: float) -> None:
        """Shrink weights by ``lr l1 (1 - progress)``, and keep removed ones at zero."""
        if self._settings.l1 > 0:
            soft_threshold(self._weights.values(), lr * self._settings.l1 * (1 - progress))
            apply_masks(self._weights, self._nonzero)
        apply_masks(self._weights, self.masks)

    @torch.no_grad()
    def finish(self) -> None:
        """After the last step: ``w_0 - negate (w - w_0)``, the negated task vector (arXiv:2212.04089).

        An adapter's w - w_0 is a product of a factor that began at zero and one that did not: the former alone is
        scaled, as turning both would leave the product as it is.
        """
        scale = self._settings.negate
        if scale is not None:
            adapter = has_adapter(self._target.model)
            for name, weight in _trained(self._target.model).items():
                start = self._start[name].float()
                if adapter and bool(start.any()):
                    continue
                weight.copy_((start - scale * (weight.float() - start)).to(weight.dtype))

    def _wanda(self, data: TrainingData, share: float) -> dict[str, Tensor]:
        examples = (data.retain or data.forget)[:CALIBRATION_EXAMPLES]
        if not examples:
            raise ConfigError("prune: wanda measures inputs on retain or forget examples, and there are none")
        encoded = self._target.encode(examples)
        groups = self._target.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET)
        batches = (collate([encoded[i] for i in g], device=self._target.device, scope="attended") for g in groups)
        return wanda_masks(self._target.model, batches, share=share)


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
