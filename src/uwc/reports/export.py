"""Tables and figures of a study's results as files for papers."""

import csv
import re
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Literal, get_args

from uwc import progress
from uwc.errors import UserError
from uwc.io import require_writable, write_bytes
from uwc.registry import unknown_name
from uwc.reports import gallery
from uwc.reports.drawing import Kind
from uwc.reports.format import MISSING, Table, sort_value, to_markdown
from uwc.reports.gallery import FIGURES
from uwc.reports.latex import to_latex
from uwc.results import SIGNIFICANT, StudyResults

Format = Literal["latex", "csv", "md", "svg", "pdf"]
DRAWN = get_args(Kind)
"""The formats of figures; the others are those of tables."""
_SUFFIX = {"latex": "tex"}


def export(
    results: StudyResults | str | Path,
    format: Format,
    *,
    table: str | None = None,
    figure: str | None = None,
    output: str | Path | None = None,
) -> dict[str, bytes]:
    """The tables of a study's results in LaTeX, CSV or Markdown, or its figures as SVG or PDF, as in its report.

    The same results give the same bytes.

    Args:
        results: the results, their file or its folder.
        format: the format.
        table: the name of the only table.
        figure: the name of the only figure.
        output: the folder where the files are written; with one name a file of that format, unless it is
            a folder. Files are replaced.

    Returns:
        The content of each file by its name.

    Raises:
        UserError: the format is not one of tables or of figures, there is none of that name, the results cannot be
            read, or nothing can be written there.
    """
    if format not in get_args(Format):
        raise UserError(unknown_name("format", format, list(get_args(Format))))
    if table is not None and figure is not None:
        raise UserError("a table and a figure are given; export one at a time")
    if table is not None and format in DRAWN:
        raise UserError(f"tables are not exported as {format}; choose latex, csv or md")
    if figure is not None and format not in DRAWN:
        raise UserError(f"figures are not exported as {format}; choose svg or pdf")
    if not isinstance(results, StudyResults):
        path = Path(results)
        results = StudyResults.load(path / StudyResults.FILE if path.is_dir() else path)
    made = dict(_figures(results, format, figure) if format in DRAWN else _tables(results, format, table))
    if output is not None:
        _write(made, Path(output), one=table is not None or figure is not None)
    return made


def _write(made: dict[str, bytes], output: Path, *, one: bool) -> None:
    for name, content in made.items():
        path = output if one and not output.is_dir() else output / name
        if path.suffix != Path(name).suffix:
            raise UserError(f"{path} is not a folder, and its name does not end in {Path(name).suffix}")
        require_writable(path.parent, path.name)
        write_bytes(path, content)


def _file(name: str, format: str) -> str:
    safe = re.sub(r"[^\w .,+@()=-]", "_", name)
    return f"{safe}.{_SUFFIX.get(format, format)}"


def tables(results: StudyResults) -> dict[str, Table]:
    """The tables of a report that have rows, by name; further ones of a name are numbered."""
    return {
        name if i == 1 else f"{name}-{i}": table
        for name, found in gallery.tables(results).items()
        for i, table in enumerate(found if isinstance(found, list) else [found], start=1)
        if table is not None and table.rows
    }


def _tables(results: StudyResults, format: str, only: str | None) -> Iterator[tuple[str, bytes]]:
    found = tables(results)
    if only is not None and only not in found:
        raise UserError(unknown_name("table", only, list(found)))
    for name in [only] if only is not None else found:
        yield _file(name, format), _WRITERS[format](results, found[name], name).encode("utf-8")


def _latex(results: StudyResults, table: Table, name: str) -> str:
    """With the best model's residual score in bold, and a dagger for those that are not significantly worse."""
    if table.residual is None or len(results.ranking) < 2:
        return to_latex(table, name)
    first, *others = results.ranking
    close = {other for other in others if not results.pairs.get(first, {}).get(other, 0) >= SIGNIFICANT}
    best, tied = ([i for i, model in enumerate(table.models) if model in names] for names in ({first}, close))
    return to_latex(table, name, best=best, tied=tied)


_INTERVAL = re.compile(r"(\S.*?)\s\[([-+\d]\S*), ([-+\d]\S*)\]")
_PLAIN = re.compile(r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?")


def _csv(_: StudyResults, table: Table, name: str) -> str:
    """Intervals have columns of their own, and a missing number is empty."""
    found = [[_INTERVAL.fullmatch(row[column]) for row in table.rows] for column in range(len(table.columns))]
    heading: list[str] = []
    for column, cells in zip(table.headings(), found, strict=True):
        plain = " ".join(column.split())
        heading += [plain, f"{plain}, low", f"{plain}, high"] if any(cells) else [plain]
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    for i, row in enumerate(table.rows):
        line: list[str] = []
        for cell, cells in zip(row, found, strict=True):
            if interval := cells[i]:
                line += map(_plain, interval.groups())
            else:
                line += [_plain(cell), *(["", ""] if any(cells) else [])]
        writer.writerow(line)
    return text.getvalue()


def _plain(cell: str) -> str:
    if cell == MISSING:
        return ""
    return sort_value(cell) if _PLAIN.fullmatch(cell) else " ".join(cell.split())


_WRITERS: dict[str, Callable[[StudyResults, Table, str], str]] = {
    "latex": _latex,
    "csv": _csv,
    "md": lambda _, table, name: to_markdown(table),
}


def _figures(results: StudyResults, format: str, only: str | None) -> Iterator[tuple[str, bytes]]:
    """The figures of all kinds, or of the kind that has the only one."""
    kinds = [kind for kind in FIGURES if only is None or only == kind or only.startswith(f"{kind}-")]
    found = {
        f"{kind}-{part}" if part else kind: figure for kind in kinds for part, figure in FIGURES[kind](results).items()
    }
    if only is not None and only not in found:
        names = [f"{kind}-{part}" if part else kind for kind, draw in FIGURES.items() for part in draw(results)]
        raise UserError(unknown_name("figure", only, names))
    for name in [only] if only is not None else found:
        with warnings.catch_warnings(record=True) as lacking:
            warnings.simplefilter("always")
            content = found[name].file(format)  # type: ignore[arg-type]
        if lacking:
            progress.warn(f"{_file(name, format)}: the font has no signs for some characters; the SVG has them as text")
        yield _file(name, format), content
