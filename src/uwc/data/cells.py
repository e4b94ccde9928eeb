"""Values of cells in question files: texts and lists of texts, options of multiple choice, and conversations."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from string import ascii_uppercase
from typing import Any, Literal

from uwc.data.example import Turns, check_history
from uwc.errors import DataError, brief
from uwc.strict import DECODER, what_is_wrong


def filled(value: Any) -> bool:
    """Whether a cell is not empty. None, NaN, a blank text, and lists or mappings of these are empty."""
    waiting = [value]
    while waiting:  # a recursion could be too deep
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
        elif part.strip() if isinstance(part, str) else part is not None and part == part:
            return True  # NaN, which pandas writes for a missing value, differs from itself
    return False


def as_text(value: Any, where: str) -> str:
    """A cell as text: numbers are formatted, a missing value is ``""``. `where` begins error messages.

    Raises:
        DataError: another type, a number that is not finite, or a lone surrogate.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not isinstance(value, int) and not math.isfinite(value):
            raise DataError(f"{where} is {value}, not a finite number; write the number, or a text in quotes")
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}; write it as one text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character, the surrogate {value[error.start]!r}; write it whole"
        ) from None
    if "\0" in value:
        raise DataError(f"{where} holds a NUL character; remove it")
    return value


def as_texts(value: Any, where: str, *, json_cells: bool) -> tuple[str, ...]:
    """A cell as several texts: a list or a single text; with `json_cells` (CSV) also a JSON list."""
    if json_cells:
        value = from_json(value, where)
    if not isinstance(value, list):
        text = as_text(value, where)
        return (text,) if text.strip() else ()
    texts = tuple(as_text(item, where) for item in value)
    if not all(text.strip() for text in texts):
        raise DataError(f"{where} hold an empty text; fill it in or remove it")
    return texts


def from_json(value: Any, where: str) -> Any:
    """Decode a list or mapping written as JSON text (as in CSV); any other value is returned unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return DECODER.decode(value.strip())
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where} is not a JSON list ({what_is_wrong(error)}); write it like ["one", "two"]') from None


_OWN_COLUMN = re.compile(r"(?i:(option|choice|opt|op|answer|ans|sol|ending|candidate|alternative)[ _-]?)?([A-Za-z]|\d)")


Prefer = Literal["name", "text", ""]
"""Reading of a value that is the label of one option and the text of another; ``""`` raises an error."""


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


ROLES: Mapping[str, str] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""Name of a role in a file -> the role."""

_WRITTEN = re.compile(r"""\s*\[\s*\{\s*["'](role|from|content|value)["']\s*:""")
_MORE = (
    "tool_calls",
    "function_call",
    "images",
    "image",
    "audio",
    "reasoning_content",
    "reasoning",
    "thinking",
)
"""Further keys of a turn that a model would see."""


def is_turns(value: Any) -> bool:
    """Whether a value looks like a list of turns, or its JSON text."""
    if isinstance(value, str):
        return _WRITTEN.match(value) is not None
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def read_turns(value: Any, where: str) -> Turns:
    """The turns of a list of ``{"role", "content"}`` or ``{"from", "value"}``; empty system messages are left out.

    Args:
        value: the list, or its JSON text.
        where: the cell, for error messages.

    Raises:
        DataError: another type, or a turn with another role, without text, or with parts that are not text.
    """
    value = from_json(value, where)
    if not is_turns(value):
        raise DataError(f'{where} is not a list of turns; write [{{"role": "user", "content": "..."}}, ...]')
    turns = tuple(_turn(turn, f"{where}, turn {number}") for number, turn in enumerate(value, 1))
    return tuple(turn for turn in turns if turn != ("system", ""))


def read_history(value: Any, where: str) -> Turns:
    """Earlier turns: a list of turns, of ``[role, text]``, or of pairs ``[user's text, assistant's text]``."""
    value = from_json(value, where)
    if not filled(value):
        return ()
    if is_turns(value):
        return read_turns(value, where)
    if not (isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)):
        raise DataError(f'{where} is not a list of turns; write [["user", "..."], ["assistant", "..."]]')
    pairs = [(as_text(first, where), as_text(second, where)) for first, second in value]
    if all(first in ROLES for first, _ in pairs):
        return tuple((ROLES[role], text) for role, text in pairs)
    return tuple(turn for user, assistant in pairs for turn in (("user", user), ("assistant", assistant)))


def split_turns(turns: Turns, where: str) -> tuple[Turns, str, str]:
    """A conversation as history, question and answer: the last assistant turn, and the user turn before it.

    Returns:
        History, question and answer; the answer is ``""`` if the last turn is the user's.

    Raises:
        DataError: the turns are not an optional system message followed by alternating user and assistant turns.
    """
    answer = turns[-1][1] if turns and turns[-1][0] == "assistant" else ""
    asked = turns[:-1] if answer else turns
    if not asked or asked[-1][0] != "user":
        raise DataError(f"{where} has no user's turn before the answer; the last two must be the user's and the answer")
    try:
        check_history(asked[:-1])
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    return asked[:-1], asked[-1][1], answer


def _turn(turn: Mapping[str, Any], where: str) -> tuple[str, str]:
    name = "role" if filled(turn.get("role")) else "from"
    said = turn.get(name)
    role = ROLES.get(said.strip().casefold()) if isinstance(said, str) else None
    if role is None:
        raise DataError(
            f"{where}: the {name} is {brief(str(said))}; valid: {', '.join(ROLES)}; remove the row, or name a question "
            "and an answer column with --column"
        )
    for key in _MORE:
        if filled(turn.get(key)):
            raise DataError(f"{where} has {key!r}, which cannot be read; remove it, or this row")
    text = _content(turn["content"] if filled(turn.get("content")) else turn.get("value"), where)
    if not text.strip() and role != "system":
        raise DataError(f"{where}: the {said} is empty; fill it in, or remove this row")
    return role, text if text.strip() else ""


def _content(value: Any, where: str) -> str:
    """A turn's text: a text, or the concatenated texts of its parts, as chat templates render them."""
    if not isinstance(value, list):
        return as_text(value, where)
    texts: Sequence[str] = [_part_text(part, where) for part in value]
    return "".join(texts)


def _part_text(part: Any, where: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        raise DataError(f"{where} has a part that is not of type 'text', which cannot be read; remove this row")
    return as_text(part.get("text"), where)
