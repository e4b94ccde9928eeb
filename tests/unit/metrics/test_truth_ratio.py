"""The truth ratio in its published forms, by hand.

Example 0: the paraphrase's token probabilities are 1/2, 1/2, so P = 1/2; its wrong answers have P = 1/4 and 1/16:
arithmetic mean 5/32, geometric mean 1/8. R = 5/16 and 1/4.
Example 1 has no paraphrase: its answer has P = 1/8; one wrong answer with P = 1/2: R = 4 in both forms.
Example 2 has no wrong answer.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.helpers.scores_by_hand import scores

from uwc.metrics.likelihood import probability_normalised
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.models.token_scores import TokenScores

L = float(np.log(2))


def rows() -> TokenScores:
    return scores(
        [[-9 * L], [-3 * L, -3 * L], [-L], [-L, -L], [-2 * L], [-4 * L, -4 * L], [-L]],
        ids=["0", "1", "2", "0", "0", "0", "1"],
        variants=["answer", "answer", "answer", "paraphrased_answer"] + 3 * ["perturbed_answers"],
    )


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("truth_ratio_geometric", (1 / 4, 4.0)),
        ("truth_ratio_inverse", (4.0, 1 / 4)),
        ("truth_ratio_arithmetic", (5 / 16, 4.0)),
        ("truth_ratio_forget", (5 / 16, 1 / 4)),
        ("truth_ratio_utility", (11 / 16, 0.0)),
        ("truth_probability", (4 / 5, 1 / 5)),
    ],
)
def test_each_form(metric: str, expected: tuple[float, float]) -> None:
    values = ScoredSet(rows(), ("a", "b", "c")).values(metric)
    assert values[:2] == pytest.approx(expected, rel=1e-6)
    assert np.isnan(values[2])


def test_the_geometric_definition_can_be_chosen() -> None:
    scored = ScoredSet(rows(), ("a", "b", "c"))
    assert scored.values("truth_ratio_forget", definition="geometric")[0] == pytest.approx(1 / 4)
    assert scored.values("truth_ratio_utility", definition="geometric")[0] == pytest.approx(3 / 4)


def test_no_form_overflows() -> None:
    true, wrong = scores([[-2000.0]]), scores([[-1.0]])
    for form in ("geometric", "inverse", "arithmetic"):
        assert np.isfinite(metrics.get(f"truth_ratio_{form}").function(true, wrong)).all()


def test_normalised_probability() -> None:
    """P = 1/4 against wrong answers of 1/8 and 1/8: a half. Without wrong answers: not scored."""
    true = scores([[-2 * L], [-L]])
    wrong = scores([[-3 * L, -3 * L], [-3 * L]], ids=["0", "0"])
    values = probability_normalised(true, wrong)
    assert values[0] == pytest.approx(0.5)
    assert np.isnan(values[1])


def test_why_an_example_is_not_scored_is_said() -> None:
    scored = ScoredSet(rows(), ("a", "b", "c"))
    assert scored.unscored("truth_ratio_forget") == {"no wrong answer to compare": 1}
    broken = ScoredSet(replace(scores([[-1.0], []]), finite=np.array([False, True])), ("a", "b"))
    assert broken.unscored("probability") == {
        "the logits are not finite": 1, "the answer has no token": 1,
    }  # fmt: skip


def test_a_set_without_wrong_answers_has_no_value_and_says_why() -> None:
    scored = ScoredSet(scores([[-1.0], [-2.0]]), ("a", "b"))
    result = scored.aggregate("truth_ratio_geometric")
    assert (result.n, result.not_scored) == (0, 2)
    assert scored.unscored("truth_ratio_geometric") == {"no wrong answer to compare": 2}
