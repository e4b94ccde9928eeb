"""Metrics of generated text, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from uwc.metrics.overlap import (
    knowledge_memorization,
    rouge_1,
    rouge_1_f1,
    rouge_l,
    rouge_l_f1,
    token_diversity,
    verbatim_memorization,
)
from uwc.metrics.registry import metrics
from uwc.metrics.semantics import entailment, semantic_similarity

ANSWER, GENERATED = "the cat sat on the mat", "on the mat the cat"


def test_rouge_by_hand() -> None:
    """Answer of 6 words, 5 generated. All 5 occur in the answer; "on the mat" is the longest common subsequence."""
    assert rouge_1([ANSWER], [GENERATED])[0] == pytest.approx(5 / 6)
    assert rouge_1_f1([ANSWER], [GENERATED])[0] == pytest.approx(2 * 5 / 11)
    assert rouge_l([ANSWER], [GENERATED])[0] == pytest.approx(3 / 6)
    assert rouge_l_f1([ANSWER], [GENERATED])[0] == pytest.approx(2 * 3 / 11)


def test_rouge_stems_where_the_field_does() -> None:
    """TOFU's ROUGE takes "cats" for "cat", MUSE's does not."""
    assert rouge_l(["cats"], ["cat"])[0] == rouge_l_f1(["cats"], ["cat"])[0] == 1.0
    assert verbatim_memorization(["cats"], ["cat"])[0] == knowledge_memorization(["cats"], ["cat"])[0] == 0.0


@pytest.mark.parametrize("name", [e.name for e in metrics if e.facts["needs"] == ("answers", "texts")])
def test_an_empty_text_scores_zero_and_a_wordless_answer_nothing(name: str) -> None:
    values = metrics.get(name).function(["a word", "?!", "same words"], ["", "x", "same words"])
    assert (values[0], values[2]) == (0.0, 1.0)
    assert np.isnan(values[1])


def test_verbatim_memorization_by_hand() -> None:
    """3 of 4 words, 3 generated: F1 = 2 x 3 / 7."""
    assert verbatim_memorization(["one two three four"], ["one two three"])[0] == pytest.approx(6 / 7)


@pytest.mark.parametrize("more", ["\n\nnext", "\nQuestion: who?", " Question: who?"])
def test_knowledge_memorization_ends_at_the_next_question(more: str) -> None:
    assert knowledge_memorization(["In Rome"], ["In Rome" + more])[0] == 1.0


def test_token_diversity_by_hand() -> None:
    """aabb: 1 bit of log2(4) = 2. aaaa: 0. abcd: 2 of 2. One token: 0. 200 tokens of 20 kinds: log 20 / log 200."""
    values = token_diversity([[1, 1, 2, 2], [1, 1, 1, 1], [1, 2, 3, 4], [7], [], list(range(20)) * 10])
    assert values[:4] == pytest.approx([0.5, 0.0, 1.0, 0.0])
    assert np.isnan(values[4])
    assert values[5] == pytest.approx(0.5654, abs=1e-4)


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
