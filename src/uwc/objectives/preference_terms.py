"""Preference terms that reject the forget answer. Notation: NLL is a sequence sum, NLL_o the original model's."""

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms

Positive = Annotated[float, Field(gt=0)]


@terms.register(
    "npo",
    source="arXiv:2404.05868",
    side="forget",
    role="forget",
    needs=("forget", "forget.reference_logprobs"),
    reduction="examples",
    formula="-(2/beta) log sigmoid(beta (NLL - NLL_original))",
)
def npo(forwards: Forwards, *, beta: Positive = 0.5) -> Tensor:
    """Negative preference optimization: gradient ascent that fades as the answer becomes unlikely.

    ``L_i = -(2 / beta) log sigmoid(beta r_i)``, ``r_i = NLL_theta,i - NLL_original,i``, sums over the answer's tokens.
    Returns [B]. Raises ValueError if beta is not positive.
    """
    return -(2 / _positive("npo", beta)) * F.logsigmoid(beta * _surprise(forwards, "forget"))


@terms.register(
    "simnpo",
    source="arXiv:2410.07163",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="examples",
    formula="-(2/beta) log sigmoid(beta (NLL / N - delta))",
)
def simnpo(forwards: Forwards, *, beta: Positive = 4.5, delta: float = 0.0) -> Tensor:
    """SimNPO: NPO without a reference, on the loss per token.

    ``L_i = -(2 / beta) log sigmoid(beta (NLL_i / N_i - delta))``; the paper's margin gamma is beta * delta.
    Returns [B]. Raises ValueError if beta is not positive.
    """
    passed = forwards.forget
    per_token = -passed.total(passed.logprobs) / passed.counts()
    return -(2 / _positive("simnpo", beta)) * F.logsigmoid(beta * (per_token - delta))


@terms.register(
    "dpo",
    source="arXiv:2305.18290",
    side="forget",
    role="forget",
    needs=("forget", "forget.reference_logprobs", "refusal", "refusal.reference_logprobs"),
    reduction="examples",
    formula="-(2/beta) log sigmoid(beta ((NLL_o - NLL)(preferred) - (NLL_o - NLL)(forget)))",
)
def dpo(forwards: Forwards, *, beta: Positive = 0.1) -> Tensor:
    """Direct preference optimization: prefer a refusal to the forget answer.

    ``L_i = -(2 / beta) log sigmoid(beta (d_w - d_l))``, ``d = NLL_original - NLL_theta``, w the preferred answer, l the
    forget answer; sums over tokens. The role "refusal" may be played by "alternative" (AltPO, arXiv:2409.13474).
    Returns [B]. Raises ValueError if beta is not positive.
    """
    margin = _surprise(forwards, "forget") - _surprise(forwards, "refusal")
    return -(2 / _positive("dpo", beta)) * F.logsigmoid(beta * margin)


@terms.register(
    "answer_preservation",
    source="arXiv:2410.08109",
    side="retain",
    role="retain",
    needs=("retain", "retain_refusal"),
    reduction="examples",
    formula="-(1/beta) log sigmoid(beta (NLL(retain, refusal) - NLL(retain)))",
)
def answer_preservation(forwards: Forwards, *, beta: Positive = 0.1) -> Tensor:
    """Keep answering retain questions rather than refusing them.

    ``L_i = -(1 / beta) log sigmoid(beta (NLL(x_r, refusal) - NLL(x_r, y_r)))``, sums over tokens; the refusal is that
    of the forget question at the same position of the batch. Returns [B]. Raises ValueError if beta is not positive.
    """
    answered, refused = forwards.retain, forwards.pass_of("retain_refusal")
    margin = answered.total(answered.logprobs) - refused.total(refused.logprobs)
    return -(1 / _positive("answer_preservation", beta)) * F.logsigmoid(beta * margin)


def _surprise(forwards: Forwards, role: str) -> Tensor:
    """[B] the increase of the answers' negative log-likelihood over the original's: ``NLL_theta - NLL_original``."""
    passed = forwards.pass_of(role)
    return passed.total(forwards.reference_logprobs(role) - passed.logprobs)


def _positive(term: str, beta: float) -> float:
    if beta <= 0:
        raise ValueError(f"{term}: beta = {beta} must be positive")
    return beta
