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

    The whole file is checked, also with `limit`. A .json file is a list of objects, or one object a line. In CSV a list
    is JSON text, such as ``["one", "two"]``. Numbers are read as text. Rows may be questions with answers,
    instructions, conversations or multiple choice (`LAYOUTS`), of one kind in each file. A row with a column that looks
    like an unread part of the prompt is an error.

    Args:
        path: the file; its suffix gives the format.
        columns: part of a row -> its column, such as ``{"question": "ask"}``; by default the column of the same name,
            or one of `ALIASES`. If the question is given, that column is the whole question.
        split: the split the examples belong to.
        limit: the most rows to read.
        skip: the number of rows to skip at the beginning.
        subject_every: the number of consecutive rows of one subject, if there is no column for it.
        id_prefix: prefix of generated ids, if there is no column for them; the file's name without suffix by default.

    Returns:
        The examples in the file's order. Generated ids have the row's number in the file, from 1.

    Raises:
        DataError: the file cannot be read or a row is malformed; the message names the file and the line (in Parquet
            the row, in a JSON list the item).
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
    """Turn rows into examples; `prefix` begins generated ids and subjects, otherwise see `read_examples`.

    Raises:
        DataError: a row is malformed, or none is left.
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
