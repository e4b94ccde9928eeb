"""Multiple choice in question files: the options of a row, and the option its answer refers to."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from string import ascii_uppercase
from typing import Any, Literal

from uwc.data.cells import as_text, filled, from_json
from uwc.errors import DataError, brief

_OWN_COLUMN = re.compile(r"(?i:(option|choice|opt|op|answer|ans|sol|ending|candidate|alternative)[ _-]?)?([A-Za-z]|\d)")


Prefer = Literal["name", "text", ""]
"""How to read a value that is the label of one option and the text of another; ``""`` raises an error."""


@dataclass(frozen=True)
class Options:
    """The options of one question.

    Attributes:
        texts: the text of each.
        labels: the label of each; letters from A if the row has no labels.
        counted: whether a number that is not a label is an option's position, from 0.
        written: whether the options are texts in the file, so that a number cannot be one of them.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    counted: bool = True
    written: bool = True


def option_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns with one option each (``A, B, C, ...``, ``option_a, ...``, ``choice1, ...``), or none."""
    families: dict[str, dict[str, str]] = {}
    for column in columns:
        match = _OWN_COLUMN.fullmatch(column.strip())
        if match and (match[1] or match[2] in ascii_uppercase):
            families.setdefault((match[1] or "").casefold(), {})[match[2].upper()] = column
    for family in families.values():
        for labels in (ascii_uppercase, "0123456789", "123456789"):
            run = tuple(family[label] for label in takewhile(family.__contains__, labels))
            if len(run) > 1:
                return run
    return ()


def read_options(value: Any, where: str) -> Options:
    """The options in a cell: a list of texts, ``{"text": [...], "label": [...]}``, or label -> text.

    Raises:
        DataError: it is none of these, there are fewer than two, one is empty, or a label occurs twice.
    """
    value = from_json(value, where)
    labels: list[Any] | None = None
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value, labels = value["text"], value.get("label")
    elif isinstance(value, dict):
        given = {label: text for label, text in value.items() if filled(text)}  # Parquet has every label in each row
        value, labels = list(given.values()), list(given)
    if not isinstance(value, list) or (labels is not None and len(labels) != len(value)):
        raise DataError(f'{where} are not a list of texts; write them like ["one", "two"]')
    texts = tuple(as_text(text, where) for text in value)
    names = tuple(as_text(label, where).strip() for label in labels) if labels else _letters(texts)
    return _checked(Options(texts, names, written=all(isinstance(text, str) for text in value)), where)


def read_own_columns(row: Mapping[str, Any], columns: Sequence[str], where: str) -> Options:
    """The options of a row with one column for each, labelled by the letter of the column.

    A number cannot refer to them, since it might count from 0 or from 1.
    """
    cells = [(column.strip()[-1].upper(), as_text(row.get(column), where)) for column in columns]
    given = [(label, text) for label, text in cells if text.strip()]
    lettered = all(label in ascii_uppercase for label, _ in given)
    labels = tuple(label for label, _ in given) if lettered else ("",) * len(given)
    return _checked(Options(tuple(text for _, text in given), labels, counted=False), where)


def named_option(value: Any, options: Options, where: str, *, prefer: Prefer = "") -> int | None:
    """The option that a value refers to: by its label, its position from 0, or its text.

    Args:
        value: the cell.
        options: the options.
        where: the cell, for error messages.
        prefer: which reading is used if the value is the label of one option and the text of another.

    Returns:
        The option's position; None if the value is none of the options, which only `prefer` "text" allows.

    Raises:
        DataError: the value refers to none of them, or to two.
    """
    said = as_text(value, where).strip()
    named, texts = _named(said, options), [text.strip() for text in options.texts]
    a_number = options.written and not isinstance(value, str)
    spelt = texts.index(said) if said in texts and not a_number else None
    readings = [r for r in ((spelt, named) if prefer == "text" else (named, spelt)) if r is not None]
    if len(set(readings)) > 1 and not prefer:
        raise DataError(
            f"{where} is {brief(said)}, the name of the choice {brief(options.texts[readings[0]])} and the text of "
            "another; say what it is: a name with --column answer_key=<column>, a text with --column answer=<column>"
        )
    if readings:
        return readings[0]
    if prefer == "text" and said and not re.fullmatch(r"-?\d+(\.0)?|.", said):
        return None
    numbers = "number counted from 0, " if options.counted else ""
    raise DataError(
        f"{where} is {brief(said)}, which is none of the {len(texts)} choices; write the right one's {numbers}letter, "
        "label or text"
    )


def _named(said: str, options: Options) -> int | None:
    """The option with that label or, if they are counted, at that position."""
    for fold in (str, str.casefold):
        labels = [fold(label) for label in options.labels]
        if said and fold(said) in labels:
            return labels.index(fold(said))
    number = re.fullmatch(r"(\d{1,9})(\.0)?", said, flags=re.ASCII)
    return int(number[1]) if number and options.counted and int(number[1]) < len(options.texts) else None


def _letters(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(ascii_uppercase[: len(texts)]) + ("",) * (len(texts) - len(ascii_uppercase))


def _checked(options: Options, where: str) -> Options:
    if len(options.texts) < 2 or not all(text.strip() for text in options.texts):
        raise DataError(f"{where} are fewer than two, or one is empty; fill them in or remove the row")
    labels = [label for label in options.labels if label]
    if len(set(labels)) < len(labels):
        raise DataError(f"{where} have a label twice; give each its own")
    return options
