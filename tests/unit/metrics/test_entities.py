"""Names and numbers in answers, by hand."""

import numpy as np
import pytest

from uwc.metrics.entities import entities, entities_said, exact_match, knowledge_forgotten

ANSWER = "Isabella Marquez lives at 76218 Walter Village. Her cat is Tom."


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (ANSWER, ["Marquez", "76218", "Walter", "Village", "Tom"]),
        ("Yes. In May 1961, in Rome, and in Rome again.", ["May", "1961", "Rome"]),
        ("He mends clocks.\nThey are old.", []),
        ("Мирон Ольнов, 1961.", ["Ольнов", "1961"]),
    ],
)
def test_capitals_within_sentences_and_digits(text: str, found: list[str]) -> None:
    assert entities(text) == found


def test_the_share_of_entities_that_are_said() -> None:
    """Two of five: Marquez and Tom; 762 is not 76218; three of five is more than half."""
    texts = ["marquez has TOM at 762", "Marquez, Tom, 76218", "", "nothing"]
    answers = [ANSWER, ANSWER, ANSWER, "no name"]
    assert entities_said(answers, texts) == pytest.approx([0.4, 0.6, 0, np.nan], nan_ok=True)
    assert knowledge_forgotten(answers, texts) == pytest.approx([1, 0, 1, np.nan], nan_ok=True)
    assert knowledge_forgotten(answers, texts, at_most=0.3) == pytest.approx([0, 0, 1, np.nan], nan_ok=True)


def test_an_exact_match_is_one_apart_from_case_and_white_space() -> None:
    found = exact_match(["1984-12-31", "To sea", "a b", ""], [" 1984-12-31\n", "to SEA", "a  b", ""])
    assert found == pytest.approx([1, 1, 0, np.nan], nan_ok=True)
