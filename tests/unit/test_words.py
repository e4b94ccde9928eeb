"""Words and spans in any script, compared whatever their form."""

import pytest

from uwc.words import comparable, contains, word_spans


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("259  Rue\nVazmi", "259 RUE VAZMI"),
        ("\uff12\uff15\uff19 Rue", "259 rue"),
        ("\u0662\u0665\u0669 شارع", "259 شارع"),
        ("\u0968\u096b\u096f", "259"),
        ("Mu\u0308ller", "MÜLLER"),
        ("soft\u00adhyphen", "softhyphen"),
    ],
)
def test_forms_of_one_text_are_comparable(text: str, same: str) -> None:
    assert comparable(text) == comparable(same)


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("at 259 Rue Vazmi.", "259 Rue Vazmi", True),
        ("at 1259 Rue Vazmi.", "259 Rue Vazmi", False),
        ("in 19599", "1959", False),
        ("in 1959, and 19599", "1959", True),
        ("東京都に住む", "東京", True),
        ("Müllers Haus", "müller", True),
        ("anything", "", False),
    ],
)
def test_a_span_stands_in_a_text_and_a_number_not_in_a_longer_one(text: str, span: str, expected: bool) -> None:
    assert contains(comparable(text), comparable(span)) is expected


def test_words_of_a_text_as_it_is() -> None:
    """Latin words, and each Han character."""
    text = "\uff21nn's 家は12."
    assert [(text[start:end], word) for start, end, word in word_spans(text)] == [
        ("\uff21nn's", "ann's"), ("家", "家"), ("は", "は"), ("12", "12")
    ]  # fmt: skip
