"""Tables of rows from files: JSON Lines, JSON, CSV, TSV and Parquet, with errors that name file and line."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

from uwc.errors import DataError, brief, listed, shortened
from uwc.io import not_a_file
from uwc.results import InvalidRow, InvalidRows
from uwc.strict import DECODER, LENIENT, what_is_wrong

LONGEST_LIST = 300
"""The most characters of the problems in one message, except a single longer one."""
LISTED = 20
"""The most wrong rows that results list."""
_SPACE, _SEPARATOR = re.compile(r"\s*"), re.compile(r"\s*,?\s*")
_ESCAPED = re.compile("[\udc80-\udcff]")
_NOT_UTF8 = "this is not UTF-8; save the file with that encoding"
_LIMIT = Lock()


@dataclass(frozen=True)
class Table:
    """The rows of a file, not interpreted yet.

    Attributes:
        source: the file, for messages.
        unit: the unit of the row numbers: ``"line"``, ``"row"`` or ``"item"``.
        rows: each row's number and its cells by column.
        json_cells: whether lists are JSON text, as in CSV.
        damaged: number -> message of each row that is not among them, since it cannot be read.
        name: the set in ``--column SET:FIELD=COLUMN``.
        others: the columns of each other table that is read with it.
    """

    source: str
    unit: str
    rows: Sequence[tuple[int, Mapping[str, Any]]]
    json_cells: bool = False
    damaged: Mapping[int, str] = field(default_factory=dict)
    name: str = ""
    others: tuple[Sequence[str], ...] = ()

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in order of first occurrence."""
        return list(dict.fromkeys(column for _, row in self.rows for column in row))

    def at(self, number: int) -> str:
        """The place of a row, for messages."""
        return f"{self.source}, {self.unit} {number}"

    def problems(self) -> "Problems":
        """The problems of the rows that cannot be read."""
        return Problems(self.source, self.unit, len(self.rows) + len(self.damaged), self.damaged)


