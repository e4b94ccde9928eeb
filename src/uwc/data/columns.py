"""Which column of which file holds a field: for one file by its name, or for every file that has the column."""

from collections.abc import Mapping
from pathlib import Path

from uwc.data.example import Example
from uwc.data.layouts import NAMED
from uwc.data.question_files import to_examples
from uwc.data.tables import Table, read_table
from uwc.errors import ConfigError, listed
from uwc.registry import unknown_name

FileColumns = Mapping[str, str | Mapping[str, str]]
"""Field -> column, for every file that has the column; or file -> field -> column, for one."""


def read_files(
    files: Mapping[str, str | Path], columns: FileColumns | None = None, *, prefixes: Mapping[str, str] | None = None
) -> dict[str, list[Example]]:
    """Read the files of several sets.

    Args:
        files: name -> file.
        columns: the columns that hold a field.
        prefixes: name -> what begins the ids that are made up; by default as in `read_examples`.

    Raises:
        DataError: a file cannot be read, or has a wrong row.
        ConfigError: `columns` name an unknown field or file, or a column that no file has.
    """
    tables = read_tables(files)
    asked = columns_by_file(tables, columns or {})
    stems = {name: Path(path).stem for name, path in files.items()} | dict(prefixes or {})
    return {name: to_examples(table, prefix=stems[name], columns=asked[name]) for name, table in tables.items()}


def read_tables(files: Mapping[str, str | Path]) -> dict[str, Table]:
    """The rows of files, by name; a file under several names is read once."""
    paths = {name: Path(path).expanduser() for name, path in files.items()}
    read = {path: read_table(path) for path in dict.fromkeys(paths.values())}
    return {name: read[path] for name, path in paths.items()}


def columns_by_file(tables: Mapping[str, Table], columns: FileColumns) -> dict[str, dict[str, str]]:
    """The column of each field, file by file.

    A column for every file is taken where a file has it; the others are read by their own names for the field.

    Args:
        tables: name -> the rows of the file.
        columns: the columns that hold a field.

    Raises:
        ConfigError: an unknown field or file, or a column that no file has.
    """
    asked: dict[str, dict[str, str]] = {name: {} for name in tables}
    for field, column in columns.items():
        if isinstance(column, Mapping):
            continue
        _require_field(field, list(tables))
        having = [name for name, table in tables.items() if column in table.columns]
        if not having:
            raise ConfigError(
                f"columns: {field}: no file has the column {column!r}; the files have: {_described(tables)}"
            )
        for name in having:
            asked[name][field] = column
    for name, of_file in columns.items():
        if not isinstance(of_file, Mapping):
            continue
        if name not in tables:
            raise ConfigError(f"columns: {unknown_name('file', name, list(tables))}")
        for field, column in of_file.items():
            _require_field(field, list(tables))
            if column not in tables[name].columns:
                raise ConfigError(
                    f"columns: {name}: {field}: {tables[name].source} has no column {column!r}; the files have: "
                    f"{_described(tables)}"
                )
            asked[name][field] = column
    return asked


def _require_field(field: str, files: list[str]) -> None:
    if field not in NAMED:
        place = f"; columns of one file: one of {', '.join(files)}, with field: column below it" if files else ""
        raise ConfigError(f"columns: {unknown_name('field', field, list(NAMED))}{place}")


def _described(tables: Mapping[str, Table]) -> str:
    """The files and their columns, for messages."""
    seen = {table.source: listed(table.columns) for table in tables.values()}
    return "; ".join(f"{source}: {columns}" for source, columns in seen.items())
