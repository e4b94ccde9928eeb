"""Membership inference scores, signed like a loss: low values indicate members of the training set."""

import zlib
from collections.abc import Sequence

import numpy as np

from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores

_LEAST_VARIANCE = 1e-6
_UNSCORED = "the answer has no token"


@metrics.register(
    "mia_loss",
    source="arXiv:1709.01604",
    needs=("scores",),
    range=(0.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: loss",
    unscored=_UNSCORED,
)
def mia_loss(scores: TokenScores) -> Floats:
    """The loss of the answer: the mean negative log-probability of its tokens and its end-of-sequence token.

    ``NLL / N`` in nats.

    Returns:
        [E] in 0..inf; NaN for an example without tokens.
    """
    return -scores.mean(scores.logprob, with_end=True)


@metrics.register(
    "mia_zlib",
    source="arXiv:2012.07805",
    needs=("scores", "labelled"),
    range=(0.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: zlib",
    unscored=_UNSCORED,
)
def mia_zlib(scores: TokenScores, labelled: Sequence[str]) -> Floats:
    """The loss of the answer relative to its size compressed by zlib.

    ``(NLL / N) / bytes of zlib(answer)`` in nats a byte.

    Args:
        scores: of the true answers.
        labelled: their texts; OpenUnlearning's are decoded from the labelled tokens.

    Returns:
        [E] in 0..inf; NaN for an example without tokens.
    """
    sizes = np.array([len(zlib.compress(a.encode("utf-8"))) for a in labelled], dtype=np.float64)
    per_byte: Floats = mia_loss(scores) / sizes
    return per_byte


@metrics.register(
    "mia_reference",
    source="arXiv:2012.07805",
    needs=("reference",),
    range=(-np.inf, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: reference",
    unscored=_UNSCORED,
)
def mia_reference(reference: TokenScores) -> Floats:
    """The loss of the answer minus the reference model's.

    ``(NLL - NLL_reference) / N`` in nats.

    Returns:
        [E]; NaN without a reference model.
    """
    theirs = reference.mean(reference.reference_logprob, with_end=True)
    gap: Floats = mia_loss(reference) + theirs
    return gap


@metrics.register(
    "mia_min_k",
    source="arXiv:2310.16789",
    needs=("scores",),
    range=(0.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: min-k",
    unscored=_UNSCORED,
)
def mia_min_k(scores: TokenScores, *, k: float = 0.4) -> Floats:
    """The loss of the least likely tokens of the answer.

    Minus the mean of the lowest ``max(1, floor(k n))`` token log-probabilities, without the end-of-sequence token.

    Args:
        scores: of the true answers.
        k: the share of tokens, in 0..1.

    Returns:
        [E] in 0..inf; NaN for an example without answer tokens.

    Raises:
        ConfigError: k is not in 0..1.
    """
    return -_mean_of_lowest(scores, scores.logprob.astype(np.float64), k)


@metrics.register(
    "mia_min_k_plus_plus",
    source="arXiv:2404.02936",
    needs=("scores",),
    range=(-np.inf, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: min-k++",
    unscored=_UNSCORED,
)
def mia_min_k_plus_plus(scores: TokenScores, *, k: float = 0.4) -> Floats:
    """Min-k on log-probabilities standardised by the model's own next-token distribution.

    As `mia_min_k` with ``(log p_t - mu_t) / sigma_t``, where mu_t and sigma_t are mean and standard deviation of
    log p(v) under v ~ p at position t, and sigma_t^2 is at least 1e-6.

    Args:
        scores: of the true answers.
        k: the share of tokens, in 0..1.

    Returns:
        [E]; NaN for an example without answer tokens.

    Raises:
        ConfigError: k is not in 0..1.
    """
    spread = np.sqrt(np.maximum(scores.var_logprob.astype(np.float64), _LEAST_VARIANCE))
    return -_mean_of_lowest(scores, (scores.logprob.astype(np.float64) - scores.mean_logprob) / spread, k)


@metrics.register(
    "mia_gradient_norm",
    source="arXiv:2402.17012",
    needs=("gradient_norms",),
    range=(0.0, np.inf),
    higher_remembers=False,
    average="arithmetic",
    label="MIA: gradient norm",
    unscored=_UNSCORED,
)
def mia_gradient_norm(gradient_norms: Floats) -> Floats:
    """The gradient norm of the answer's loss: the mean over parameter tensors of their gradients' 2-norms.

    ``(1/P) sum_p || d(NLL / n) / d theta_p ||_2``, dropout off, without the end-of-sequence token.

    Returns:
        [E] in 0..inf; NaN for an example without answer tokens.
    """
    return gradient_norms


def _mean_of_lowest(scores: TokenScores, values: Floats, k: float) -> Floats:
    """[E] mean of the lowest max(1, floor(k n)) values among each example's answer tokens."""
    if not 0.0 <= k <= 1.0:
        raise ConfigError(f"min-k: k = {k}; it is the share of tokens and must be in 0..1")
    rows, values = scores.rows[scores.in_answer], values[scores.in_answer]
    lengths = scores.answer_lengths()
    taken = np.maximum(1, np.floor(k * lengths + 1e-9).astype(np.int64))
    order = np.lexsort((values, rows))
    rank = np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]
    lowest = order[rank < taken[rows]]
    total = np.bincount(rows[lowest], weights=values[lowest], minlength=len(scores))
    mean: Floats = np.divide(total, taken, out=np.full(len(scores), np.nan), where=lengths > 0)
    return mean
