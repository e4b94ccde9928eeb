"""Forget terms on whole next-token distributions. Notation: z_t, the logits [V] that predict y_t; p = softmax z."""

import math

import torch
from torch import Tensor

from uwc.data.batches import Scope
from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms


@terms.register(
    "self_distillation",
    source="arXiv:2402.10052",
    side="forget",
    role="forget",
    needs=("forget.logits", "forget.reference_logits"),
    reduction="tokens",
    formula="(1/N) sum_t CE(softmax(z_original,t - beta 1[y_t]), p)",
)
def self_distillation(forwards: Forwards, *, beta: float = 10.0) -> Tensor:
    """UNDIAL: imitate the original model with the true token's logit lowered by beta, at the answer's positions only.

    ``L = (1/N) sum_t -sum_v s_t(v) log p_t(v)``, ``s_t = softmax(z_original,t - beta 1[v = y_t])``. Returns [B] sums
    over tokens.
    """
    passed = forwards.forget
    teacher = (
        forwards.reference_logits("forget")
        .float()
        .scatter_add(
            1,
            passed.batch.targets[:, None],
            torch.full((len(passed.batch.targets), 1), -beta, device=passed.logits.device),
        )
    )
    return passed.total(_cross_entropy(teacher.softmax(dim=1), passed.logits))


@terms.register(
    "ce_u",
    source="arXiv:2503.01224",
    side="forget",
    role="forget",
    needs=("forget.logits",),
    reduction="tokens",
    formula="(1/N) sum_t CE(softmax(z_t with z_y = -inf), p)",
)
def ce_u(forwards: Forwards, *, ignore_first: int = 1) -> Tensor:
    """CE-U: imitate the model's own detached distribution with the true token ruled out.

    ``L = (1/N) sum_t -sum_v s_t(v) log p_t(v)``, ``s_t = softmax(z_t with z_t(y_t) = -inf)``, without gradient, over
    all but the first `ignore_first` tokens of each answer. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    ruled_out = passed.logits.detach().float().scatter(1, passed.batch.targets[:, None], -math.inf)
    counted = passed.order_in_answer() >= ignore_first
    return passed.total(_cross_entropy(ruled_out.softmax(dim=1), passed.logits) * counted)


@terms.register(
    "maximum_entropy",
    source="arXiv:2410.08109",
    side="forget",
    role="forget",
    needs=("forget.logits",),
    reduction="tokens",
    formula="(1/N) sum_t KL(uniform || p)",
)
def maximum_entropy(forwards: Forwards, *, scope: Scope = "attended") -> Tensor:
    """ME: pull predictions towards the uniform distribution: ``L = (1/N) sum_t (-(1/V) sum_v log p_t(v) - log V)``.

    The mean is over the tokens of the whole sequence without padding, or with `scope` "answer" over the answer alone.
    Returns [B] sums over tokens.
    """
    passed = forwards.forget
    logits = passed.logits.float()
    per_token = logits.logsumexp(dim=1) - logits.mean(dim=1) - math.log(logits.shape[1])
    return passed.total(per_token, attended=scope == "attended")


@terms.register(
    "logit_flattening",
    source="arXiv:2506.05314",
    side="forget",
    role="forget",
    needs=("forget.logits",),
    reduction="tokens",
    formula="(1/N) sum_t (max_v z_t - mean_v z_t)^2",
)
def logit_flattening(forwards: Forwards) -> Tensor:
    """PDU's forget loss: pull the largest logit to the mean one: ``L = (1/N) sum_t (max_v z_t - mean_v z_t)^2``.

    Over the positions that predict answer tokens. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    logits = passed.logits.float()
    return passed.total((logits.amax(dim=1) - logits.mean(dim=1)).square())


def _cross_entropy(target: Tensor, logits: Tensor) -> Tensor:
    """[N] ``-sum_v target(v) log softmax(z)(v)``, for targets that sum to 1."""
    logits = logits.float()
    return logits.logsumexp(dim=1) - (target * logits).sum(dim=1)
