"""Checked values of single cells: texts, lists of texts, and whether a cell is empty."""

import math
from decimal import Decimal
from typing import Any

from uwc.data.strict_json import DECODER, what_is_wrong
from uwc.errors import DataError


def filled(value: Any) -> bool:
    """Whether a cell is not empty. None, NaN, a blank text, and lists or mappings of these are empty."""
    if isinstance(value, str):
        return bool(value.strip())
    if isinstance(value, dict):
        return any(map(filled, value.values()))
    if isinstance(value, list | tuple):
        return any(map(filled, value))
    return value is not None and value == value  # NaN, which pandas writes for a missing value, differs from itself


def as_text(value: Any, where: str) -> str:
    """A cell as text: numbers are formatted, a missing value is ``""``. `where` begins error messages.

    Raises:
        DataError: another type, a number that is not finite, or a lone surrogate.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise DataError(f"{where} is {value}, not a finite number; write the number, or a text in quotes")
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}; write it as one text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character, {value[error.start]!r}; write it whole") from None
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
