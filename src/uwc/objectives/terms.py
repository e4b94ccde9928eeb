"""Forget and retain terms.

Notation: x prompt, y answer, N tokens; l_t = -log p_t with p_t = p(y_t | x, y_<t), q_t the same under the original
model; z_t [V] the logits that predict y_t, p = softmax z; h_t [d] the output of a block at that position; NLL the sum
of l_t over an answer, NLL_o the original model's.
"""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from uwc.data.batches import Scope
from uwc.objectives.registry import terms

if TYPE_CHECKING:
    from torch import Tensor

    from uwc.data.batches import Batch
    from uwc.objectives.forwards import Forwards, Pass


@terms.register(
    "gradient_ascent",
    source="arXiv:2210.01504",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="tokens",
    formula="-(1/N) sum_t l_t",
)
def gradient_ascent(forwards: "Forwards") -> "Tensor":
    """Gradient ascent on the loss of the forget answers: ``L = -(1/N) sum_t l_t``. Returns [B] sums over tokens."""
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
def refusal(forwards: "Forwards") -> "Tensor":
    """Train to answer forget questions with a random refusal: ``L = (1/N) sum_t l_t``. Returns [B] sums over tokens."""
    return -forwards.refusal.total(forwards.refusal.logprobs)


@terms.register(
    "jensen_shannon_refusal",
    source="arXiv:2509.02820",
    side="forget",
    role="forget",
    needs=("forget.logits", "refusal.tokens"),
    reduction="tokens",
    formula="(1/N) sum_t JSD(1[r_t], p), r the refusal's tokens in turn",
)
def jensen_shannon_refusal(forwards: "Forwards") -> "Tensor":
    """JensUn's forget loss: predict a refusal's tokens at the positions of the forget answer, by a bounded divergence.

    ``L = (1/N) sum_t JSD(e_t, p)``, e_t all mass on r_t, the refusal's token with number t modulo their number, end of
    sequence included; with p_t = p(r_t | x, y_<t), ``JSD(e_t, p) = log 2 - (1 + p_t) log(1 + p_t) / 2 + p_t log(p_t) /
    2``, between 0 and log 2. Returns [B] sums over tokens.
    """
    from uwc.objectives.forwards import target_logprobs

    passed = forwards.forget
    logprobs = target_logprobs(passed.logits, in_turn(forwards.refusal.batch, passed))
    p = logprobs.exp()
    return passed.total(math.log(2) - ((1 + p) * p.log1p() - p * logprobs) / 2)


def in_turn(source: "Batch", passed: "Pass") -> "Tensor":
    """[N] for the labelled tokens of a pass the answer tokens of the same example in another batch, again from the
    first after the last; before an answer its first."""
    import torch

    rows, tokens = source.rows[source.in_answer], source.targets[source.in_answer]
    counts = torch.bincount(rows, minlength=source.size)
    starts = counts.cumsum(0) - counts
    own = passed.batch.rows
    return tokens[starts[own] + passed.order_in_answer().clamp_min(0) % counts[own]]


@terms.register(
    "weighted_ascent",
    source="arXiv:2502.19301",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="tokens",
    formula="-(1/N) sum_t w_t l_t, w_t = p_t^beta",
)
def weighted_ascent(forwards: "Forwards", *, beta: float = 5.0) -> "Tensor":
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
def token_npo(forwards: "Forwards", *, beta: float = 4.0) -> "Tensor":
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
def weighted_token_npo(forwards: "Forwards", *, beta: float = 4.0, alpha: float = 1.5) -> "Tensor":
    """WTNPO: TNPO's weight times p_t^alpha: ``w_t = 2 p_t^(beta + alpha) / (p_t^beta + q_t^beta)``.

    No gradient flows through the weights. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    log_p = passed.logprobs.detach()
    weights = 2 * (beta * (log_p - forwards.reference_logprobs("forget"))).sigmoid() * (alpha * log_p).exp()
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
def saturation_importance(forwards: "Forwards", *, beta1: float = 5.0, beta2: float = 1.0) -> "Tensor":
    """SatImp: weigh tokens by saturation and importance: ``w_t = p_t^beta1 (1 - p_t)^beta2``.

    No gradient flows through the weights. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    log_p = passed.logprobs.detach()
    weights = (beta1 * log_p).exp() * (-log_p.expm1()).clamp_min(0) ** beta2
    return passed.total(weights * passed.logprobs)


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
def npo(forwards: "Forwards", *, beta: Positive = 0.5) -> "Tensor":
    """Negative preference optimization: gradient ascent that fades as the answer becomes unlikely.

    ``L_i = -(2 / beta) log sigmoid(beta r_i)``, ``r_i = NLL_theta,i - NLL_original,i``, sums over the answer's tokens.
    Returns [B]. Raises ValueError if beta is not positive.
    """
    return -(2 / _positive("npo", beta)) * _log_sigmoid(beta * _surprise(forwards, "forget"))


