"""The rules that change a step's gradient: SAM, GRU and latent adversarial training."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from uwc.data.batches import Batch
from uwc.errors import ConfigError
from uwc.models.model import Model
from uwc.models.states import resolve_layer
from uwc.objectives.objective import Objective
from uwc.objectives.registry import ROLES
from uwc.objectives.rules import Gru, Lat, Sam
from uwc.training.data import TrainingData
from uwc.training.rule_actions import AddGradients, Batches, RuleActions, trained


class SharpnessAware(RuleActions):
    """The gradient of the forget terms at ``w + rho g / |g|``, g their gradient at w (arXiv:2502.05374).

    The losses that it returns are those at w. A step holds a copy of the trained weights, so that they come back to
    the bit.
    """

    def __init__(self, rule: Sam, model: Model) -> None:
        super().__init__()
        self._rho, self._model = rule.rho, model.model

    def accumulate(self, add: AddGradients) -> dict[str, float]:
        """Add the forget terms' gradients at w, move, replace them by those there, and add the retain terms' at w."""
        means = add("forget")
        with moved_along_gradient(self._model, self._rho):
            add("forget")
        return means | add("retain")


@contextmanager
def moved_along_gradient(model: Any, length: float) -> Iterator[None]:
    """While open, the trained weights are ``w + length g / |g|``, g their gradient, which is removed; w if g is 0."""
    weights = {p: gradient for p in trained(model).values() if (gradient := p.grad) is not None}
    before = [p.detach().clone() for p in weights]
    norm = torch.stack([g.float().square().sum() for g in weights.values()]).sum().sqrt().item() if weights else 0.0
    with torch.no_grad():
        for p, gradient in weights.items():
            if norm:
                p.add_(gradient.to(p.dtype), alpha=length / norm)
            p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for p, start in zip(weights, before, strict=True):
                p.copy_(start)


class Rectified(RuleActions):
    """The forget terms' gradient without what would raise the retain loss (arXiv:2503.09117); see `rectified`.

    `state` holds the average of the retain terms' gradients.
    """

    def __init__(self, rule: Gru, model: Model) -> None:
        super().__init__()
        self._rule, self._model = rule, model.model

    def begin(self, data: TrainingData, *, state: Mapping[str, Tensor] | None) -> None:
        """Take the average of a checkpoint, or 0."""
        weights = trained(self._model)
        zeros = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in weights.items()}
        self.state = {name: value.to(weights[name].device) for name, value in state.items()} if state else zeros

    @torch.no_grad()
    def accumulate(self, add: AddGradients) -> dict[str, float]:
        """Add the gradients of both sides apart, and combine them."""
        weights = trained(self._model)
        with torch.enable_grad():
            means = add("forget")
        forget = {name: _taken(p) for name, p in weights.items()}
        with torch.enable_grad():
            means |= add("retain")
        smoothing = self._rule.smoothing
        for name, p in weights.items():
            self.state[name].mul_(smoothing)
            if p.grad is not None:
                self.state[name].add_(p.grad.float(), alpha=1 - smoothing)
        for name, gradient in rectified(forget, self.state).items():
            own = weights[name].grad
            total = gradient if own is None or not self._rule.descend else gradient + own.float()
            weights[name].grad = total.to(weights[name].dtype)
        return means


def _taken(p: Tensor) -> Tensor:
    """The gradient of a weight in float32, 0 where it has none, and removed from it."""
    gradient, p.grad = p.grad, None
    return torch.zeros_like(p, dtype=torch.float32) if gradient is None else gradient.float()


@torch.no_grad()
def rectified(forget: Mapping[str, Tensor], retain: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``g - min(0, <g, m>) m / <m, m>``: the closest vector to g that has no negative inner product with m.

    A step along it does not raise, to first order, the loss whose gradient is m. Where m is 0, g is returned.

    Args:
        forget: name -> the parts of g.
        retain: name -> those of m.
    """
    product = torch.stack([(g * retain[name]).sum() for name, g in forget.items()]).sum().item()
    square = torch.stack([m.square().sum() for m in retain.values()]).sum().item()
    factor = min(0.0, product) / square if square else 0.0
    return {name: g - factor * retain[name] for name, g in forget.items()}


