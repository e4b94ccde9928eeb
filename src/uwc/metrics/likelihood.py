"""How likely a model finds the true answer."""

import numpy as np

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores


@metrics.register(
    "probability", source="arXiv:2401.06121", needs="scores", range=(0.0, 1.0),
    higher_remembers=True, average="arithmetic", label="probability",
)  # fmt: skip
def probability(scores: TokenScores) -> Floats:
    """The answer's probability, normalised by its length.

    ``P = exp(-NLL / N)``: the geometric mean of the token probabilities, over the answer and its end-of-sequence token.

    Returns:
        [E] in 0..1; NaN for an example without tokens.
    """
    return np.exp(scores.mean(scores.logprob, with_end=True))


@metrics.register(
    "perplexity", source="arXiv:2406.09179", needs="scores", range=(1.0, np.inf),
    higher_remembers=False, average="geometric", label="PPL",
)  # fmt: skip
def perplexity(scores: TokenScores) -> Floats:
    """The inverse of the length-normalised probability of the answer.

    ``PPL = exp(NLL / N)`` over the answer and its end-of-sequence token. Averages over examples are geometric: the
    arithmetic mean would report the one worst example. Values are capped at e^700, so that they stay finite.

    Returns:
        [E] in 1..e^700; NaN for an example without tokens.
    """
    return np.exp(np.minimum(-scores.mean(scores.logprob, with_end=True), 700.0))