@terms.register(
    "simnpo",
    source="arXiv:2410.07163",
    side="forget",
    role="forget",
    needs=("forget",),
    reduction="examples",
    formula="-(2/beta) log sigmoid(beta (NLL / N - delta))",
)
def simnpo(forwards: "Forwards", *, beta: Positive = 4.5, delta: float = 0.0) -> "Tensor":
    """SimNPO: NPO without a reference, on the loss per token.

    ``L_i = -(2 / beta) log sigmoid(beta (NLL_i / N_i - delta))``; the paper's margin gamma is beta * delta.
    Returns [B]. Raises ValueError if beta is not positive.
    """
    passed = forwards.forget
    per_token = -passed.total(passed.logprobs) / passed.counts()
    return -(2 / _positive("simnpo", beta)) * _log_sigmoid(beta * (per_token - delta))


@terms.register(
    "dpo",
    source="arXiv:2305.18290",
    side="forget",
    role="forget",
    needs=("forget", "forget.reference_logprobs", "refusal", "refusal.reference_logprobs"),
    reduction="examples",
    formula="-(2/beta) log sigmoid(beta ((NLL_o - NLL)(preferred) - (NLL_o - NLL)(forget)))",
)
def dpo(forwards: "Forwards", *, beta: Positive = 0.1) -> "Tensor":
    """Direct preference optimization: prefer a refusal to the forget answer.

    ``L_i = -(2 / beta) log sigmoid(beta (d_w - d_l))``, ``d = NLL_original - NLL_theta``, w the preferred answer, l the
    forget answer; sums over tokens. The role "refusal" may be played by "alternative" (AltPO, arXiv:2409.13474).
    Returns [B]. Raises ValueError if beta is not positive.
    """
    margin = _surprise(forwards, "forget") - _surprise(forwards, "refusal")
    return -(2 / _positive("dpo", beta)) * _log_sigmoid(beta * margin)


@terms.register(
    "answer_preservation",
    source="arXiv:2410.08109",
    side="retain",
    role="retain",
    needs=("retain", "retain_refusal"),
    reduction="examples",
    formula="-(1/beta) log sigmoid(beta (NLL(retain, refusal) - NLL(retain)))",
)
def answer_preservation(forwards: "Forwards", *, beta: Positive = 0.1) -> "Tensor":
    """Keep answering retain questions rather than refusing them.

    ``L_i = -(1 / beta) log sigmoid(beta (NLL(x_r, refusal) - NLL(x_r, y_r)))``, sums over tokens; the refusal is that
    of the forget question at the same position of the batch. Returns [B]. Raises ValueError if beta is not positive.
    """
    answered, refused = forwards.retain, forwards.pass_of("retain_refusal")
    margin = answered.total(answered.logprobs) - refused.total(refused.logprobs)
    return -(1 / _positive("answer_preservation", beta)) * _log_sigmoid(beta * margin)


def _surprise(forwards: "Forwards", role: str) -> "Tensor":
    """[B] the increase of the answers' negative log-likelihood over the original's: ``NLL_theta - NLL_original``."""
    passed = forwards.pass_of(role)
    return passed.total(forwards.reference_logprobs(role) - passed.logprobs)


def _log_sigmoid(x: "Tensor") -> "Tensor":
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)


def _positive(term: str, beta: float) -> float:
    if beta <= 0:
        raise ValueError(f"{term}: beta = {beta} must be positive")
    return beta


