"""Questions and answers from files (JSON Lines, JSON, CSV, TSV and Parquet) and from tables in memory."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from uwc import progress
from uwc.data.example import Example, clustered, require_unique_ids
from uwc.data.rows import NAMED, RowReader
from uwc.data.tables import Problems, Table, decode, read_bytes, read_table
from uwc.errors import ConfigError, DataError, brief, listed
from uwc.io import expanded
from uwc.registry import unknown_name
from uwc.results import InvalidRows

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

Questions: TypeAlias = "str | Path | Sequence[Example] | Sequence[Mapping[str, Any]] | pd.DataFrame | Dataset"
"""A file, examples, rows as mappings, a pandas data frame, or a `datasets.Dataset`."""

LeftOut = list[InvalidRows] | None
"""Where invalid rows are recorded that are left out; None if they are errors."""

Columns = Mapping[str, str]
"""Column by ``"FIELD"``; of several sets also by ``"SET:FIELD"``, see `columns_by_set`."""


def load_questions(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    skip_invalid: bool = False,
) -> list[Example]:
    """Read questions and answers from a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file.

    Args:
        path: the file.
        columns: field -> column, such as ``{"question": "ask"}``, where a file names them otherwise.
        limit: how many rows to take at most.
        skip_invalid: leave out invalid rows, at most half of the file, with a warning; by default they are an error.

    Raises:
        DataError: the file cannot be read or a row is wrong; the message names the file and the line.
    """
    left_out: LeftOut = [] if skip_invalid else None
    examples = read_examples(path, columns=columns, limit=limit, left_out=left_out)
    for of_file in left_out or ():
        progress.warn(of_file.warning.text)
    return examples


def examples_of(
    data: Questions, *, name: str = "data", columns: Columns | None = None, left_out: LeftOut = None
) -> list[Example]:
    """Questions as a user gives them, as examples.

    Args:
        data: the questions.
        name: what messages call them; begins the ids where a table in memory has none.
        columns: field -> column, where a file or table names them otherwise.
        left_out: a list that takes invalid rows; None raises an error for them.

    Raises:
        DataError: a row is wrong; the message names the file or table, the row (of a table in memory from 0) and the
            column.
        ConfigError: the data are of another kind, or columns are named for examples.
    """
    if isinstance(data, str | Path):
        return read_examples(data, columns=columns, left_out=left_out)
    if _are_examples(data, name):
        if columns:
            raise ConfigError(f"{name} holds examples, which have no columns; leave columns out")
        examples = list(data)
        require_unique_ids(examples, where=name)
        return examples
    return to_examples(_table(data, name), prefix=name, columns=columns, left_out=left_out)


def sets_of(
    sets: Mapping[str, Questions], columns: Columns | None = None, *, left_out: LeftOut = None
) -> dict[str, list[Example]]:
    """Several sets of questions as examples, by name; one subject for a question that is repeated (`clustered`).

    Args:
        sets: name -> questions.
        columns: field -> column, or ``"SET:FIELD"`` -> column, see `columns_by_set`.
        left_out: a list that takes invalid rows; None raises an error for them.

    Raises:
        UserError: as `examples_of` and `columns_by_set`.
    """
    stems = [Path(data).stem for data in sets.values() if isinstance(data, str | Path)]
    tables: dict[str, Table] = {}
    found: dict[str, list[Example]] = {}
    for name, data in sets.items():
        table = table_of(data, name)
        if table is None:
            found[name] = examples_of(data, name=name)
        else:
            tables[name] = table
    asked = columns_by_set(tables, columns or {}, given=list(sets))
    for name, table in together(tables).items():
        data = sets[name]
        stem = Path(data).stem if isinstance(data, str | Path) else name
        prefix = name if stems.count(stem) > 1 else stem
        found[name] = to_examples(table, prefix=prefix, columns=asked[name], left_out=left_out)
    return {name: clustered(found[name]) for name in sets}


def together(tables: Mapping[str, Table]) -> dict[str, Table]:
    """The tables, each with its name and the columns of the others, so that messages name the right options."""
    columns = {name: table.columns for name, table in tables.items()}
    others = {name: tuple(of for other, of in columns.items() if other != name) for name in tables}
    return {name: replace(table, name=name, others=others[name]) for name, table in tables.items()}


def columns_by_set(
    tables: Mapping[str, Table], columns: Columns, *, given: Sequence[str] = (), fields: Sequence[str] = NAMED
) -> dict[str, dict[str, str]]:
    """Field -> column, of each set.

    A column of every set is taken where a set has it; a set that has it not is read by its own name for the field.

    Args:
        tables: name -> the rows of the set.
        columns: column by ``"FIELD"``, for every set that has the column, or by ``"SET:FIELD"``, which is the stronger.
        given: the names of all sets, those without a table among them.
        fields: the fields for which a column may be named.

    Raises:
        ConfigError: an unknown field or set, or a column that none of the sets has.
    """
    asked: dict[str, dict[str, str]] = {name: {} for name in tables}
    there = "; ".join(dict.fromkeys(f"{table.source}: {listed(table.columns)}" for table in tables.values())) or "none"
    for key, column in sorted(columns.items(), key=lambda item: ":" in item[0]):
        of_set, colon, field = key.rpartition(":")
        if field not in fields:
            raise ConfigError(f"columns: {unknown_name('field', field, list(fields))}")
        if colon and of_set not in tables:
            if of_set in given:
                raise ConfigError(f"columns: {key!r}: {of_set} holds examples, which have no columns; leave it out")
            raise ConfigError(
                f"columns: {key!r} names the set {of_set!r}, which is not given; given: {listed(given or tables)}"
            )
        having = [name for name in ([of_set] if colon else tables) if column in tables[name].columns]
        if not having:
            where = tables[of_set].source if colon else "no file or table"
            raise ConfigError(f"columns: {field}: {where} has {'no' if colon else 'the'} column {column!r}; {there}")
        for name in having:
            asked[name][field] = column
    return asked


def table_of(data: Questions, name: str) -> Table | None:
    """The rows of a file or table, as they stand; None for examples."""
    if isinstance(data, str | Path):
        return read_table(expanded(data), damaged=True)
    return None if _are_examples(data, name) else _table(data, name)


def _are_examples(data: Any, name: str) -> bool:
    """Whether data are a list of examples. Raises ConfigError if only some of them are."""
    if not isinstance(data, Sequence):
        return False
    kinds = [isinstance(item, Example) for item in data]
    if any(kinds) and not all(kinds):
        other = data[kinds.index(False)]
        raise ConfigError(f"{name}, item {kinds.index(False)}: a {type(other).__name__} among examples; give one kind")
    return all(kinds)


def _table(data: Any, name: str) -> Table:
    """The rows of a table in memory, numbered from 0."""
    pandas, datasets = (sys.modules.get(module) for module in ("pandas", "datasets"))
    if pandas is not None and isinstance(data, pandas.DataFrame):
        source = f"the data frame {name!r}"
        if not data.columns.is_unique:
            twice = brief(str(data.columns[data.columns.duplicated()][0]))
            raise DataError(f"{source}: the column {twice} occurs twice; rename one")
        rows = [{str(key): _plain(cell) for key, cell in row.items()} for row in data.to_dict("records")]
    elif datasets is not None and isinstance(data, datasets.Dataset):
        source, rows = f"the dataset {name!r}", data.to_list()
    elif datasets is not None and isinstance(data, datasets.DatasetDict):
        raise ConfigError(f"{name} holds several splits; give one of them: {listed(map(str, data))}")
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        source, rows = f"the list {name!r}", list(data)
    else:
        raise ConfigError(
            f"{name} is a {type(data).__name__}; give a path, a list of examples, a pandas DataFrame or a "
            "datasets.Dataset"
        )
    if not rows:
        raise DataError(f"{source} has no rows; add at least one")
    return Table(source, "row", list(enumerate(rows)))


def _plain(cell: Any) -> Any:
    """A cell of a data frame as JSON would have it: lists for arrays, None for a missing value."""
    if hasattr(cell, "tolist"):
        return cell.tolist()
    if isinstance(cell, str | bool | int | list | tuple | dict):
        return list(cell) if isinstance(cell, tuple) else cell
    return None if cell != cell or str(cell) in ("<NA>", "NaT") else cell


def read_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "",
    limit: int | None = None,
    skip: int = 0,
    subject_every: int | None = None,
    id_prefix: str = "",
    left_out: LeftOut = None,
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
        left_out: a list that takes invalid rows; None raises an error for them.

    Returns:
        The examples in the file's order. Generated ids have the row's number in the file, from 1.

    Raises:
        DataError: the file cannot be read or a row is malformed; the message names the file and the line (in Parquet
            the row, in a JSON list the item).
    """
    path = expanded(path)
    return to_examples(
        read_table(path, damaged=True),
        prefix=id_prefix or path.stem,
        columns=columns,
        split=split,
        limit=limit,
        skip=skip,
        subject_every=subject_every,
        left_out=left_out,
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
    left_out: LeftOut = None,
) -> list[Example]:
    """Turn rows into examples; `prefix` begins generated ids and subjects, otherwise see `read_examples`.

    Raises:
        DataError: a row is malformed, or none is left.
    """
    if subject_every is not None and subject_every < 1:
        raise DataError(f"{table.source}: subject_every is {subject_every}; set it to 1 or more")
    examples, problems = valid_examples(table, prefix, columns or {}, split=split, subject_every=subject_every)
    if left_out is None:
        problems.require_none()
    elif problems.found:
        left_out.append(problems.left_out())
    return _part(list(examples.values()), limit, skip, table.source)


