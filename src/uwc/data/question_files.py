"""Questions and answers from files: JSON Lines, JSON, CSV, TSV and Parquet."""

import json
from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from uwc.data.example import Example
from uwc.data.tables import Table, decode, read_bytes, read_table
from uwc.errors import DataError
from uwc.registry import unknown_name

FIELDS = tuple(f.name for f in fields(Example) if f.name not in ("split", "history", "prefill"))
"""What a file may say of an example; which split it belongs to is said by the benchmark."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "question": ("prompt", "input"),
    "answer": ("response", "completion", "output", "target"),
    "perturbed_answers": ("perturbed_answer",),
    "subject": ("author", "entity"),
}
"""Column names that stand for a field where no column bears the field's own name."""

_NEEDED = ("id", "question", "answer")  # may not be empty; without an `id` column, ids are made up


def read_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "",
    limit: int | None = None,
    skip: int = 0,
    subject_every: int | None = None,
    id_prefix: str = "",
) -> list[Example]:
    """Read questions and answers from a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file.

    The whole file is checked, whichever part of it is taken. A .json file holds a list of objects, or one object a
    line. In CSV a list is written as JSON text, such as ``["one", "two"]``. Numbers are read as text.

    Args:
        path: the file; its ending says the format.
        columns: the column that holds a field, such as ``{"question": "prompt"}``; for other fields the column of
            the same name, or else one of `ALIASES`.
        split: the split the examples belong to.
        limit: how many rows to take at most.
        skip: how many rows to leave out at the beginning.
        subject_every: how many consecutive rows of the file share a subject, if there is no column for it.
        id_prefix: begins the ids where there is no column for them; by default the file's name without its ending.

    Returns:
        The examples in the file's order. Ids that are made up are made of the row's number in the file, from 1.

    Raises:
        DataError: the file cannot be read or a row is wrong; the message names the file and the line (for Parquet the
            row, for a JSON list the item).
    """
    path = Path(path).expanduser()
    return to_examples(
        read_table(path),
        prefix=id_prefix or path.stem,
        columns=columns,
        split=split,
        limit=limit,
        skip=skip,
        subject_every=subject_every,
    )


def to_examples(
    table: Table,
    *,
    prefix: str,
    columns: Mapping[str, str] | None = None,
    split: str = "",
    limit: int | None = None,
    skip: int = 0,
    subject_every: int | None = None,
) -> list[Example]:
    """Turn rows into examples; `prefix` begins the ids and subjects that are made up, for the rest see `read_examples`.

    Raises:
        DataError: a row is wrong, or none is left.
    """
    if subject_every is not None and subject_every < 1:
        raise DataError(f"{table.source}: subject_every is {subject_every}; set it to 1 or more")
    used = _columns_used(table, columns or {})
    examples: list[Example] = []
    numbers: dict[str, int] = {}
    for index, (number, row) in enumerate(table.rows):
        values: dict[str, Any] = {field: _value(field, column, row, table, number) for field, column in used.items()}
        values.setdefault("id", f"{prefix}-{index + 1:05d}")
        if subject_every:
            values.setdefault("subject", f"{prefix}-subject-{index // subject_every + 1:03d}")
        example = Example(**values, split=split)
        if example.id in numbers:
            raise DataError(
                f"{table.at(number)}: the id {example.id!r} was used before, in {table.unit} {numbers[example.id]}; "
                "ids must be unique"
            )
        numbers[example.id] = number
        examples.append(example)
    return _part(examples, limit, skip, table.source)


def read_lines(path: str | Path) -> tuple[str, ...]:
    """Read a plain text file with one text a line, such as refusals; blank lines are skipped.

    Raises:
        DataError: the file is missing, cannot be read, or has no text in it.
    """
    path = Path(path).expanduser()
    text = decode(path, read_bytes(path))
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _columns_used(table: Table, asked: Mapping[str, str]) -> dict[str, str]:
    """The column for each field that has one."""
    there = table.columns
    for field, column in asked.items():
        if field not in FIELDS:
            raise DataError(f"{table.source}: columns: {unknown_name('field', field, list(FIELDS))}")
        if column not in there:
            raise DataError(f"{table.source}: columns: {field}: {unknown_name('column', column, there)}")
    used = dict(asked)
    for field in FIELDS:
        aliases = [name for name in ALIASES.get(field, ()) if name not in asked.values()]
        found = [name for name in (field, *aliases) if name in there]
        if found:
            used.setdefault(field, found[0])
    for field in ("question", "answer"):
        if field not in used:
            raise DataError(
                f"{table.source}: there is no column {field!r}; say which one it is with --column {field}=<column>, "
                f"in a study with columns: {{{field}: <column>}}; the file has: {', '.join(there) or 'none'}"
            )
    return used


def _value(field: str, column: str, row: Mapping[str, Any], table: Table, number: int) -> str | tuple[str, ...]:
    """A row's value for a field, checked."""
    label = field if field == column else f"{field} (column {column!r})"
    where = f"{table.at(number)}: the {label}"
    if field in _NEEDED and column not in row:
        raise DataError(f"{where} is missing; add it or remove this {table.unit}")
    if field == "perturbed_answers":
        return _texts(row.get(column), where, table.json_cells)
    text = _text(row.get(column), where)
    if field in _NEEDED and not text.strip():
        raise DataError(f"{where} is empty; fill it in or remove this {table.unit}")
    return text


def _text(value: Any, where: str) -> str:
    if value is None or value != value:  # NaN, which pandas writes for a missing value, differs from itself
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where} is a {type(value).__name__}; write it as one text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character, {value[error.start]!r}; write it whole") from None
    return value


def _texts(value: Any, where: str, json_cells: bool) -> tuple[str, ...]:
    if json_cells and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f'{where} is not a JSON list ({error.msg}); write it like ["one", "two"]') from None
    if not isinstance(value, list):
        text = _text(value, where)
        return (text,) if text.strip() else ()
    texts = tuple(_text(item, where) for item in value)
    if not all(text.strip() for text in texts):
        raise DataError(f"{where} hold an empty text; fill it in or remove it")
    return texts


def _part(examples: list[Example], limit: int | None, skip: int, source: str) -> list[Example]:
    part = examples[skip:][:limit] if skip >= 0 and (limit is None or limit >= 1) else []
    if not part:
        raise DataError(
            f"{source}: skip {skip} and limit {limit} leave none of its {len(examples)} rows; "
            f"set skip from 0 to {len(examples) - 1} and limit to 1 or more"
        )
    return part
