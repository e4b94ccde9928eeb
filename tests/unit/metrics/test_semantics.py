"""Semantic similarity and entailment, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from uwc.metrics.semantics import entailment, semantic_similarity


def vectors(texts: Sequence[str]) -> np.ndarray:
    return np.array([{"east": [1, 0], "north": [0, 2], "north-east": [3, 3], "west": [-1, 0]}[t] for t in texts], float)


def test_semantic_similarity_is_the_cosine_cut_at_zero() -> None:
    values = semantic_similarity(["east"] * 4, ["east", "north", "north-east", "west"], vectors)
    assert values == pytest.approx([1.0, 0.0, 0.5**0.5, 0.0])


def test_an_empty_text_has_no_similarity() -> None:
    assert semantic_similarity(["a"], [""], lambda texts: np.ones((len(texts), 2)))[0] == 0.0


def longer(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    return np.array([len(p) >= len(h) for p, h in zip(premises, hypotheses, strict=True)])


def test_entailment_asks_for_overlap_and_direction() -> None:
    """The judge finds that the longer entails the shorter; with no common word it is not asked for an opinion."""
    answers, texts = ["in Rome", "in Rome", "in Rome"], ["he lives in Rome", "Rome", "a much longer text"]
    assert entailment(answers, texts, longer).tolist() == [1.0, 0.0, 0.0]
    assert entailment(answers, texts, longer, premise="answer").tolist() == [0.0, 1.0, 0.0]
    assert entailment(answers, texts, longer, least_overlap=0.0)[2] == 1.0