def read_table(path: Path, *, damaged: bool = False) -> Table:
    """Read the rows of a file, by its suffix.

    Args:
        path: the file.
        damaged: keep the problems of rows that cannot be read in `Table.damaged`; by default they are errors.

    Raises:
        DataError: the file cannot be read, or has no rows; the message names file and line.
    """
    data = read_bytes(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown file suffix {path.suffix!r}; valid: {', '.join(_READERS)}")
    table = reader(path, data)
    if not (damaged and table.rows):
        table.problems().require_none()
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
        rows: the number of all rows.
        found: number -> message of the first problems; a message begins with the file and the row.
    """

    def __init__(self, source: str, unit: str, rows: int, found: Mapping[int, str] | None = None) -> None:
        self.source, self.unit, self.rows = source, unit, rows
        self.found = dict(found or {})

    def add(self, number: int, error: DataError) -> None:
        """Keep the problem of a row."""
        self.found[number] = str(error)

    def require_none(self, note: str = "") -> None:
        """Raise DataError if there are any: as many as have room in a message, and the number of all."""
        if not self.found:
            return
        messages = [self.found[number] for number in sorted(self.found)]
        if len(messages) == 1:
            raise DataError(messages[0])
        told = [message.removeprefix(f"{self.source}, ") for message in messages]
        room = sum(length < LONGEST_LIST for length in accumulate(map(len, told)))
        shown = told[: max(room, 1)]
        more = f"; and {len(told) - len(shown)} more" if len(told) > len(shown) else ""
        raise DataError(
            f"{self.source}: {len(told)} of {self.rows} {self.unit}s cannot be used{note}. {'. '.join(shown)}{more}"
        )

    def left_out(self, most: int = LISTED) -> InvalidRows:
        """The wrong rows, for results; the first `most` of them with their reasons.

        Raises:
            DataError: they are more than half of the rows.
        """
        found = self.described(most)
        if found.too_many:
            self.require_none(", more than half, so that they are not left out")
        return found

    def described(self, most: int = LISTED) -> InvalidRows:
        """The wrong rows, for results, however many they are."""
        first = sorted(self.found)[:most]
        reasons = {n: self.found[n].removeprefix(f"{self.source}, {self.unit} {n}").lstrip(":, ") for n in first}
        rows = tuple(InvalidRow(row=number, reason=shortened(reason, 300)) for number, reason in reasons.items())
        return InvalidRows(file=self.source, unit=self.unit, rows=self.rows, invalid=len(self.found), first=rows)


def decode(path: Path, data: bytes, *, by_line: bool = False) -> str:
    """A text file's content, with plain line ends.

    Args:
        path: the file, for messages.
        data: its bytes.
        by_line: keep bytes that are not UTF-8 as surrogates, which `_require_utf8` refuses.

    Raises:
        DataError: it is not UTF-8; the message names the line.
    """
    try:
        return data.decode("utf-8-sig", "surrogateescape" if by_line else "strict").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: {_NOT_UTF8}") from None


def _require_utf8(text: str, where: str) -> None:
    if not text.isascii() and _ESCAPED.search(text):
        raise DataError(f"{where}: {_NOT_UTF8}")


def _read_json(path: Path, data: bytes) -> Table:
    """A list of objects, or one object a line."""
    text = decode(path, data, by_line=True)
    if not text.lstrip().startswith("["):
        return _read_json_lines(path, data)
    text = decode(path, data)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problems = Problems(str(path), "item", 0)
    try:
        LENIENT.decode(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: invalid JSON ({error.msg}); correct this line"
        ) from None
    except RecursionError:
        pass  # reported with its item below
    for number, item in enumerate(_items(text), 1):
        where = f"{path}, item {number}"
        if isinstance(item, RecursionError):  # where it ends, and what follows, is unknown
            raise DataError(f"{where}: {what_is_wrong(item)}")
        try:
            if isinstance(item, ValueError):
                raise DataError(f"{where}: {what_is_wrong(item)}")
            _require_object(item, where)
            rows.append((number, item))
        except DataError as error:
            problems.add(number, error)
    return Table(str(path), "item", rows, damaged=problems.found)


def _items(text: str) -> Iterator[Any]:
    """The items of a JSON list, each a value or the error of `DECODER`; ends after a RecursionError."""
    at = _SPACE.match(text, text.index("[") + 1).end()  # type: ignore[union-attr]
    while text[at] != "]":
        try:
            item, end = DECODER.raw_decode(text, at)
        except RecursionError as error:
            yield error
            return
        except ValueError as error:
            item, end = error, LENIENT.raw_decode(text, at)[1]
        yield item
        at = _SEPARATOR.match(text, end).end()  # type: ignore[union-attr]


def _read_json_lines(path: Path, data: bytes) -> Table:
    """One object a line; blank lines are skipped, but counted."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problems = Problems(str(path), "line", 0)
    for number, line in enumerate(decode(path, data, by_line=True).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append((number, _object(line, path, number)))
        except DataError as error:
            problems.add(number, error)
    return Table(str(path), "line", rows, damaged=problems.found)


def _object(line: str, path: Path, number: int) -> Mapping[str, Any]:
    """The object of a line of JSON."""
    _require_utf8(line, f"{path}, line {number}")
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


def _require_object(item: Any, where: str) -> None:
    if not isinstance(item, dict):
        raise DataError(f'{where}: this is a {type(item).__name__}, not an object; write {{"question": ..., ...}}')


def _read_csv(path: Path, data: bytes, *, delimiter: str) -> Table:
    """Comma- or tab-separated values below a line of column names; cells may have any length."""
    text = decode(path, data, by_line=True)
    delimiter = _delimiter(text, delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    problems = Problems(str(path), "line", 0)
    header: list[str] | None = None
    start = 1
    with _cells_up_to(len(text)):
        while True:
            where = f"{path}, line {start}"
            try:
                cells = next(reader)
                if cells and header is None:
                    header = _header(cells, where)
                elif cells and header is not None:
                    rows.append((start, _cells(header, cells, where)))
            except StopIteration:
                break
            except csv.Error as error:
                wrong = DataError(f"{where}: invalid CSV ({error}); check the quotes of this row")
                if header is None or "unexpected end" in str(error):  # the rows below are in an open quote
                    raise wrong from None
                problems.add(start, wrong)
            except DataError as error:
                if header is None:
                    raise
                problems.add(start, error)
            start = reader.line_num + 1  # a quoted cell may hold line ends
    return Table(str(path), "line", rows, json_cells=True, damaged=problems.found)


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
    _require_utf8("".join(names), where)
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
    _require_utf8("".join(cells), where)
    return dict(zip(header, cells, strict=True))


def _read_parquet(path: Path, data: bytes) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        _require_unique_columns(file.schema_arrow.names, str(path))
        rows = file.read().to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: texts that are not UTF-8
        reason = shortened(str(error).split("\n", 1)[0], 200)
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

SUFFIXES = tuple(_READERS)
"""The suffixes of files with rows."""
