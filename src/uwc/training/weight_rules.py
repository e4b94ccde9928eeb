"""The rules that change weights while a model is trained, or right after: pruning, l1 shrinkage and negation."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uwc.data.batches import Batch, collate
from uwc.errors import ConfigError
from uwc.models.adapters import has_adapter
from uwc.models.batching import DEFAULT_TOKEN_BUDGET
from uwc.models.block_weights import Product, block_matrices, block_parameters, watching_products
from uwc.models.model import Model
from uwc.objectives.rules import L1, MiniUnlearning, Negate, Prune, Rule
from uwc.training.data import TrainingData

CALIBRATION_EXAMPLES = 128


class WeightRule:
    """A rule's actions at the points of a run; those of this class do nothing.

    Attributes:
        masks: name -> True for the weights that pruning keeps; stored in checkpoints.
    """

    def __init__(self) -> None:
        self.masks: dict[str, Tensor] = {}

    def begin(self, data: TrainingData, *, masks: Mapping[str, Tensor] | None) -> None:
        """Act before the first step; `masks` are those of a checkpoint, if the run is resumed."""

    def before_step(self) -> None:
        """Act before a step of the optimizer."""

    def after_step(self, lr: float, *, progress: float) -> None:
        """Act after a step of the optimizer with learning rate `lr`, at `progress` in 0..1 of the run."""

    def finish(self) -> None:
        """Act on the weights after the last step."""


class _Pruning(WeightRule):
    def __init__(self, rule: Prune, model: Model) -> None:
        super().__init__()
        self._rule, self._model, self._weights = rule, model, linear_weights(model.model)

    def begin(self, data: TrainingData, *, masks: Mapping[str, Tensor] | None) -> None:
        if masks:
            self.masks = dict(masks)
        elif self._rule.by == "magnitude":
            self.masks = magnitude_masks(self._weights, share=self._rule.share)
        else:
            self.masks = self._wanda(data)
        apply_masks(self._weights, self.masks)

    def after_step(self, lr: float, *, progress: float) -> None:
        apply_masks(self._weights, self.masks)

    def _wanda(self, data: TrainingData) -> dict[str, Tensor]:
        examples = (data.retain or data.forget)[:CALIBRATION_EXAMPLES]
        if not examples:
            raise ConfigError("prune: wanda measures inputs on retain or forget examples, and there are none")
        encoded = self._model.encode(examples)
        groups = self._model.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET)
        batches = (collate([encoded[i] for i in g], device=self._model.device, scope="attended") for g in groups)
        return wanda_masks(self._model.model, batches, share=self._rule.share)


class _Shrinkage(WeightRule):
    def __init__(self, rule: L1, model: Model) -> None:
        super().__init__()
        self._rule, self._weights = rule, linear_weights(model.model)
        self._nonzero: dict[str, Tensor] = {}

    def before_step(self) -> None:
        self._nonzero = {name: weight != 0 for name, weight in self._weights.items()}

    def after_step(self, lr: float, *, progress: float) -> None:
        soft_threshold(self._weights.values(), lr * self._rule.strength * (1 - progress))
        apply_masks(self._weights, self._nonzero)  # the optimizer may have moved those that were at zero


class _Negation(WeightRule):
    def __init__(self, rule: Negate, model: Model) -> None:
        super().__init__()
        self._rule, self._model = rule, model
        self._start = {name: p.detach().clone() for name, p in _trained(model.model).items()}

    @torch.no_grad()
    def finish(self) -> None:
        """Set ``w_0 - scale (w - w_0)``.

        An adapter's w - w_0 is a product of a factor that began at zero and one that did not: the former alone is
        scaled, as turning both would leave the product as it is.
        """
        adapter = has_adapter(self._model.model)
        for name, weight in _trained(self._model.model).items():
            start = self._start[name].float()
            if adapter and bool(start.any()):
                continue
            weight.copy_((start - self._rule.scale * (weight.float() - start)).to(weight.dtype))


def weight_rule(rule: Rule | None, model: Model) -> WeightRule:
    """The actions of a method's rule on the weights of a model in training.

    Raises:
        ConfigError: the rule needs the weights themselves, and the model has an adapter.
        ModelError: the blocks of the model hold no matrix, or weights of unknown use.
        ValueError: the rule takes the place of training.
    """
    if isinstance(rule, MiniUnlearning):
        raise ValueError("Mini-Unlearning takes the place of training; call unlearn")
    if isinstance(rule, Prune):
        return _Pruning(rule, model)
    if isinstance(rule, L1):
        return _Shrinkage(rule, model)
    return _Negation(rule, model) if isinstance(rule, Negate) else WeightRule()


def _trained(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def linear_weights(model: Any) -> dict[str, Tensor]:
    """Name -> the parameters that hold the matrices of the model's blocks (`block_matrices`), fused experts included.

    Embeddings, output embedding, norms and biases are left out. Raises ConfigError if the model has an adapter, and
    ModelError if the blocks hold no matrix, or weights of unknown use.
    """
    if any("lora_" in name for name in block_parameters(model)):
        raise ConfigError("the rules prune and l1 change the weights themselves; they do not go together with lora")
    return {matrix.name: matrix.parameter for matrix in block_matrices(model)}


@torch.no_grad()
def soft_threshold(weights: Iterable[Tensor], threshold: float) -> None:
    """Move every weight towards zero in place: ``w <- sign(w) max(|w| - threshold, 0)``.

    The proximal step of ``threshold |w|``, apart from the optimizer: AdamW would turn an l1 gradient into a step of
    constant size that never ends at zero. Source: arXiv:2304.04934 has the l1 term in the loss.
    """
    for weight in weights:
        weight.copy_(nn.functional.softshrink(weight.float(), threshold).to(weight.dtype))


@torch.no_grad()
def magnitude_masks(weights: Mapping[str, Tensor], *, share: float) -> dict[str, Tensor]:
    """Name -> True for the weights kept: all but the floor(share x total) smallest of the whole model.

    Ties are broken by place. Source: arXiv:2304.04934 (global one-shot magnitude pruning).
    """
    sizes = torch.cat([w.detach().abs().float().flatten() for w in weights.values()])
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[torch.argsort(sizes, stable=True)[: int(share * len(sizes))]] = False
    parts = torch.split(kept, [w.numel() for w in weights.values()])
    return {name: part.view_as(weights[name]) for name, part in zip(weights, parts, strict=True)}


@torch.no_grad()
def wanda_masks(model: Any, batches: Iterable[Batch], *, share: float) -> dict[str, Tensor]:
    """Name -> True for the weights kept: of each output all but the floor(share x inputs) with the smallest score.

    The score is ``|W_ij| ||X_j||_2``, X_j the j-th input of this matrix over all tokens of the batches but each
    example's last labelled one, which has no successor to predict. Each expert has inputs of its own; one that none of
    the tokens is sent to is scored by ``|W_ij|``. Source: arXiv:2306.11695.
    """
    matrices = {m.name: m for m in block_matrices(model)}
    sums = {
        name: [torch.zeros(w.shape[1], device=w.device) for w in matrix.matrices] for name, matrix in matrices.items()
    }

    def add(product: Product) -> None:
        matrix = matrices[product.name]
        number, place = divmod(product.place, matrix.rows * matrix.columns)
        first = place // matrix.columns if matrix.transposed else place % matrix.columns
        for total, inputs in zip(sums[product.name][number:], product.inputs, strict=False):
            total[first : first + inputs.shape[1]] += inputs.float().square().sum(dim=0)

    parameters = {name: matrix.parameter for name, matrix in matrices.items()}
    for batch in batches:
        for row, ids in enumerate(batch.input_ids):
            end = int(batch.positions[batch.rows == row].max()) + 1
            with watching_products(model, parameters, add):
                model(input_ids=ids[None, :end], use_cache=False)
    masks = {}
    for name, matrix in matrices.items():
        masks[name] = torch.ones_like(matrix.parameter, dtype=torch.bool)
        for weight, mask, total in zip(matrix.matrices, matrix.of(masks[name]), sums[name], strict=True):
            scores = weight.abs().float() * (total.sqrt() if bool(total.any()) else 1.0)
            lowest = torch.argsort(scores, dim=1, stable=True)[:, : int(share * scores.shape[1])]
            mask.scatter_(1, lowest, False)
    return masks


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set the weights that are not kept to zero, in place."""
    for name, mask in masks.items():
        weights[name].mul_(mask.to(weights[name].device))
