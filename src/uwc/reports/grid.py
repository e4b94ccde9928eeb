"""A plain table, and how it looks in the terminal and in Markdown."""

from dataclasses import dataclass
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from uwc.reports.words import MISSING


@dataclass(frozen=True)
class Table:
    """A titled grid of strings; the first column names the row. A caption holds one remark a line."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, which line up on the right."""
    cells = [row[column] for row in table.rows]
    return all(cell[:1].isdigit() or cell[:1] in ("", "-", MISSING, "∞") for cell in cells)


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its title as a heading and its caption as a list below."""
    lines = [f"### {_markdown_cell(table.title)}", ""]
    alignment = ["---:" if is_numeric(table, i) else "---" for i in range(len(table.columns))]
    for row in (table.columns, alignment, *table.rows):
        lines.append(f"| {' | '.join(_markdown_cell(cell) for cell in row)} |")
    remarks = [f"- {remark}" for remark in table.caption.splitlines()]
    return "\n".join([*lines, "", *remarks]).rstrip() + "\n"


def _markdown_cell(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", "<br>")


def print_table(table: Table, console: Console) -> None:
    """Prints the table to a rich console, its caption below it."""
    grid = RichTable(title=escape(table.title), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(table.columns):
        widest = max((len(line) for row in table.rows for line in row[i].splitlines()), default=0)
        header = "\n".join(wrap(column, max(widest, 9), break_long_words=False))
        grid.add_column(escape(header), justify="right" if is_numeric(table, i) else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)
    for remark in table.caption.splitlines():
        console.print(remark, style="dim", markup=False, highlight=False)
