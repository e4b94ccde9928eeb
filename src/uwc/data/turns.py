"""Conversations in question files: lists of turns in OpenAI's and ShareGPT's form, as roles and texts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from uwc.data.cells import as_text, filled, from_json
from uwc.data.example import Turns, check_history
from uwc.errors import DataError, brief

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
