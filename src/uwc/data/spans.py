"""The tokens of an answer that are measured: the whole answer, or the secrets in it."""

from collections.abc import Sequence
from typing import Literal

from uwc.data.prompts import EncodedExample
from uwc.words import found_spans

Span = Literal["answer", "secret"]
"""The whole answer, or the spans of the example's secrets in it."""


def span_tokens(encoded: EncodedExample, secrets: Sequence[str], span: Span) -> list[int]:
    """The indices of the measured tokens in ``encoded.tokens``, ascending.

    The end of the turn is no part of the answer. A token belongs to a secret if it has one of its characters.

    Args:
        encoded: an example.
        secrets: its secrets.
        span: "answer" for the whole answer, "secret" for every place where a secret stands in it.

    Returns:
        None of them if the answer has no token, no secret stands in it, or the characters of its tokens are not known.
    """
    answer = range(max(encoded.start, 1), encoded.end)
    if span == "answer":
        return list(answer)
    if len(encoded.ends) != encoded.end - encoded.start:
        return []
    places = [place for secret in secrets for place in found_spans(encoded.answer, secret)]
    begins = (0, *encoded.ends[:-1])
    return [
        index
        for index, first, last in zip(range(encoded.start, encoded.end), begins, encoded.ends, strict=True)
        if index in answer and any(first < end and start < last for start, end in places)
    ]
