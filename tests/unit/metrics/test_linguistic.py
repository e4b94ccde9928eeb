"""The language of texts, by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from uwc.metrics.linguistic import (
    brunet_index,
    fluency,
    generated_perplexity,
    honore_statistic,
    linguistic_score,
)

TEXT = "The cat saw the dog, and the dog ran."
"""Nine words, six different: the (3), dog (2), and four that occur once: cat, saw, and, ran."""


def test_brunets_index_counts_words_and_different_words() -> None:
    """N = 9, V = 6: 9^(6^-0.165); one word said n times: n^(1^-0.165) = n; one word: 1."""
    values = brunet_index([TEXT, "ha ha ha ha", "Rome", " ... "])
    assert values == pytest.approx([9 ** (6**-0.165), 4.0, 1.0, np.nan], nan_ok=True)
    assert values[0] == pytest.approx(5.1287, abs=1e-4)
    assert brunet_index([TEXT.upper()])[0] == values[0], "case makes no other words"


def test_honores_statistic_counts_words_that_occur_once() -> None:
    """N = 9, V = 6, V1 = 4: 100 ln 9 / (1 - 4/6) = 300 ln 9; with 0.1 added to the denominator 100 ln 9 / 0.4333."""
    assert honore_statistic([TEXT], added=0)[0] == pytest.approx(300 * math.log(9))
    assert honore_statistic([TEXT])[0] == pytest.approx(100 * math.log(9) / (1 / 3 + 0.1))
    assert honore_statistic(["ha ha"])[0] == pytest.approx(100 * math.log(2) / 1.1)
    assert honore_statistic(["Rome"])[0] == 0.0
    once = ["a b c d", ""]
    assert np.isnan(honore_statistic(once, added=0)).all()
    assert honore_statistic(once) == pytest.approx([1000 * math.log(4), np.nan], nan_ok=True)


def test_the_perplexity_of_the_text_is_that_of_the_other_model_after_the_question() -> None:
    asked = []

    def model(prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        asked.extend(zip(prompts, continuations, strict=True))
        return np.array([[-2.0 * math.log(4.0), 2.0], [-3.0, 1.0]])

    values = generated_perplexity(["q1", "q2", "q3", ""], ["two words", " ", "one", "a passage"], model)
    assert values == pytest.approx([4.0, np.nan, math.exp(3), np.nan], nan_ok=True)
    assert asked == [("q1", "two words"), ("q3", "one")]


def test_the_linguistic_score_is_the_harmonic_mean_of_three_sigmoids() -> None:
    """PPL 3, BI 9, HS 1: sigmoids 1/4, 1/10 and 1/2, and 3 / (4 + 10 + 2)."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    perplexity, brunet, honore = np.array([2.0, 4.0]), np.array([8.0, 10.0]), np.array([0.5, 1.5])
    parts = sigmoid(-math.log(3)), sigmoid(-math.log(9)), sigmoid(math.log(1))
    assert parts == pytest.approx((1 / 4, 1 / 10, 1 / 2))
    assert linguistic_score(perplexity, brunet, honore) == pytest.approx(3 / sum(1 / part for part in parts))
    assert linguistic_score(perplexity, brunet, np.zeros(2)) == 0.0


def test_an_empty_text_is_not_fluent_and_not_shown_to_the_classifier() -> None:
    def classifier(texts: Sequence[str]) -> np.ndarray:
        assert list(texts) == ["clean", "gibberish"]
        return np.array([0.9, 0.2])

    values = fluency(["a", "a", "a"], ["clean", "", "gibberish"], classifier)
    assert values == pytest.approx([0.9, 0.0, 0.2])
    assert np.isnan(fluency([""], [""], classifier)).all()
