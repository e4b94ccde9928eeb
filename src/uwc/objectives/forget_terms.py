"""Forget terms: losses whose minimisation removes an answer. Notation: l_t = -log p(y_t | x, y_<t), N tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms


@terms.register(
    "gradient_ascent", source="arXiv:2210.01504", side="forget", role="forget", needs=("forget",), reduction="tokens",
    formula="-(1/N) sum_t l_t",
)  # fmt: skip
def gradient_ascent(forwards: Forwards) -> Tensor:
    """Climb the likelihood loss of the forget answers: ``L = -(1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return forwards.forget.total(forwards.forget.logprobs)


@terms.register(
    "refusal", source="arXiv:2401.06121", side="forget", role="refusal", needs=("refusal",), reduction="tokens",
    formula="(1/N) sum_t l_t on a random refusal",
)  # fmt: skip
def refusal(forwards: Forwards) -> Tensor:
    """Teach to answer forget questions with a refusal: ``L = (1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return -forwards.refusal.total(forwards.refusal.logprobs)


@terms.register(
    "npo", source="arXiv:2404.05868", side="forget", role="forget", needs=("forget", "forget.reference_logprobs"),
    reduction="examples", formula="-(2/beta) log sigmoid(beta (NLL - NLL_original))",
)  # fmt: skip
def npo(forwards: Forwards, *, beta: float = 0.5) -> Tensor:
    """Negative preference optimization: gradient ascent that fades as the answer becomes unlikely.

    ``L_i = -(2 / beta) log sigmoid(beta r_i)``, ``r_i = NLL_theta,i - NLL_original,i``, sums over the answer's tokens.
    Returns [B]. Raises ValueError if beta is not positive.
    """
    if beta <= 0:
        raise ValueError(f"npo: beta = {beta} must be positive")
    passed = forwards.forget
    ratio = passed.total(forwards.reference_logprobs("forget") - passed.logprobs)
    return -(2 / beta) * F.logsigmoid(beta * ratio)


@terms.register(
    "misdirection", source="arXiv:2403.03218", side="forget", role="forget", needs=("forget",), reduction="examples",
    formula="mean_t mean_d (h_t - c u)^2, |u| = 1",
)  # fmt: skip
def misdirection(forwards: Forwards, *, layer: int | None = None, coefficient: float = 2.0, seed: int = 0) -> Tensor:
    """RMU's forget loss: push hidden states towards one random direction.

    ``L_i = mean_t mean_d (h_t - c u)^2``, h_t the output of block `layer` at the positions that predict answer tokens,
    u drawn uniformly from [0, 1)^d once and scaled to unit 2-norm, c = `coefficient`. Returns [B].
    """
    passed = forwards.forget
    states = passed.states[_given(layer)].float()
    direction = random_direction(states.shape[1], seed=seed).to(states.device)
    return passed.total((states - coefficient * direction).square().mean(dim=1)) / passed.counts()


def random_direction(width: int, *, seed: int) -> Tensor:
    """[width] a vector uniform on [0, 1)^width, scaled to unit 2-norm; the same for the same seed on any device."""
    uniform = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    direction: Tensor = uniform / uniform.norm()
    return direction


def _given(layer: int | None) -> int:
    if layer is None:
        raise ValueError("the layer must be resolved before the term runs")
    return layer
