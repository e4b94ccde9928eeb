"""The rules that change weights while a model is trained, or right after: pruning, l1 shrinkage, negation and noise."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uwc.data.batches import Batch, collate
from uwc.errors import ConfigError
from uwc.models.adapters import has_adapter
from uwc.models.batching import DEFAULT_TOKEN_BUDGET
from uwc.models.block_weights import Product, block_matrices, block_parameters, inputs_of, watching_products
from uwc.models.model import Model
from uwc.objectives.objective import Objective
from uwc.objectives.rules import L1, Gru, Lat, MiniUnlearning, Negate, Prune, Rule, Sam
from uwc.training.data import TrainingData
from uwc.training.gradient_rules import LatentAdversary, Rectified, SharpnessAware
from uwc.training.rule_actions import RuleActions, trained

CALIBRATION_EXAMPLES = 128


class _Pruning(RuleActions):
    def __init__(self, rule: Prune, model: Model) -> None:
        super().__init__()
        self._rule, self._model, self._weights = rule, model, linear_weights(model.model)

    def begin(self, data: TrainingData, *, state: Mapping[str, Tensor] | None) -> None:
        if state:
            self.state = dict(state)
        elif self._rule.by == "magnitude":
            self.state = magnitude_masks(self._weights, share=self._rule.share)
        else:
            self.state = self._wanda(data)
        apply_masks(self._weights, self.state)

    def after_step(self, lr: float, *, progress: float) -> None:
        apply_masks(self._weights, self.state)

    def _wanda(self, data: TrainingData) -> dict[str, Tensor]:
        examples = (data.retain or data.forget)[:CALIBRATION_EXAMPLES]
        if not examples:
            raise ConfigError(
                "prune: wanda measures inputs on retain or forget examples, and there are none; give some, or set "
                "rule.by to magnitude"
            )
        encoded = self._model.encode(examples)
        groups = self._model.groups(encoded, token_budget=DEFAULT_TOKEN_BUDGET)
        batches = (collate([encoded[i] for i in g], device=self._model.device, scope="attended") for g in groups)
        return wanda_masks(self._model.model, batches, share=self._rule.share)


class _Shrinkage(RuleActions):
    def __init__(self, rule: L1, model: Model) -> None:
        super().__init__()
        self._rule, self._weights = rule, linear_weights(model.model)
        self._nonzero: dict[str, Tensor] = {}

    def before_step(self) -> None:
        self._nonzero = {name: weight != 0 for name, weight in self._weights.items()}

    def after_step(self, lr: float, *, progress: float) -> None:
        soft_threshold(self._weights.values(), lr * self._rule.strength * (1 - progress))
        apply_masks(self._weights, self._nonzero)  # the optimizer may have moved those that were at zero


class _Negation(RuleActions):
    def __init__(self, rule: Negate, model: Model) -> None:
        super().__init__()
        self._rule, self._model = rule, model
        self._start = {name: p.detach().clone() for name, p in trained(model.model).items()}

    @torch.no_grad()
    def finish(self) -> None:
        """Set ``w_0 - scale (w - w_0)``.

        An adapter's w - w_0 is a product of a factor that began at zero and one that did not: the former alone is
        scaled, as turning both would leave the product as it is.
        """
        adapter = has_adapter(self._model.model)
        for name, weight in trained(self._model.model).items():
            start = self._start[name].float()
            if adapter and bool(start.any()):
                continue
            weight.copy_((start - self._rule.scale * (weight.float() - start)).to(weight.dtype))


def rule_actions(rule: Rule | None, model: Model, objective: Objective) -> RuleActions:
    """The actions of a method's rule on a model in training.

    Raises:
        ConfigError: the rule needs the weights themselves, and the model has an adapter; or it perturbs a block that
            has no effect.
        ModelError: the blocks of the model hold no matrix, or weights of unknown use.
        ValueError: the rule takes the place of training.
    """
    if isinstance(rule, MiniUnlearning):
        raise ValueError("Mini-Unlearning takes the place of training; call unlearn")
    if isinstance(rule, Lat):
        return LatentAdversary(rule, model, objective)
    kinds: dict[type, Callable[[Any, Model], RuleActions]] = {
        Prune: _Pruning, L1: _Shrinkage, Negate: _Negation, Sam: SharpnessAware, Gru: Rectified
    }  # fmt: skip
    return kinds[type(rule)](rule, model) if type(rule) in kinds else RuleActions()


def linear_weights(model: Any) -> dict[str, Tensor]:
    """Name -> the parameters that hold the matrices of the model's blocks (`block_matrices`), fused experts included.

    Embeddings, output embedding, norms and biases are left out. Raises ConfigError if the model has an adapter, and
    ModelError if the blocks hold no matrix, or weights of unknown use.
    """
    if any("lora_" in name for name in block_parameters(model)):
        raise ConfigError(
            "the rules prune and l1 change the weights themselves; they do not go together with lora: leave one of "
            "them out"
        )
    return {matrix.name: matrix.parameter for matrix in block_matrices(model)}


@torch.no_grad()
def mix_in_noise(weights: Iterable[Tensor], *, alpha: float, beta: float, seed: int) -> None:
    """Replace weights in place: ``w <- (1 - alpha) w + alpha beta n``.

    n is uniform on ``(-a, a)``, ``a = sqrt(6 / (rows + columns))``, for matrices (Xavier's initialisation; the last two
    dimensions of a stack of matrices), and 0 for vectors. The noise is drawn on the CPU, in the order of the weights,
    and so is the same on any device. Source: arXiv:2506.06278, with its public code for beta and vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    for weight in weights:
        mixed = (1 - alpha) * weight.float()
        if weight.ndim >= 2:
            bound = (6 / (weight.shape[-2] + weight.shape[-1])) ** 0.5
            noise = (2 * torch.rand(weight.shape, generator=generator) - 1) * bound
            mixed += alpha * beta * noise.to(weight.device)
        weight.copy_(mixed.to(weight.dtype))


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
        for number, part, inputs in inputs_of(matrices[product.name], product):
            sums[product.name][number][part] += inputs.float().square().sum(dim=0)

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
