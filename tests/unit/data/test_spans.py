"""Which tokens of an answer are measured."""

from dataclasses import replace

import pytest
from tests.conftest import people, tiny_model

from uwc.data.prompts import EncodedExample
from uwc.data.spans import span_tokens
from uwc.words import found_spans

#           0    1    2    3    4    5    6
# tokens:   Q    :   In   Lit  tle  Besk  end, the answer "In Little Besk"
BESK = EncodedExample("0", (9, 8, 1, 2, 3, 4, 0), 2, 6, "In Little Besk", ends=(2, 6, 9, 14))


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        (["Little Besk"], [3, 4, 5]),
        (["little  BESK"], [3, 4, 5]),
        (["Besk"], [5]),
        (["ttl"], [3, 4]),  # letters 5..7: of both tokens of the word
        (["In", "Besk"], [2, 5]),
        (["Rome"], []),
        ([], []),
    ],
)
def test_tokens_of_secrets(secrets: list[str], expected: list[int]) -> None:
    assert span_tokens(BESK, secrets, "secret") == expected


def test_the_whole_answer_is_without_its_end() -> None:
    assert span_tokens(BESK, (), "answer") == [2, 3, 4, 5]
    assert span_tokens(replace(BESK, start=0, ends=()), ("Besk",), "secret") == []
    assert span_tokens(replace(BESK, start=0), (), "answer") == [1, 2, 3, 4, 5], "nothing predicts the first token"


def test_the_tokens_of_a_real_tokenizer_spell_the_secret() -> None:
    model = tiny_model()
    examples = [replace(e, secret=(e.answer.split()[-1],)) for e in people()]
    for example, encoded in zip(examples, model.encode(examples), strict=True):
        tokens = span_tokens(encoded, example.secret, "secret")
        text = model.tokenizer.decode([encoded.tokens[t] for t in tokens])
        assert text.strip() == example.secret[0]


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("born 12 May, in  Quarnholt", "12 may in quarnholt", [(5, 26)]),
        ("Vint and VINT", "vint", [(0, 4), (9, 13)]),
        ("call 1259 now", "259", []),
        ("Müllers Haus", "Müller", [(0, 6)]),
        ("東京に住む", "東京", [(0, 2)]),
        ("anything", " ", []),
        ("a+b=c", "+b=", [(2, 3)]),
        ("wait ... what", "...", [(5, 8)]),
    ],
)
def test_found_spans(text: str, span: str, expected: list[tuple[int, int]]) -> None:
    assert found_spans(text, span) == expected
