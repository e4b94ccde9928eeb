"""Tables of rows from files: JSON Lines, JSON, CSV, TSV and Parquet, with errors that name file and line."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from uwc.data.strict import DECODER, what_is_wrong
from uwc.errors import DataError, brief, listed, shortened
from uwc.io import not_a_file

LONGEST_LIST = 300
"""The most characters of the problems in one message, except a single longer one."""
_SPACE = re.compile(r"\s*")
_LIMIT = Lock()


@dataclass(frozen=True)
class Table:
    """The rows of a file, not interpreted yet.

    Attributes:
        source: the file, for messages.
        unit: the unit of the row numbers: ``"line"``, ``"row"`` or ``"item"``.
        rows: each row's number and its cells by column.
        json_cells: whether lists are JSON text, as in CSV.
    """

    source: str
    unit: str
    rows: Sequence[tuple[int, Mapping[str, Any]]]
    json_cells: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in order of first occurrence."""
        return list(dict.fromkeys(column for _, row in self.rows for column in row))

    def at(self, number: int) -> str:
        """The place of a row, for messages."""
        return f"{self.source}, {self.unit} {number}"


def read_table(path: Path) -> Table:
    """Read the rows of a file, by its suffix. Raises DataError, naming file and line, if it is malformed."""
    data = read_bytes(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown file suffix {path.suffix!r}; valid: {', '.join(_READERS)}")
    table = reader(path, data)
    if not table.rows:
        raise DataError(f"{path}: the file has no rows; add at least one")
    return table


def read_bytes(path: Path) -> bytes:
    """A file's content. Raises DataError if it is missing, no regular file, or empty."""
    if reason := not_a_file(path):
        raise DataError(f"{shortened(str(path), 200)}: {reason}{_hint(path)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: the file cannot be read ({error.strerror}); check its permissions") from None
    if not data.strip():
        raise DataError(f"{path}: the file is empty; add at least one line")
    return data


def _hint(path: Path) -> str:
    """What to do about a file that is missing."""
    try:
        if path.exists() or path.is_symlink():
            return ""
        if not path.parent.is_dir():
            return f", as there is no folder {str(path.parent)!r}; check the path"
        close = get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=3)
    except (OSError, ValueError):
        return "; check the path"
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else "; check the path"


class Problems:
    """What is wrong with the rows of a file, told in one message.

    Args:
        source: the file, for messages.
        unit: the unit of its row numbers.
    """

    def __init__(self, source: str, unit: str) -> None:
        self.source, self.unit = source, unit
        self.found: list[str] = []

    def add(self, error: DataError) -> None:
        """Keep a problem, whose message begins with the file and the row."""
        self.found.append(str(error))

    def require_none(self, rows: int) -> None:
        """Raise DataError if there are any: as many as have room in a message, and the number of all."""
        if not self.found:
            return
        if len(self.found) == 1:
            raise DataError(self.found[0])
        told = [message.removeprefix(f"{self.source}, ") for message in self.found]
        room = sum(length < LONGEST_LIST for length in accumulate(map(len, told)))
        shown = told[: max(room, 1)]
        more = f"; and {len(told) - len(shown)} more" if len(told) > len(shown) else ""
        raise DataError(f"{self.source}: {len(told)} of {rows} {self.unit}s cannot be used. {'. '.join(shown)}{more}")


def decode(path: Path, data: bytes) -> str:
    """A text file's content, with plain line ends. Raises DataError, naming the line, if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: this is not UTF-8; save the file with that encoding") from None


def _read_json(path: Path, data: bytes) -> Table:
    """A list of objects, or one object a line."""
    text = decode(path, data)
    if not text.lstrip().startswith("["):
        return _read_json_lines(path, data)
    try:
        items = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: invalid JSON ({error.msg}); correct this line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, item {_failing_item(text)}: {what_is_wrong(error)}") from None
    for number, item in enumerate(items, 1):
        _require_object(item, f"{path}, item {number}")
    return Table(str(path), "item", list(enumerate(items, 1)))


def _read_json_lines(path: Path, data: bytes) -> Table:
    """One object a line; blank lines are skipped, but counted."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problems = Problems(str(path), "line")
    for number, line in enumerate(decode(path, data).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, _object(line, path, number)))
        except DataError as error:
            problems.add(error)
    problems.require_none(len(rows) + len(problems.found))
    return Table(str(path), "line", rows)


def _object(line: str, path: Path, number: int) -> Mapping[str, Any]:
    """The object of a line of JSON."""
    try:
        item = DECODER.decode(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}, column {error.colno}: invalid JSON ({error.msg}); "
            "write one whole object on each line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: {what_is_wrong(error)}") from None
    _require_object(item, f"{path}, line {number}")
    found: Mapping[str, Any] = item
    return found


def _failing_item(text: str) -> int:
    """The number of the first item of a JSON list that cannot be decoded."""
    at, number = text.index("["), 0
    try:
        while True:
            number += 1
            _, at = DECODER.raw_decode(text, _SPACE.match(text, at + 1).end())  # type: ignore[union-attr]
            at = text.index(",", at)
    except (ValueError, RecursionError):
        return number


def _require_object(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise DataError(f'{where}: this is a {type(item).__name__}, not an object; write {{"question": ..., ...}}')


def _read_csv(path: Path, data: bytes, *, delimiter: str) -> Table:
    """Comma- or tab-separated values below a line of column names; cells may have any length."""
    text = decode(path, data)
    delimiter = _delimiter(text, delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    header: list[str] | None = None
    start = 1
    try:
        with _cells_up_to(len(text)):
            for cells in reader:
                if cells and header is None:
                    header = _header(cells, f"{path}, line {start}")
                elif cells and header is not None:
                    rows.append((start, _cells(header, cells, f"{path}, line {start}")))
                start = reader.line_num + 1  # a quoted cell may hold line ends
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: invalid CSV ({error}); check the quotes of this row") from None
    return Table(str(path), "line", rows, json_cells=True)


def _delimiter(text: str, usual: str) -> str:
    """The delimiter of a CSV file: another one only if the first line has a single column with the usual one."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    if usual in first:
        return usual
    counts = {other: first.count(other) for other in (";", "\t", ",", "|") if other != usual}
    best = max(counts, key=lambda other: counts[other])
    return best if counts[best] else usual


@contextmanager
def _cells_up_to(length: int) -> Iterator[None]:
    """Raise the csv module's field limit, which is global to the process, and restore it afterwards."""
    with _LIMIT:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, length))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _header(cells: list[str], where: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    _require_unique_columns(names, where)
    return names


def _require_unique_columns(names: Sequence[str], where: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{where}: the column {brief(name)} occurs twice; rename one")


def _cells(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    if len(cells) != len(header):
        raise DataError(
            f"{where}: the row has {len(cells)} cells, but there are {len(header)} columns "
            f"({listed(header)}); put quotes around a cell that holds the delimiter"
        )
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path, data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _require_unique_columns(file.schema_arrow.names, str(path))
        rows = file.read().to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise DataError(f"{path}: this is not a readable Parquet file ({reason}); write it again") from None
    return Table(str(path), "row", list(enumerate(rows, 1)))


_READERS: Mapping[str, Callable[[Path, bytes], Table]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".csv": partial(_read_csv, delimiter=","),
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
}
