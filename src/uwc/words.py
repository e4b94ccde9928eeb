"""Words and spans of text in any script, compared without case, width, invisible characters and kinds of digits."""

import unicodedata
from functools import lru_cache
from itertools import pairwise

import regex

_BOUNDARY = regex.compile(r"\b", regex.WORD | regex.V1)
"""A word boundary of UAX 29."""
_UNSPACED = regex.compile(
    r"(?=[[\p{L}\p{N}]&&[\p{lb=ID}\p{lb=CJ}\p{lb=NS}\p{lb=SA}\p{lb=AK}\p{lb=AP}\p{lb=AS}]])\X", regex.V1
)
"""A grapheme of a script in which a line may break without a space (the line breaking classes of UAX 14)."""
_WORD_CHARACTER = regex.compile(r"[\p{L}\p{N}]")
_INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}--\u200b]", regex.V1)
"""Soft hyphens, joiners and variation selectors; not the zero-width space, which separates words."""
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc", "'"))
_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)


def normalised(text: str) -> str:
    """The text in Unicode's NFKC_Casefold form, with one kind of apostrophe.

    Full-width, half-width and other compatibility forms, capital letters, composed and decomposed accents and invisible
    characters make no difference; accents and vowel signs do.
    """
    if text.isascii():
        return text.casefold()
    text = _INVISIBLE.sub("", unicodedata.normalize("NFD", text)).translate(_APOSTROPHES)
    for _ in range(2):  # a compatibility form may decompose into capital letters
        text = unicodedata.normalize("NFKC", text.casefold())
    return text


def split_words(text: str) -> list[str]:
    """The pieces of a text between the word boundaries of UAX 29 that have a letter or number.

    In scripts written without spaces each grapheme is a piece.
    """
    return [piece for piece in _BOUNDARY.split(_UNSPACED.sub(r" \g<0> ", text)) if _WORD_CHARACTER.search(piece)]


def comparable(text: str) -> str:
    """The normalised text with single spaces for white space, and ASCII digits for those of every script."""
    text = _DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), normalised(text))
    return " ".join(text.split())


@lru_cache(maxsize=100_000)
def word_spans(text: str) -> tuple[tuple[int, int, str], ...]:
    """The words of a text as it is: start, end, and the word in its comparable form."""
    cuts = {0, len(text), *(found.start() for found in _BOUNDARY.finditer(text))}
    if not text.isascii():
        unspaced = [found for found in _UNSPACED.finditer(text) if _UNSPACED.match(normalised(found[0]))]
        cuts.update(end for found in unspaced for end in found.span())  # but for full-width letters and digits
    pieces = ((start, end, text[start:end]) for start, end in pairwise(sorted(cuts)))
    return tuple((start, end, comparable(piece)) for start, end, piece in pieces if _WORD_CHARACTER.search(piece))


def contains(text: str, span: str) -> bool:
    """Whether a span stands in a text, both as `comparable` gives them; a number within a longer one does not."""
    return bool(span) and span in text and regex.search(_pattern(span), text) is not None


def found_spans(text: str, span: str) -> list[tuple[int, int]]:
    """Every place where a span stands in a text, as the start and the end of its characters.

    The words of both are compared in their comparable form, so that case, width and the characters between words make
    no difference. A span that does not consist of whole words of the text is looked for as it is; a number within a
    longer one does not count.
    """
    words, wanted = word_spans(text), [word for _, _, word in word_spans(span)]
    count = len(wanted)
    found = [
        (words[i][0], words[i + count - 1][1])
        for i in range(len(words) - count + 1)
        if count and [word for _, _, word in words[i : i + count]] == wanted
    ]
    if found or not span.strip():
        return found
    return [place.span() for place in regex.finditer(_pattern(span), text)]


def _pattern(span: str) -> str:
    """A pattern that finds a span, and not a number within a longer one."""
    before, after = (r"(?<!\d)" if span[0].isdigit() else ""), (r"(?!\d)" if span[-1].isdigit() else "")
    return f"{before}{regex.escape(span)}{after}"
