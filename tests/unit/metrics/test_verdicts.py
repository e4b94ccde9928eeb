"""Verdicts of a language model, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.metrics.verdicts import judge_fluent, judge_relevant, judge_says, rendered

WORDS = ("yes", "Yes", "no", "No")


def judge(*chances: Sequence[float]) -> tuple[list[str], "object"]:
    """A judge with the probabilities of yes, Yes, no and No for each prompt, and the prompts that it is asked."""
    asked: list[str] = []

    def model(prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        assert tuple(continuations) == WORDS * len(chances)
        asked.extend(prompts[:: len(WORDS)])
        with np.errstate(divide="ignore"):
            return np.array([[np.log(p), 1.0] for of_prompt in chances for p in of_prompt])

    return asked, model


def test_a_verdict_compares_the_sums_over_both_spellings() -> None:
    """.1 + .2 against .25 + 0; .1 against .1 + .2; equal; mass .005 is no verdict."""
    asked, model = judge([0.1, 0.2, 0.25, 0], [0.1, 0, 0.1, 0.2], [0.2, 0, 0, 0.2], [0.004, 0, 0.001, 0])
    given = (["q"] * 4, ["a"] * 4, ["t"] * 4, model)
    assert judge_says(*given) == pytest.approx([1, 0, 0, np.nan], nan_ok=True)
    chances = judge_says(*given, value="probability", least_mass=0.0)
    assert chances == pytest.approx([0.3 / 0.55, 0.25, 0.5, 0.8])
    assert judge_relevant(*given).tolist()[:3] == judge_fluent(*given).tolist()[:3] == [1, 0, 0]
    assert len(asked) == 16


def test_empty_texts_score_zero_and_empty_answers_nothing_unasked() -> None:
    asked, model = judge([1.0, 0, 0, 0])
    values = judge_says(["q1", "q2", "q3"], ["a", "", "a"], ["", "t", "In Rome {answer}"], model)
    assert values == pytest.approx([0, np.nan, 1], nan_ok=True)
    (prompt,) = asked
    assert "Question: q3\nTrue answer: a\nReply: In Rome {answer}\n" in prompt, "braces of a text stay"
    assert np.isnan(judge_says([""], [""], [""], model)).all()


def test_a_judge_without_any_mass_gives_no_verdict() -> None:
    _, model = judge([0, 0, 0, 0])
    assert np.isnan(judge_says(["q"], ["a"], ["t"], model, least_mass=0.0)).all()


def test_prompts_of_judges_are_checked_before_anything_is_asked() -> None:
    assert rendered("{text} for {question}", " q ", "a", "t") == "t for q"
    for prompt in ("Is it true?", "{generated} and {text}"):
        with pytest.raises(ConfigError, match=r"\{question\}, \{answer\}, \{text\}"):
            metrics.check("judge_says", {"prompt": prompt})
    with pytest.raises(ConfigError, match="least_mass"):
        metrics.check("judge_says", {"least_mass": 1.5})
