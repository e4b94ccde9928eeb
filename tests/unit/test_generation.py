"""Generation and its ROUGE."""

import numpy as np
import pytest
from tests.conftest import people

from uwc.metrics.overlap import rouge_l
from uwc.models.generation import continue_greedily, generate
from uwc.models.target import Target


def test_a_model_that_knows_says_the_answer_and_stops(knowing: Target) -> None:
    examples = people(4)
    assert generate(knowing, examples, max_new_tokens=40) == [e.answer for e in examples]


def test_left_padding_changes_nothing(knowing: Target) -> None:
    prompts = [list(e.tokens[: e.start]) for e in knowing.encode(people(4))]
    alone = [continue_greedily(knowing, [p], max_new_tokens=10)[0] for p in prompts]
    assert continue_greedily(knowing, prompts, max_new_tokens=10) == alone


def test_rouge_l_by_hand() -> None:
    """Recall: 3 of the answer's 4 words in order, whatever stands between; an empty generation scores 0."""
    values = rouge_l(["the old grey clock", "the old grey clock", "one", "!"], ["the very old clock", "", "one", "one"])
    assert values[:3].tolist() == pytest.approx([3 / 4, 0.0, 1.0])
    assert np.isnan(values[3])
