"""Terms on hidden states. Notation: h_t [d], the output of a block at the position that predicts y_t."""

import torch
from torch import Tensor

from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms


@terms.register(
    "misdirection",
    source="arXiv:2403.03218",
    side="forget",
    role="forget",
    needs=("forget.states",),
    reduction="examples",
    formula="mean_t mean_d (h_t - c u)^2, |u| = 1",
)
def misdirection(forwards: Forwards, *, layer: int | None = None, coefficient: float = 2.0, seed: int = 0) -> Tensor:
    """RMU's forget loss: push hidden states towards one random direction.

    ``L_i = mean_t mean_d (h_t - c u)^2``, h_t the output of block `layer` at the positions that predict answer tokens,
    u drawn once, uniformly from [0, 1)^d, and scaled to unit 2-norm, c = `coefficient`. Returns [B].
    """
    passed = forwards.forget
    states = passed.states[_given(layer)].float()
    direction = random_direction(states.shape[1], seed=seed).to(states.device)
    return passed.total((states - coefficient * direction).square().mean(dim=1)) / passed.counts()


@terms.register(
    "misdirection_long",
    source="arXiv:2406.09179",
    side="forget",
    role="forget",
    needs=("forget.states",),
    reduction="tokens",
    formula="(1/N) sum_t mean_d (h_t - c v)^2, v uniform on [0, 1)^d",
)
def misdirection_long(
    forwards: Forwards, *, layer: int | None = None, coefficient: float = 2.0, seed: int = 0
) -> Tensor:
    """The paper's variant of RMU: a target that is not scaled to unit norm, hence of norm about ``c sqrt(d / 3)``.

    ``L = (1/N) sum_t mean_d (h_t - c v)^2``, a mean over all answer tokens of the step. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    states = passed.states[_given(layer)].float()
    target = coefficient * uniform_vector(states.shape[1], seed=seed).to(states.device)
    return passed.total((states - target).square().mean(dim=1))


@terms.register(
    "activation_distance",
    source="arXiv:2403.03218",
    side="retain",
    role="retain",
    needs=("retain.states", "retain.reference_states"),
    reduction="examples",
    formula="mean_t mean_d (h_t - h_original,t)^2",
)
def activation_distance(forwards: Forwards, *, layer: int | None = None) -> Tensor:
    """RMU's retain loss: keep hidden states close to the original's.

    ``L_i = mean_t mean_d (h_t - h_original,t)^2``, h_t the output of block `layer` at the positions that predict
    answer tokens. Returns [B].
    """
    passed, layer = forwards.retain, _given(layer)
    distance = passed.states[layer].float() - forwards.reference_states("retain", layer).float()
    return passed.total(distance.square().mean(dim=1)) / passed.counts()


def random_direction(width: int, *, seed: int) -> Tensor:
    """[width] a vector uniform on [0, 1)^width, scaled to unit 2-norm; the same for the same seed on any device."""
    uniform = uniform_vector(width, seed=seed)
    direction: Tensor = uniform / uniform.norm()
    return direction


def uniform_vector(width: int, *, seed: int) -> Tensor:
    """[width] a vector uniform on [0, 1)^width; the same for the same seed on any device."""
    return torch.rand(width, generator=torch.Generator().manual_seed(seed))


def _given(layer: int | None) -> int:
    if layer is None:
        raise ValueError("the layer must be resolved before the term runs")
    return layer