@terms.register(
    "self_distillation",
    source="arXiv:2402.10052",
    side="forget",
    role="forget",
    needs=("forget.logits", "forget.reference_logits"),
    reduction="tokens",
    formula="(1/N) sum_t CE(softmax(z_original,t - beta 1[y_t]), p)",
)
def self_distillation(forwards: "Forwards", *, beta: float = 10.0) -> "Tensor":
    """UNDIAL: imitate the original model with the true token's logit lowered by beta, at the answer's positions only.

    ``L = (1/N) sum_t -sum_v s_t(v) log p_t(v)``, ``s_t = softmax(z_original,t - beta 1[v = y_t])``. Returns [B] sums
    over tokens.
    """
    passed = forwards.forget
    teacher = forwards.reference_logits("forget").float()
    teacher = teacher.scatter_add(
        1, passed.batch.targets[:, None], teacher.new_full((len(passed.batch.targets), 1), -beta)
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
def ce_u(forwards: "Forwards", *, ignore_first: int = 1) -> "Tensor":
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
def maximum_entropy(forwards: "Forwards", *, scope: Scope = "attended") -> "Tensor":
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
def logit_flattening(forwards: "Forwards") -> "Tensor":
    """PDU's forget loss: pull the largest logit to the mean one: ``L = (1/N) sum_t (max_v z_t - mean_v z_t)^2``.

    Over the positions that predict answer tokens. Returns [B] sums over tokens.
    """
    passed = forwards.forget
    logits = passed.logits.float()
    return passed.total((logits.amax(dim=1) - logits.mean(dim=1)).square())


def _cross_entropy(target: "Tensor", logits: "Tensor") -> "Tensor":
    """[N] ``-sum_v target(v) log softmax(z)(v)``, for targets that sum to 1."""
    logits = logits.float()
    return logits.logsumexp(dim=1) - (target * logits).sum(dim=1)


@terms.register(
    "misdirection",
    source="arXiv:2403.03218",
    side="forget",
    role="forget",
    needs=("forget.states",),
    reduction="examples",
    formula="mean_t mean_d (h_t - c u)^2, |u| = 1",
)
def misdirection(
    forwards: "Forwards", *, layer: int | None = None, coefficient: float = 2.0, seed: int = 0
) -> "Tensor":
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
    forwards: "Forwards", *, layer: int | None = None, coefficient: float = 2.0, seed: int = 0
) -> "Tensor":
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
def activation_distance(forwards: "Forwards", *, layer: int | None = None) -> "Tensor":
    """RMU's retain loss: keep hidden states close to the original's.

    ``L_i = mean_t mean_d (h_t - h_original,t)^2``, h_t the output of block `layer` at the positions that predict
    answer tokens. Returns [B].
    """
    passed, layer = forwards.retain, _given(layer)
    distance = passed.states[layer].float() - forwards.reference_states("retain", layer).float()
    return passed.total(distance.square().mean(dim=1)) / passed.counts()


def random_direction(width: int, *, seed: int) -> "Tensor":
    """[width] a vector uniform on [0, 1)^width, scaled to unit 2-norm; the same for the same seed on any device."""
    uniform = uniform_vector(width, seed=seed)
    direction: Tensor = uniform / uniform.norm()
    return direction


def uniform_vector(width: int, *, seed: int) -> "Tensor":
    """[width] a vector uniform on [0, 1)^width; the same for the same seed on any device."""
    import torch

    return torch.rand(width, generator=torch.Generator().manual_seed(seed))


def _given(layer: int | None) -> int:
    if layer is None:
        raise ValueError("the layer must be resolved before the term runs")
    return layer


@terms.register(
    "nll",
    source="arXiv:2203.12817",
    side="retain",
    role="retain",
    needs=("retain",),
    reduction="tokens",
    formula="(1/N) sum_t l_t",
)
def nll(forwards: "Forwards") -> "Tensor":
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
def kl(forwards: "Forwards", *, scope: Scope = "answer") -> "Tensor":
    """Stay close to the original model's predictions: ``L = (1/N) sum_t sum_v p_o(v) log(p_o(v) / p(v))``.

    The mean is over the positions that predict the answer, or with `scope` "attended" over the whole sequence without
    padding. Returns [B] sums over tokens.
    """
    from uwc.objectives.forwards import divergence

    passed = forwards.retain
    per_token = divergence(forwards.reference_logits("retain"), passed.logits)
    return passed.total(per_token, attended=scope == "attended")


@terms.register(
    "jensen_shannon",
    source="arXiv:2509.02820",
    side="retain",
    role="retain",
    needs=("retain.logits", "retain.reference_logits"),
    reduction="tokens",
    formula="(1/N) sum_t JSD(p_original, p)",
)
def jensen_shannon(forwards: "Forwards", *, scope: Scope = "answer") -> "Tensor":
    """JensUn's retain loss: stay close to the original model's predictions, by a bounded divergence.

    ``L = (1/N) sum_t (KL(p_o || m) + KL(p || m)) / 2``, ``m = (p_o + p) / 2``. The mean is over the positions that
    predict the answer, or with `scope` "attended" over the whole sequence without padding. Returns [B] sums over
    tokens.
    """
    from uwc.objectives.forwards import jensen_shannon_divergence

    passed = forwards.retain
    per_token = jensen_shannon_divergence(forwards.reference_logits("retain"), passed.logits)
    return passed.total(per_token, attended=scope == "attended")
