"""Metrics of the likelihood of the true answer."""

import numpy as np

from uwc.metrics.grouping import sum_by_example
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores


@metrics.register(
    "probability",
    source="arXiv:2401.06121",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="probability",
    unscored="the answer has no token",
)
def probability(scores: TokenScores) -> Floats:
    """The answer's probability, normalised by its length.

    ``P = exp(-NLL / N)``: the geometric mean of the token probabilities, over the answer and its end-of-sequence token.

    Returns:
        [E] in 0..1; NaN for an example without tokens.
    """
    return np.exp(scores.mean(scores.logprob, with_end=True))


@metrics.register(
    "perplexity",
    source="arXiv:2406.09179",
    needs=("scores",),
    range=(1.0, np.inf),
    higher_remembers=False,
    average="geometric",
    label="PPL",
    unscored="the answer has no token",
)
def perplexity(scores: TokenScores) -> Floats:
    """The inverse of the length-normalised probability of the answer.

    ``PPL = exp(NLL / N)`` over the answer and its end-of-sequence token. Averages over examples are geometric, since an
    arithmetic mean would be dominated by the worst example. Values are clipped at e^700, so that they are finite.

    Returns:
        [E] in 1..e^700; NaN for an example without tokens.
    """
    return np.exp(np.minimum(-scores.mean(scores.logprob, with_end=True), 700.0))


@metrics.register(
    "probability_normalised",
    source="arXiv:2401.06121",
    needs=("scores", "perturbed"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="normalised probability",
    unscored="no wrong answer to compare",
)
def probability_normalised(scores: TokenScores, perturbed: TokenScores) -> Floats:
    """The true answer's share of the probability of all its alternatives.

    ``P(y) / (P(y) + sum_j P(y~_j))`` with P the length-normalised `probability` and y~_j the wrong answers.

    Args:
        scores: of the true answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..1; NaN for an example without wrong answers.
    """
    wrong = sum_by_example(probability(perturbed), perturbed, scores)
    true = probability(scores)
    share: Floats = true / (true + wrong)
    return share
