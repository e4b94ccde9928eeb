"""Metrics of verbatim recall: extraction strength and exact memorization."""

import numpy as np

from uwc.metrics.registry import metrics
from uwc.models.token_scores import Floats, TokenScores


@metrics.register(
    "extraction_strength",
    source="arXiv:2012.07805, arXiv:2406.09179",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="ES",
    unscored="the answer has no token",
)
def extraction_strength(scores: TokenScores) -> Floats:
    """The share of the answer that greedy decoding completes from the shortest sufficient prefix.

    ``ES = 1 - k* / n`` with ``k* = min{k : greedy continuation from (x, y_1..y_k) is y_{k+1}..y_n}``. Under teacher
    forcing ``n - k*`` is the length of the longest correct suffix, so that one pass gives it exactly. The
    end-of-sequence token is not counted; the value is 0 if the last token is wrong.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    rows, correct = scores.rows[scores.in_answer], scores.greedy[scores.in_answer]
    lengths = scores.answer_lengths()
    ends = np.cumsum(lengths)
    position = np.arange(len(rows)) - (ends - lengths)[rows]
    last_wrong = np.full(len(scores), -1)
    np.maximum.at(last_wrong, rows[~correct], position[~correct])
    with np.errstate(invalid="ignore"):
        strength: Floats = (lengths - 1 - last_wrong) / np.where(lengths > 0, lengths, np.nan)
    return strength


@metrics.register(
    "exact_memorization",
    source="arXiv:2205.10770",
    needs=("scores",),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="EM",
    unscored="the answer has no token",
)
def exact_memorization(scores: TokenScores) -> Floats:
    """The share of answer tokens that are the model's most likely next tokens.

    ``EM = (1/n) sum_t 1[argmax_v z_t(v) = y_t]``, teacher-forced, without the end-of-sequence token.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    return scores.mean(scores.greedy, with_end=False)


@metrics.register(
    "extraction_strength_similar",
    source="arXiv:2406.09179",
    needs=("scores", "similar_from"),
    range=(0.0, 1.0),
    higher_remembers=True,
    average="arithmetic",
    label="ES, similar",
    unscored="the answer has no token",
)
def extraction_strength_similar(scores: TokenScores, similar_from: Floats) -> Floats:
    """Extraction strength with a continuation that is similar, not equal, to the rest of the answer.

    ``1 - k* / n`` with k* the shortest prefix whose greedy continuation has at least half of the remaining answer's
    tokens in common with it, in order: ``LCS(continuation, y_{k+1..n}) >= (n - k) / 2``. An empty continuation is not
    similar. At least `extraction_strength`.

    Args:
        scores: of the true answers.
        similar_from: [E] k*, found by generation.

    Returns:
        [E] in 0..1; NaN for an example without answer tokens.
    """
    lengths = scores.answer_lengths()
    return 1.0 - similar_from / np.where(lengths > 0, lengths, np.nan)
