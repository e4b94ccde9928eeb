"""Forget terms of token losses. Notation: l_t = -log p_t, p_t = p(y_t | x, y_<t), q_t the original's, N tokens."""

import torch
from torch import Tensor

from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms


@terms.register(
    "gradient_ascent",
    source="arXiv:2210.01504",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="tokens",
    formula="-(1/N) sum_t l_t",
)
def gradient_ascent(forwards: Forwards) -> Tensor:
    """Climb the likelihood loss of the forget answers: ``L = -(1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return forwards.forget.total(forwards.forget.logprobs)


@terms.register(
    "refusal",
    source="arXiv:2401.06121",
    side="forget",
    role="refusal",
    needs=("refusal",),
    reduction="tokens",
    formula="(1/N) sum_t l_t on the answer taught",
)
def refusal(forwards: Forwards) -> Tensor:
    """Train to answer forget questions with a random refusal: ``L = (1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return -forwards.refusal.total(forwards.refusal.logprobs)


@terms.register(
    "weighted_ascent",
    source="arXiv:2502.19301",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="tokens",
    formula="-(1/N) sum_t w_t l_t, w_t = p_t^beta",
)
def weighted_ascent(forwards: Forwards, *, beta: float = 5.0) -> Tensor:
    """WGA: gradient ascent with small weights for unlikely tokens: ``L = -(1/N) sum_t w_t l_t``, ``w_t = p_t^beta``.

    No gradient flows through the weights; the mean divides by N, not by their sum. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    return passed.total((beta * passed.logprobs.detach()).exp() * passed.logprobs)


@terms.register(
    "token_npo",
    source="arXiv:2502.19301",
    side="forget",
    role="forget",
    needs=("forget", "forget.reference_logprobs"),
    reduction="tokens",
    formula="-(1/N) sum_t w_t l_t, w_t = 2 p_t^beta / (p_t^beta + q_t^beta)",
)
def token_npo(forwards: Forwards, *, beta: float = 4.0) -> Tensor:
    """TNPO: NPO's weight, token by token: ``w_t = 2 p_t^beta / (p_t^beta + q_t^beta)``, q the original's.

    Evaluated as ``2 sigmoid(beta (log p_t - log q_t))``, without a small constant in the denominator. No gradient flows
    through the weights. Returns [B] sums over tokens.
    """
    loss: Tensor = weighted_token_npo(forwards, beta=beta, alpha=0.0)
    return loss


@terms.register(
    "weighted_token_npo",
    source="arXiv:2502.19301",
    side="forget",
    role="forget",
    needs=("forget", "forget.reference_logprobs"),
    reduction="tokens",
    formula="-(1/N) sum_t w_t l_t, w_t = 2 p_t^(beta+alpha) / (p_t^beta + q_t^beta)",
)
def weighted_token_npo(forwards: Forwards, *, beta: float = 4.0, alpha: float = 1.5) -> Tensor:
    """WTNPO: TNPO's weight times p_t^alpha: ``w_t = 2 p_t^(beta + alpha) / (p_t^beta + q_t^beta)``.

    No gradient flows through the weights. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    log_p = passed.logprobs.detach()
    weights = 2 * torch.sigmoid(beta * (log_p - forwards.reference_logprobs("forget"))) * (alpha * log_p).exp()
    return passed.total(weights * passed.logprobs)


@terms.register(
    "saturation_importance",
    source="arXiv:2505.11953",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="tokens",
    formula="-(1/N) sum_t w_t l_t, w_t = p_t^beta1 (1 - p_t)^beta2",
)
def saturation_importance(forwards: Forwards, *, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """SatImp: weigh tokens by saturation and importance: ``w_t = p_t^beta1 (1 - p_t)^beta2``.

    No gradient flows through the weights. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    log_p = passed.logprobs.detach()
    weights = (beta1 * log_p).exp() * (-torch.expm1(log_p)).clamp_min(0) ** beta2
    return passed.total(weights * passed.logprobs)
