"""Questions and answers from files: JSON Lines, JSON, CSV, TSV and Parquet."""

from collections.abc import Mapping
from pathlib import Path

from uwc.data.example import Example
from uwc.data.rows import RowReader
from uwc.data.tables import Table, decode, read_bytes, read_table
from uwc.errors import DataError, brief


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
    line. In CSV a list is written as JSON text, such as ``["one", "two"]``. Numbers are read as text. Rows may be
    questions with answers, instructions, conversations or multiple choice (`layouts.LAYOUTS`); a file holds one kind,
    and a row of which a part of the prompt would be left out is refused.

    Args:
        path: the file; its ending says the format.
        columns: the column that holds a part of a row, such as ``{"question": "ask"}``; for other parts the column of
            the same name, or else one of `layouts.ALIASES`. A named question is the whole question.
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
    reader = RowReader(table, columns or {})
    examples: list[Example] = []
    numbers: dict[str, int] = {}
    for index, (number, row) in enumerate(table.rows):
        values = reader.read(number, row)
        values.setdefault("id", f"{prefix}-{index + 1:05d}")
        if subject_every:
            values.setdefault("subject", f"{prefix}-subject-{index // subject_every + 1:03d}")
        try:
            example = Example(**values, split=split)
        except DataError as error:
            raise DataError(f"{table.at(number)}: {error}") from None
        if example.id in numbers:
            raise DataError(
                f"{table.at(number)}: the id {brief(example.id)} was used before, in {table.unit} "
                f"{numbers[example.id]}; ids must be unique"
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


def _part(examples: list[Example], limit: int | None, skip: int, source: str) -> list[Example]:
    part = examples[skip:][:limit] if skip >= 0 and (limit is None or limit >= 1) else []
    if not part:
        raise DataError(
            f"{source}: skip {skip} and limit {limit} leave none of its {len(examples)} rows; "
            f"set skip from 0 to {len(examples) - 1} and limit to 1 or more"
        )
    return part
