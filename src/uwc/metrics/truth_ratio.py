"""The truth ratio, the likelihood of wrong answers relative to the paraphrased true one, in its published forms."""

from typing import Any, Literal

import numpy as np

from uwc.metrics.likelihood import mean_by_example, probability
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores

Definition = Literal["geometric", "arithmetic"]
_LARGEST_EXPONENT = 700.0
_SHARED: dict[str, Any] = {"needs": ("restated", "perturbed"), "unscored": "no wrong answer to compare"}


@metrics.register(
    "truth_ratio_geometric",
    source="arXiv:2506.12618",
    range=(0.0, np.inf),
    higher_remembers=False,
    average="geometric",
    label="truth ratio (geometric)",
    **_SHARED,
)
def truth_ratio_geometric(restated: TokenScores, perturbed: TokenScores) -> Floats:
    """The geometric mean likelihood of wrong answers, relative to the paraphrased true answer.

    ``R = exp(s - mean_j m_j)`` with s the mean token loss of the paraphrased answer (of the answer itself if there is
    no paraphrase) and m_j those of the wrong ones; OpenUnlearning's definition. Exponents are clipped to +-700.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..inf; NaN for an example without wrong answers.
    """
    return np.exp(_log_ratio(restated, perturbed, "geometric"))


@metrics.register(
    "truth_ratio_inverse",
    source="arXiv:2401.06121",
    range=(0.0, np.inf),
    higher_remembers=True,
    average="geometric",
    label="truth ratio (inverse)",
    **_SHARED,
)
def truth_ratio_inverse(restated: TokenScores, perturbed: TokenScores) -> Floats:
    """The inverse of `truth_ratio_geometric`, which TOFU's code uses for the forget quality.

    ``exp(mean_j m_j - s)``.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..inf; NaN for an example without wrong answers.
    """
    return np.exp(-_log_ratio(restated, perturbed, "geometric"))


@metrics.register(
    "truth_ratio_arithmetic",
    source="arXiv:2401.06121",
    range=(0.0, np.inf),
    higher_remembers=False,
    average="geometric",
    label="truth ratio (arithmetic)",
    **_SHARED,
)
def truth_ratio_arithmetic(restated: TokenScores, perturbed: TokenScores) -> Floats:
    """The arithmetic mean likelihood of wrong answers, relative to the paraphrased true answer.

    ``mean_j exp(-m_j) / exp(-s)``: the definition in the TOFU paper. The quotient is clipped at e^700.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..inf; NaN for an example without wrong answers.
    """
    return np.exp(_log_ratio(restated, perturbed, "arithmetic"))


@metrics.register(
    "truth_ratio_forget",
    source="arXiv:2401.06121",
    range=(0.0, 1.0),
    higher_remembers=False,
    average="arithmetic",
    label="truth ratio (forget)",
    **_SHARED,
)
def truth_ratio_forget(
    restated: TokenScores, perturbed: TokenScores, *, definition: Definition = "arithmetic"
) -> Floats:
    """TOFU's truth ratio on forget data, which is 1 if true and wrong answers are equally likely.

    ``min(R, 1 / R)``. A model with much likelier wrong answers scores as low as one that remembers.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.
        definition: which truth ratio R is; the paper's is arithmetic, OpenUnlearning's geometric.

    Returns:
        [E] in 0..1; NaN for an example without wrong answers.
    """
    return np.exp(-np.abs(_log_ratio(restated, perturbed, definition)))


@metrics.register(
    "truth_ratio_utility",
    source="arXiv:2401.06121",
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="truth ratio (utility)",
    **_SHARED,
)
def truth_ratio_utility(
    restated: TokenScores, perturbed: TokenScores, *, definition: Definition = "arithmetic"
) -> Floats:
    """TOFU's truth ratio on data to be kept, a part of model utility.

    ``max(0, 1 - R)``.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.
        definition: which truth ratio R is; the paper's is arithmetic, OpenUnlearning's geometric.

    Returns:
        [E] in 0..1; NaN for an example without wrong answers.
    """
    return np.maximum(0.0, -np.expm1(_log_ratio(restated, perturbed, definition)))


@metrics.register(
    "truth_probability",
    source="arXiv:2506.12618",
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="truth probability",
    **_SHARED,
)
def truth_probability(restated: TokenScores, perturbed: TokenScores) -> Floats:
    """The probability of the paraphrased true answer relative to that of the wrong ones.

    ``P_true / (P_true + P_wrong) = 1 / (1 + R)`` with R `truth_ratio_geometric`; OpenUnlearning's ``prob_mean``.

    Args:
        restated: of the paraphrased answers.
        perturbed: of the wrong answers.

    Returns:
        [E] in 0..1; NaN for an example without wrong answers.
    """
    return 1.0 / (1.0 + np.exp(_log_ratio(restated, perturbed, "geometric")))


def _loss(scores: TokenScores) -> Floats:
    return -scores.mean(scores.logprob, with_end=True)


def _log_ratio(restated: TokenScores, perturbed: TokenScores, definition: Definition) -> Floats:
    """[E] log R, clipped to +-700 so that R is finite."""
    if definition == "geometric":
        log_wrong = mean_by_example(-_loss(perturbed), perturbed, restated)
    else:
        with np.errstate(divide="ignore"):
            log_wrong = np.log(mean_by_example(probability(perturbed), perturbed, restated))
    return np.clip(log_wrong + _loss(restated), -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
