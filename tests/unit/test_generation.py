"""Greedy generation."""

from tests.conftest import people

from uwc.models.generation import continue_greedily, generate
from uwc.models.target import Target


def test_a_model_that_knows_says_the_answer_and_stops(knowing: Target) -> None:
    examples = people(4)
    assert generate(knowing, examples, max_new_tokens=40) == [e.answer for e in examples]


def test_left_padding_changes_nothing(knowing: Target) -> None:
    prompts = [list(e.tokens[: e.start]) for e in knowing.encode(people(4))]
    alone = [continue_greedily(knowing, [p], max_new_tokens=10)[0] for p in prompts]
    assert continue_greedily(knowing, prompts, max_new_tokens=10) == alone
