"""Multiple choice, by hand.

The options' token log-probabilities (in units of log 2), without the end of the turn, which is not part of an option
and is given such that each decision would be another one with it; mean and sum over tokens:
example 0: true -1, -1 (mean -1, sum -2); wrong -2 (-2, -2) and -3, -3 (-3, -6). Margin 1 by means, 0 by sums.
example 1: true -3 (-3, -3); wrong -1 (-1, -1). Margin -2.
example 2: no wrong answer.
example 3: true -2 (-2, -2); wrong -2 (-2, -2), and -1, -4 (-2.5, -5). Margin 0.
"""

import numpy as np
import pytest
from tests.helpers.scores_by_hand import scores

from uwc.metrics.scored import ScoredSet

L = float(np.log(2))


@pytest.fixture
def scored() -> ScoredSet:
    rows = [[-1, -1], [-3], [-1], [-2], [-2], [-1], [-3, -3], [-2], [-1, -4]]
    ends = [-9, -1, -1, -5, -1, -9, -1, -1, -1]
    tokens = scores(
        [[n * L for n in (*row, end)] for row, end in zip(rows, ends, strict=True)],
        end=True,
        ids=["0", "1", "2", "3", "0", "1", "0", "3", "3"],
        variants=["answer"] * 4 + ["perturbed_answers"] * 5,
    )
    return ScoredSet(tokens, ("a", "b", "c", "d"))


def test_margins(scored: ScoredSet) -> None:
    assert scored.values("choice_margin") == pytest.approx([0, -2 * L, np.nan, 0], nan_ok=True, abs=1e-6)
    means = scored.values("choice_margin", length="mean")
    assert means == pytest.approx([L, -2 * L, np.nan, 0], nan_ok=True, abs=1e-6)


def test_the_likeliest_option_is_chosen_and_a_tie_counts_half(scored: ScoredSet) -> None:
    assert scored.values("choice_accuracy") == pytest.approx([0.5, 0, np.nan, 0.5], nan_ok=True)
    assert scored.values("choice_accuracy", length="mean") == pytest.approx([1, 0, np.nan, 0.5], nan_ok=True)
    assert scored.aggregate("choice_accuracy").mean == pytest.approx(1 / 3)
