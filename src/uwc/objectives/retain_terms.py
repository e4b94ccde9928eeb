"""Retain terms: losses on data to be kept."""

from torch import Tensor

from uwc.data.batches import Scope
from uwc.objectives.forwards import Forwards
from uwc.objectives.logprobs import divergence
from uwc.objectives.registry import terms


@terms.register(
    "nll",
    source="arXiv:2203.12817",
    side="retain",
    role="retain",
    needs=("retain",),
    reduction="tokens",
    formula="(1/N) sum_t l_t",
)
def nll(forwards: Forwards) -> Tensor:
    """Train on retain answers: ``L = (1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return -forwards.retain.total(forwards.retain.logprobs)


@terms.register(
    "kl",
    source="arXiv:2401.06121",
    side="retain",
    role="retain",
    needs=("retain.logits", "retain.reference_logits"),
    reduction="tokens",
    formula="(1/N) sum_t KL(p_original || p)",
)
def kl(forwards: Forwards, *, scope: Scope = "answer") -> Tensor:
    """Stay close to the original model's predictions: ``L = (1/N) sum_t sum_v p_o(v) log(p_o(v) / p(v))``.

    The mean is over the positions that predict the answer, or with `scope` "attended" over the whole sequence without
    padding. Returns [B] sums over tokens.
    """
    passed = forwards.retain
    per_token = divergence(forwards.reference_logits("retain"), passed.logits)
    return passed.total(per_token, attended=scope == "attended")