def valid_examples(
    table: Table, prefix: str, columns: Mapping[str, str], *, split: str = "", subject_every: int | None = None
) -> tuple[dict[int, Example], Problems]:
    """The examples of the valid rows by the rows' numbers, and the problems of all others; arguments as `to_examples`
    takes them.

    Raises:
        DataError: the columns cannot be used.
    """
    reader = RowReader(table, columns)
    examples: dict[int, Example] = {}
    numbers: dict[str, int] = {}
    problems = table.problems()
    index = {number: i for i, number in enumerate(sorted([*table.damaged, *(number for number, _ in table.rows)]))}

    def read(number: int, row: Mapping[str, Any]) -> Example:
        values = reader.read(number, row)
        values.setdefault("id", f"{prefix}-{index[number] + 1:05d}")
        if subject_every:
            values.setdefault("subject", f"{prefix}-subject-{index[number] // subject_every + 1:03d}")
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
        return example

    for number, row in table.rows:
        try:
            examples[number] = read(number, row)
        except DataError as error:
            problems.add(number, error)
    return examples, problems


def read_lines(path: str | Path) -> tuple[str, ...]:
    """Read a plain text file with one text a line, such as refusals; blank lines are skipped.

    Raises:
        DataError: the file is missing, cannot be read, or has no text in it.
    """
    path = expanded(path)
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
