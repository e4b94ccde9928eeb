"""Probability of extracting an answer by sampling."""

import numpy as np

from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, Sampling, TokenScores


@metrics.register(
    "probabilistic_extraction",
    source="arXiv:2410.19482",
    needs=("sampled",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="extraction in n tries",
    unscored="the answer has no token",
)
def probabilistic_extraction(
    sampled: TokenScores, *, temperature: float = 1.0, top_k: int = 40, tries: int = 100
) -> Floats:
    """The probability that sampling yields the whole answer at least once in n tries.

    ``1 - (1 - p)^n`` with ``p = prod_t p_t`` and p_t the probability of the answer's token t after division of the
    logits by the temperature and truncation to the top k, without the end-of-sequence token.

    Args:
        sampled: token scores with a column for this temperature and top-k.
        temperature: positive.
        top_k: 0 means the whole vocabulary.
        tries: n, at least 1.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.

    Raises:
        ConfigError: this temperature and top-k were not scored, or `tries` is less than 1.
    """
    column = Sampling(temperature, top_k).name
    if tries < 1:
        raise ConfigError(f"probabilistic extraction: tries = {tries}; it must be at least 1")
    if column not in sampled.sampled:
        scored = ", ".join(sampled.sampled) or "none"
        raise ConfigError(f"sampling with {column} was not scored (scored: {scored}); score the model with it")
    logprob = np.minimum(sampled.total(sampled.sampled[column], with_end=False), 0.0)
    with np.errstate(divide="ignore"):
        chance = -np.expm1(tries * np.log1p(-np.exp(logprob)))
    return np.where(sampled.answer_lengths() > 0, chance, np.nan)
