"""Multiple choice: the true answer against the wrong ones of the same form, by their likelihoods or their letters."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from uwc.metrics.likelihood import max_by_example
from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores

Length = Literal["mean", "sum"]
"""Whether options are compared by the mean or the sum of their tokens' log-probabilities."""
_SHARED: dict[str, Any] = {
    "needs": ("scores", "perturbed"),
    "higher_remembers": True,
    "average": "arithmetic",
    "unscored": "no wrong answer to compare",
}
_LETTERS: dict[str, Any] = _SHARED | {
    "needs": ("letters",),
    "unscored": "no wrong answer to compare, or its options do not fit into the context",
}


@metrics.register(
    "choice_accuracy",
    source="arXiv:2403.03218",
    range=(0.0, 1.0),
    label="multiple-choice accuracy",
    chance="options",
    **_SHARED,
)
def choice_accuracy(scores: TokenScores, perturbed: TokenScores, *, length: Length = "sum") -> Floats:
    """Whether the true answer is likelier than every wrong one.

    ``[s_g > max_{j != g} s_j]`` with s the log-probability of an option's text given the question, without the end of
    the turn, and 1/2 for a tie with the likeliest wrong answer. A model that knows nothing has about ``1 / m`` of m
    options.

    Args:
        scores: of the true answers.
        perturbed: of the wrong answers.
        length: s is the sum over the tokens of an option, by which short options are likelier, or their mean, by which
            those are likelier whose first token nearly gives the others.

    Returns:
        [E] 0, 1/2 or 1; NaN for an example without wrong answers.
    """
    return _right(choice_margin(scores, perturbed, length=length))


@metrics.register(
    "choice_margin",
    source="arXiv:2403.03218",
    range=(-float("inf"), float("inf")),
    label="multiple-choice margin",
    **_SHARED,
)
def choice_margin(scores: TokenScores, perturbed: TokenScores, *, length: Length = "sum") -> Floats:
    """The log-probability of the true answer less that of the likeliest wrong one.

    ``s_g - max_{j != g} s_j``, in nats, with s as in `choice_accuracy`.

    Args:
        scores: of the true answers.
        perturbed: of the wrong answers.
        length: s is the sum over the tokens of an option, or their mean.

    Returns:
        [E]; NaN for an example without wrong answers.
    """
    margin: Floats = _of_options(scores, length) - max_by_example(_of_options(perturbed, length), perturbed, scores)
    return margin


@metrics.register(
    "letter_accuracy",
    source="arXiv:2009.03300",
    range=(0.0, 1.0),
    label="letter accuracy",
    chance="options",
    **_LETTERS,
)
def letter_accuracy(letters: Sequence[Floats]) -> Floats:
    """Whether the letter of the true answer is likelier than that of every wrong one.

    ``[s_g > max_{j != g} s_j]``, and 1/2 for a tie, with ``s_j`` the mean over the m cyclic permutations of the options
    of ``log p(letter of option j | question with lettered options)``, so that each option stands at each letter once.
    A model that knows nothing has about ``1 / m``.

    Args:
        letters: [E] s of the options, the true one first.

    Returns:
        [E] 0, 1/2 or 1; NaN for an example without wrong answers.
    """
    return _right(letter_margin(letters))


@metrics.register(
    "letter_margin",
    source="arXiv:2009.03300",
    range=(-float("inf"), float("inf")),
    label="letter margin",
    **_LETTERS,
)
def letter_margin(letters: Sequence[Floats]) -> Floats:
    """The log-probability of the true answer's letter less that of the likeliest wrong one.

    ``s_g - max_{j != g} s_j``, in nats, with s as in `letter_accuracy`.

    Args:
        letters: [E] s of the options, the true one first.

    Returns:
        [E]; NaN for an example without wrong answers.
    """
    return np.array([s[0] - s[1:].max() if len(s) > 1 else np.nan for s in letters], dtype=np.float64)


def _right(margin: Floats) -> Floats:
    """Whether a margin is positive, 1/2 for 0."""
    return np.where(np.isnan(margin), np.nan, np.heaviside(margin, 0.5))


def _of_options(scores: TokenScores, length: Length) -> Floats:
    read = scores.mean if length == "mean" else scores.total
    return np.where(scores.answer_lengths() > 0, read(scores.logprob, with_end=False), np.nan)
