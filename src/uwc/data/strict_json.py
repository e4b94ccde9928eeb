"""A JSON decoder that refuses repeated keys."""

import json
from typing import Any

from uwc.errors import brief


class RepeatedKey(ValueError):
    """A key that occurs twice in one JSON object."""


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""Raises ValueError (JSONDecodeError for a mistake of syntax, RepeatedKey) or RecursionError."""


def what_is_wrong(error: Exception) -> str:
    """The message for an error of `DECODER`."""
    if isinstance(error, json.JSONDecodeError):
        return f"invalid JSON ({error.msg})"
    if isinstance(error, RepeatedKey):
        return f"the key {brief(str(error))} occurs twice in one object; remove or rename one"
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply; write questions and answers as texts"
    return "a number has thousands of digits; write it as a text in quotes"
