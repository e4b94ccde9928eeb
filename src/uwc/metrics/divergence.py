"""Divergence of a model's predictions from those of the original."""

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores


@metrics.register(
    "kl_to_original",
    source="arXiv:2406.09179",
    needs=("reference",),
    range=(0.0, float("inf")),
    higher_remembers=False,
    average="arithmetic",
    label="KL to original",
    unscored="the answer has no token",
)
def kl_to_original(scores: TokenScores) -> Floats:
    """Kullback-Leibler divergence of the model's next-token distributions from the original's.

    ``KL(p_original || p) = sum_v p_original(v) log(p_original(v) / p(v))`` in nats, averaged over the positions that
    predict the answer and its end-of-sequence token.

    Returns:
        [E] in 0..inf; NaN without a reference model.
    """
    return scores.mean(scores.kl, with_end=True)
