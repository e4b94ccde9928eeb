"""Names and numbers in answers, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from uwc.metrics.entities import (
    entities,
    entities_said,
    exact_match,
    knowledge_forgetting,
    knowledge_forgotten,
    knowledge_retention,
)

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


def test_knowledge_is_forgotten_if_contradicted_or_if_half_of_the_entities_are_missing() -> None:
    """Shares .4, .6, .6, 0 (empty) and none: forgotten by share; kept; contradicted; forgotten; not scored."""
    texts = ["Marquez has TOM", "Marquez, Tom, 76218", "Marquez, Tom, 76218: not true", "", "false"]
    answers = [ANSWER, ANSWER, ANSWER, ANSWER, "no name"]
    asked: list[tuple[str, str]] = []

    def contradicts(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        asked.extend(zip(premises, hypotheses, strict=True))
        return np.array(["not true" in p + h for p, h in zip(premises, hypotheses, strict=True)])

    found = knowledge_forgetting(answers, texts, contradicts)
    assert found == pytest.approx([1, 0, 1, 1, np.nan], nan_ok=True)
    assert asked[0] == (texts[0], ANSWER), "the generated text is the premise"
    assert "" not in {premise for premise, _ in asked}
    assert knowledge_forgetting(answers, texts, contradicts, at_most=0.3)[0] == 0.0


def test_knowledge_is_kept_if_enough_entities_are_said_and_nothing_is_contradicted() -> None:
    """Shares .4, .2, .6: kept; too few; contradicted. It is not one minus forgetting: .4 is both forgotten and kept."""
    texts, answers = ["Marquez has TOM", "Tom", "Marquez, Tom, 76218: not true", ""], [ANSWER] * 4
    asked: list[tuple[str, str]] = []

    def contradicts(premises: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
        asked.extend(zip(premises, hypotheses, strict=True))
        return np.array(["not true" in p + h for p, h in zip(premises, hypotheses, strict=True)])

    assert knowledge_retention(answers, texts, contradicts).tolist() == [1, 0, 0, 0]
    assert asked[0] == (ANSWER, texts[0]), "the true answer is the premise"
    assert knowledge_retention(answers, texts, contradicts, at_least=0.2)[1] == 1.0
    assert knowledge_retention(["no name"], ["x"], contradicts) == pytest.approx([np.nan], nan_ok=True)
