"""Retain terms: losses whose minimisation keeps what should not be forgotten."""

import torch.nn.functional as F
from torch import Tensor

from uwc.data.batches import Scope
from uwc.objectives.forwards import Forwards
from uwc.objectives.registry import terms


@terms.register(
    "nll", source="arXiv:2203.12817", side="retain", role="retain", needs=("retain",), reduction="tokens",
    formula="(1/N) sum_t l_t",
)  # fmt: skip
def nll(forwards: Forwards) -> Tensor:
    """Keep training on retain answers: ``L = (1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return -forwards.retain.total(forwards.retain.logprobs)


@terms.register(
    "kl", source="arXiv:2401.06121", side="retain", role="retain", needs=("retain", "retain.reference_logits"),
    reduction="tokens", formula="(1/N) sum_t KL(p_original || p)",
)  # fmt: skip
def kl(forwards: Forwards, *, scope: Scope = "answer") -> Tensor:
    """Stay close to the original model's predictions: ``L = (1/N) sum_t sum_v p_o(v) log(p_o(v) / p(v))``.

    The mean is over real tokens only, never padding: over those that predict the answer, or with `scope` "attended"
    over all of the sequence. Returns [B] sums over tokens.
    """
    passed = forwards.retain
    log_p = passed.logits.float().log_softmax(dim=1)
    log_q = forwards.reference_logits("retain").float().log_softmax(dim=1)
    per_token = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)
    return passed.total(per_token, attended=scope == "attended")


@terms.register(
    "activation_distance", source="arXiv:2403.03218", side="retain", role="retain",
    needs=("retain", "retain.reference_states"), reduction="examples", formula="mean_t mean_d (h_t - h_original,t)^2",
)  # fmt: skip
def activation_distance(forwards: Forwards, *, layer: int | None = None) -> Tensor:
    """RMU's retain loss: keep hidden states where they were.

    ``L_i = mean_t mean_d (h_t - h_original,t)^2``, h_t the output of block `layer` at the positions that predict
    answer tokens. Returns [B].
    """
    if layer is None:
        raise ValueError("the layer must be resolved before the term runs")
    passed = forwards.retain
    distance = passed.states[layer].float() - forwards.reference_states("retain", layer).float()
    return passed.total(distance.square().mean(dim=1)) / passed.counts()
