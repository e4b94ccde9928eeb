"""Numbers, intervals and names as text, and a plain table with its rendering in the terminal and in Markdown."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from textwrap import wrap
from typing import Any, TypeGuard

from pydantic import JsonValue
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from uwc.errors import printable
from uwc.results import MISSING as MISSING
from uwc.results import Aggregate, Difference, Estimate, MetricInfo, SeededScore, StudyResults

RETRAINED_MEANING = "trained like the original, but without the forget data"
RETRAINED_KNOWS_MEANING = (
    "retrained: it seems to know the forget questions (see the warnings), so that no difference from it is shown."
)
NOTHING = "nothing"
NOTHING_MEANING = f"{NOTHING}: nothing beyond the retrained model, which gives as much or more under the same attack."
SMALL = 0.001
"""Below it a number for whole sets (a p-value) is shown by its significant digits."""


def known(value: float | None) -> TypeGuard[float]:
    """Whether a number exists: neither None nor NaN."""
    return value is not None and not math.isnan(value)


def number(value: float | None, metric: MetricInfo | None = None) -> str:
    """A score as text: three decimals; three significant digits where the metric is averaged geometrically, or where it
    is one number for whole sets and close to 0; a dash where there is none."""
    if value is None or math.isnan(value):
        return MISSING
    if metric is not None and (metric.average == "geometric" or (metric.average == "set" and 0 < abs(value) < SMALL)):
        return significant(value)
    return f"{value:.3f}"


def significant(value: float) -> str:
    """Three significant digits: ``1.50``, ``12,300``, ``2.50e+07``."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 100 <= abs(rounded) < 1e6 else f"{rounded:#.3g}"


def with_interval(score: Aggregate | Estimate | SeededScore | None, metric: MetricInfo | None = None) -> str:
    """A value and its interval, ``0.212 [0.160, 0.270]``; the value alone if there is no interval."""
    if score is None:
        return MISSING
    text = number(score.value if isinstance(score, Estimate) else score.mean, metric)
    if not known(score.low) or not known(score.high):
        return text
    return f"{text} [{number(score.low, metric)}, {number(score.high, metric)}]"


def stacked(score: Aggregate | Estimate | SeededScore | None, metric: MetricInfo | None = None) -> str:
    """A value, and its interval in a second line."""
    return with_interval(score, metric).replace(" [", "\n[")


def with_error(score: Aggregate, metric: MetricInfo | None = None) -> str:
    """A mean and its standard error, ``0.212 ± 0.030``, and how many examples the metric does not apply to."""
    text = number(score.mean, metric)
    if known(score.se):
        text += f" ± {number(score.se, metric)}"
    return f"{text} ({score.not_scored} not scored)" if score.not_scored else text


def change(value: float, kind: str) -> str:
    """A difference with its sign, ``+0.150``, or a ratio, ``x 1.30``."""
    if not known(value):
        return MISSING
    return f"x {significant(value)}" if kind == "ratio" else f"{value:+.3f}"


def difference(found: Difference | None) -> str:
    """A difference or ratio with its interval, ``+0.150 [+0.100, +0.200]``."""
    if found is None:
        return MISSING
    text = change(found.mean, found.kind)
    if not known(found.low) or not known(found.high):
        return text
    return f"{text} [{', '.join(change(end, found.kind).removeprefix('x ') for end in (found.low, found.high))}]"


def over_cell(found: Difference | None, metric: MetricInfo | None, joint: str = " ") -> str:
    """A difference from the retrained model under the same attack; `NOTHING` in place of one that is not positive."""
    text = difference(found)
    if found is not None and found.excess(metric).value <= 0:
        text = f"{NOTHING}{text[text.index(' [') :] if ' [' in text else ''}"
    return text.replace(" [", f"{joint}[")


def average(values: Iterable[float], *, geometric: bool) -> float:
    """The arithmetic or geometric mean; NaN of nothing, and where the geometric mean does not exist."""
    found = list(values)
    if not found or (geometric and not all(value > 0 for value in found)):
        return float("nan")
    return math.exp(fmean(map(math.log, found))) if geometric else fmean(found)


def percentage(share: float | None) -> str:
    """A confidence as text, ``97.5%``; a dash where there is none."""
    return f"{share:.1%}" if known(share) else MISSING


def setting(value: JsonValue) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else MISSING if value is None else str(value)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""


def retention_bar(results: StudyResults) -> str:
    """The retention constraint in words, ``0.95 of the original's retain ES``; empty where nothing is calibrated."""
    if results.retention is None:
        return ""
    return f"{results.retention.tau:g} of the original's {listed(results.retention.measures)}"


def intervals(results: StudyResults) -> str:
    """The method of the intervals of residual scores, in words."""
    fixed = results.retention.without_interval if results.retention else ()
    how = "with the search for alpha repeated in each draw"
    if fixed and results.retention and len(fixed) == len(results.retention.measures):
        how = f"with alpha fixed, since {listed(fixed)} has no values by example to draw from"
    elif fixed:
        how += f" and {listed(fixed)} fixed"
    if results.retention and (normal := results.retention.by_standard_error):
        how += f"; {listed(normal)} by normal draws with its standard error"
    return f"95%, bootstrap over clusters, {how}"


@dataclass(frozen=True)
class Table:
    """A titled grid of strings; the first column names the row. A caption holds one remark a line.

    Attributes:
        models: the unlearned model that each row is about, ``""`` for none; empty for a table of other things.
        groups: (name, number of columns) of consecutive columns under one heading, ``""`` for none; may be empty.
        residual: the column of the residual forget score that models are ranked by; None without one.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    models: tuple[str, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()
    residual: int | None = None

    def group_of(self) -> list[str]:
        """For each column the name of its group; ``""`` without one."""
        return [name for name, count in self.groups for _ in range(count)] or [""] * len(self.columns)

    def headings(self) -> list[str]:
        """The names of the columns, with their groups before them."""
        return [
            f"{group}: {name}" if group else name for group, name in zip(self.group_of(), self.columns, strict=True)
        ]


def is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers, which line up on the right."""
    cells = [row[column] for row in table.rows]
    return all(
        cell[:1].isdigit() or cell[:1] in ("", "-", "+", MISSING, "∞") or cell.startswith(("x ", NOTHING))
        for cell in cells
    )


_FIRST = re.compile(r"(?:x )?([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)")
_TIMES = re.compile(r"([\d.]+) (h|min|s)\b")
_SECONDS = {"h": 3600, "min": 60, "s": 1}


def sort_value(cell: str) -> str:
    """The value by which a cell of numbers is sorted: the first of them, or the seconds; empty where there is none."""
    if cell.startswith("∞"):
        return "Infinity"
    if times := _TIMES.findall(cell):
        return f"{sum(float(value) * _SECONDS[unit] for value, unit in times):g}"
    found = _FIRST.match(cell)
    return found[1].replace(",", "").removeprefix("+") if found else ""


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with its title as a heading and its caption as a list below."""
    lines = [f"### {_markdown_cell(table.title)}", ""]
    alignment = ["---:" if is_numeric(table, i) else "---" for i in range(len(table.columns))]
    for row in (table.headings(), alignment, *table.rows):
        lines.append(f"| {' | '.join(_markdown_cell(cell) for cell in row)} |")
    remarks = [f"- {markdown_text(remark)}" for remark in table.caption.splitlines()]
    return "\n".join([*lines, "", *remarks]).rstrip() + "\n"


def markdown_text(text: str) -> str:
    """A text on one line of Markdown that reads as it is: marks of code, emphasis, links and HTML are escaped."""
    line = printable(" ".join(text.splitlines()))
    return _MARKS.sub(lambda found: f"\\{found[0]}", line).replace("<", "&lt;")


def markdown_code(text: str) -> str:
    """A text as code within a line of Markdown."""
    line = printable(" ".join(text.splitlines()))
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{ticks} {line} {ticks}" if "`" in line else f"`{line}`"


def _markdown_cell(cell: str) -> str:
    return "<br>".join(markdown_text(line).replace("|", "\\|") for line in cell.split("\n"))


_MARKS = re.compile(r"[\\`*~]|\](?=\()|(?<!\w)_|_(?!\w)")


def print_table(table: Table, console: Console) -> None:
    """Print the table to a rich console, its caption below it; groups of columns below each other where they are wider
    than the console together."""
    if table.groups:
        console.print(printable(table.title), style="bold", markup=False, highlight=False)
        widths = [_width(table, i) for i in range(len(table.columns))]
        groups = table.group_of()
        wide = sum(widths) + SEPARATION * len(widths) - 1 > console.width
        for group in dict.fromkeys(filter(None, groups)) if wide else [None]:
            shown = [i for i, of in enumerate(groups) if group is None or of in ("", group)]
            heads = _heads([groups[i] for i in shown], [widths[i] for i in shown])
            console.print(heads, markup=False, highlight=False, overflow="ignore", crop=False, no_wrap=True)
            console.print(_grid(table, shown, padding=(0, 1, 0, 0), show_edge=False))
    else:
        title = {"title": escape(printable(table.title)), "title_justify": "left", "title_style": "bold"}
        console.print(_grid(table, range(len(table.columns)), **title))
    for remark in table.caption.splitlines():
        console.print(printable(remark), style="dim", markup=False, highlight=False)


SEPARATION = 2
"""Columns between those of a table with groups."""


def _grid(table: Table, columns: Iterable[int], **look: Any) -> RichTable:
    """Some columns of a table for the terminal."""
    grid, columns = RichTable(box=SIMPLE_HEAD, **look), list(columns)
    for i in columns:
        justify: Any = "right" if is_numeric(table, i) else "left"
        grid.add_column(escape(printable(_header(table, i))), justify=justify, overflow="fold")
    for row in table.rows:
        grid.add_row(*(escape(printable(row[i])) for i in columns))
    return grid


def _header(table: Table, column: int) -> str:
    """The name of a column, wrapped to the width of its cells."""
    widest = max((cell_len(line) for row in table.rows for line in row[column].splitlines()), default=0)
    return "\n".join(wrap(table.columns[column], max(widest, 9), break_long_words=False))


def _width(table: Table, column: int) -> int:
    cells = (_header(table, column), *(row[column] for row in table.rows))
    return max(cell_len(line) for cell in cells for line in printable(cell).splitlines())


def _heads(groups: Sequence[str], widths: Sequence[int]) -> str:
    """The names of groups above their columns."""
    spans: list[tuple[str, int]] = []
    for group, width in zip(groups, widths, strict=True):
        if spans and spans[-1][0] == group:
            spans[-1] = group, spans[-1][1] + SEPARATION + width
        else:
            spans.append((group, width))
    lines = [f"{name} ".ljust(width, "─") if name else " " * width for name, width in spans]
    return (" " * SEPARATION).join(lines)