def perturbed_block(rule: Lat, model: Any, objective: Objective) -> int:
    """The block whose output the rule perturbs.

    Args:
        rule: the rule.
        model: the model, or its number of blocks.
        objective: the terms.

    Raises:
        ConfigError: there is no such block, or the forget terms read nothing that it has an effect on.
    """
    layer, part = resolve_layer(model, rule.layer, where="rule.layer"), objective.part("forget")
    deepest = max((layer for role in part.roles for layer in part.layers(role)), default=0)
    to_the_end = any(part.reads(role) - {"states"} for role in part.roles)
    if not to_the_end and layer > deepest:
        raise ConfigError(
            f"the rule lat perturbs block {layer}, and the forget terms read no state after block {deepest}; set "
            f"rule.layer to {deepest} or less"
        )
    return layer


class LatentAdversary(RuleActions):
    """Forget terms trained against perturbations of hidden states that raise their loss (arXiv:2407.15549).

    Raises:
        ConfigError: there is no such block, or the forget terms read nothing that it has an effect on.
    """

    def __init__(self, rule: Lat, model: Model, objective: Objective) -> None:
        super().__init__()
        self._rule, self._layer = rule, perturbed_block(rule, model.model, objective)
        self._width = int(model.model.config.get_text_config().hidden_size)
        part = objective.part("forget")
        self._roles = [role for role in part.roles if ROLES[role].questions == "forget" and part.reads(role)]

    def accumulate(self, add: AddGradients) -> dict[str, float]:
        """Add the gradients of the perturbed forget terms, and of the retain terms as they are."""
        return add("forget", self._perturbed) | add("retain")

    def _perturbed(self, batches: Batches, loss: Callable[[Batches], Tensor]) -> Batches:
        masks = {
            role: perturbed_positions(batches[role], prompt_only=self._rule.on == "prompt") for role in self._roles
        }
        shifts = {
            role: torch.zeros(*mask.shape, self._width, device=mask.device, requires_grad=True)
            for role, mask in masks.items()
        }
        for _ in range(self._rule.steps):
            gradients = torch.autograd.grad(loss(self._with(batches, shifts)), list(shifts.values()))
            for (role, shift), gradient in zip(shifts.items(), gradients, strict=True):
                with torch.no_grad():
                    shift.copy_(
                        ascended(
                            shift,
                            gradient * masks[role][:, :, None],
                            step=self._rule.step_size,
                            radius=self._rule.epsilon,
                        )
                    )
        return self._with(batches, {role: shift.detach() for role, shift in shifts.items()})

    def _with(self, batches: Batches, shifts: Mapping[str, Tensor]) -> dict[str, Batch]:
        """The batches with these shifts; all of them, so that roles may share a forward pass."""
        return {
            role: replace(batch, shifts={self._layer: shifts[role] if role in shifts else self._zeros(batch)})
            for role, batch in batches.items()
        }

    def _zeros(self, batch: Batch) -> Tensor:
        return torch.zeros(*batch.input_ids.shape, self._width, device=batch.input_ids.device)


def perturbed_positions(batch: Batch, *, prompt_only: bool) -> Tensor:
    """[B, T] True at the positions of each prompt, the last of which predicts the answer's first token; or at all."""
    places = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device)
    if not prompt_only:
        return (places >= 0).expand(batch.size, -1)
    last = torch.full((batch.size,), len(places), device=places.device)
    last = last.scatter_reduce(0, batch.rows[batch.in_answer], batch.positions[batch.in_answer], "amin")
    return places <= last[:, None]


def ascended(shift: Tensor, gradient: Tensor, *, step: float, radius: float) -> Tensor:
    """[B, T, d] ``P(d + step g / |g|)`` at each position, P the projection onto the ball ``|d| <= radius``.

    Norms are 2-norms over d; where the gradient is 0, the shift stays.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    moved = shift + step * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(tiny)
    projected: Tensor = moved * (radius / moved.norm(dim=-1, keepdim=True).clamp_min(tiny)).clamp_max(1.0)
    return projected
