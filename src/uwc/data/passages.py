"""Raw texts as examples: each text is cut into passages, and each passage into a beginning and its continuation."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field

from uwc.data.cells import as_text
from uwc.data.example import Example, learnt
from uwc.data.tables import Table
from uwc.errors import DataError, listed

PassageLength = Annotated[int, Field(ge=20)]
"""The most characters of a passage."""
TEXT = "text"
"""The column of a text."""
_LONGEST_WORD = 40
"""The most characters of a text that is taken for one word if it has no white space."""


def pieces(text: str, length: int) -> list[str]:
    """A text in consecutive pieces of at most `length` characters, cut at white space, without white space around them.

    The pieces are of like length, so that none is so short that other texts have it too. A piece is cut at the last
    white space in its second half, and at its end if there is none, as in scripts that write no spaces.
    """
    found = []
    text = text.strip()
    while text:
        end = math.ceil(len(text) / math.ceil(len(text) / length))
        end = end if end == len(text) else _white_space_before(text, end)
        found.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return found


def _white_space_before(text: str, end: int) -> int:
    """The place of the last white space up to `end`, if it is beyond half of it; else `end`."""
    return next((i for i in range(end, end // 2, -1) if text[i].isspace()), end)


def passage(text: str, *, identity: str, subject: str = "", split: str = "") -> Example:
    """A text as an example: its first half, up to a white space, is the question, and the rest the answer.

    A short text without white space is all answer.
    """
    middle = len(text) // 2
    end = _white_space_before(text, middle) if any(map(str.isspace, text)) or len(text) > _LONGEST_WORD else 0
    beginning = text[:end].rstrip()
    answer = text[len(beginning) :]
    return Example(id=identity, question=beginning, answer=answer, subject=subject, split=split, raw=True)


def passages(
    table: Table, *, prefix: str, length: int, split: str = "", column: str = TEXT, limit: int | None = None
) -> list[Example]:
    """The texts of a table as passages; those of one text are one cluster.

    Args:
        table: rows with a text each; empty ones are left out.
        prefix: beginning of ids: ``prefix-00001`` is the text of row 1, ``prefix-00001/2`` its second passage.
        length: the most characters of a passage; a token of English has about four.
        split: the split the examples belong to.
        column: the column of the text.
        limit: the most texts to read.

    Raises:
        DataError: a row has no text, or there are no rows.
    """
    found = [
        passage(piece, identity=f"{name}/{number}", subject=name, split=split)
        for name, text in _texts(table, prefix, column, limit)
        for number, piece in enumerate(pieces(text, length), 1)
    ]
    if not found:
        raise DataError(f"{table.source}: there is no text in the column {column!r}; add at least one")
    return found


def _texts(table: Table, prefix: str, column: str, limit: int | None) -> Iterator[tuple[str, str]]:
    """The name and text of each row that has one."""
    if column not in table.columns:
        raise DataError(
            f"{table.source}: there is no column {column!r} with the texts; add it, or rename another; the file has: "
            f"{listed(table.columns)}"
        )
    rows: Sequence[tuple[int, object]] = [(number, row.get(column)) for number, row in table.rows[:limit]]
    for number, text in rows:
        where = f"{table.at(number)}: the column {column!r}"
        if (said := as_text(text, where)).strip():
            yield f"{prefix}-{number:05d}", said


def without_repeats(splits: Mapping[str, Sequence[Example]]) -> dict[str, tuple[Example, ...]]:
    """The splits without the passages whose text is in an earlier split, as boilerplate of web pages may be.

    Raises:
        DataError: a split has no passage of its own.
    """
    seen: set[str] = set()
    kept: dict[str, tuple[Example, ...]] = {}
    for split, examples in splits.items():
        texts = [" ".join(learnt(e).answer.casefold().split()) for e in examples]
        kept[split] = tuple(e for e, text in zip(examples, texts, strict=True) if not e.raw or text not in seen)
        if examples and not kept[split]:
            raise DataError(f"every passage of the split {split!r} is in another split too; name other texts")
        seen.update(text for e, text in zip(examples, texts, strict=True) if e.raw)
    return kept
