"""Diversity of generated texts, which is low for a collapsed model."""

from collections.abc import Sequence

import numpy as np

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats


@metrics.register(
    "token_diversity",
    source="arXiv:2410.08109",
    needs=("text_tokens",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="token diversity",
    unscored="nothing was generated",
)
def token_diversity(text_tokens: Sequence[Sequence[int]]) -> Floats:
    """Entropy of the generated tokens, relative to its maximum.

    ``H / log2(m)`` with ``H = -sum_v f_v log2 f_v`` over the frequencies f_v among the m generated tokens. The value is
    0 for one token and 1 for two different ones; short texts have high values.

    Returns:
        [E] in 0..1; NaN if nothing was generated.
    """
    return np.array([_relative_entropy(tokens) for tokens in text_tokens], dtype=np.float64)


def _relative_entropy(tokens: Sequence[int]) -> float:
    if not tokens:
        return float("nan")
    if len(tokens) == 1:
        return 0.0
    shares = np.unique(np.asarray(tokens), return_counts=True)[1] / len(tokens)
    return max(0.0, float(-(shares * np.log2(shares)).sum() / np.log2(len(tokens))))
