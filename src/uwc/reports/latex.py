"""A table in LaTeX, with the rules of the package booktabs."""

import re
from collections.abc import Collection
from textwrap import wrap

from uwc.errors import printable
from uwc.reports.format import Table, is_numeric

_SPECIAL = {character: f"\\{character}" for character in "{}%$&#_"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\u00a0": "~",
    "—": "---",
    "–": "--",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "∞": r"$\infty$",
    "−": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
}
_CHARACTER = re.compile("|".join(map(re.escape, _SPECIAL)))
_INTERVAL = re.compile(r" ?(\[[-+$\d][^\[\]]*, [-+$\d][^\[\]]*\])")
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")
_HEADING = 16
"""Characters of a line in a column's heading."""
BEST, TIED = "Bold: the best.", r"$^{\dagger}$: not significantly different from the best."


def latex_text(text: str) -> str:
    """A text on one line of LaTeX that reads as it is."""
    line = printable(" ".join(text.split()))
    return _CHARACTER.sub(lambda found: _SPECIAL[found[0]], line)


def to_latex(table: Table, name: str, *, best: Collection[int] = (), tied: Collection[int] = ()) -> str:
    """The table as a floating ``table`` with its remarks as comments; its intervals are small.

    Args:
        table: the table.
        name: its label is ``tab:NAME``.
        best: the rows whose value in the residual column is bold.
        tied: the rows whose value in that column has a dagger.
    """
    numeric = [is_numeric(table, column) for column in range(len(table.columns))]
    legend = [*([BEST] if best else []), *([TIED] if tied else [])]
    heading = " & ".join(map(_heading, table.columns))
    body = []
    for i, row in enumerate(table.rows):
        cells = [_cell(cell, numeric[column]) for column, cell in enumerate(row)]
        if table.residual is not None and i in {*best, *tied}:
            value, *rest = cells[table.residual].split(" ", 1)
            marked = rf"\textbf{{{value}}}" if i in best else rf"{value}$^{{\dagger}}$"
            cells[table.residual] = " ".join([marked, *rest])
        line = " & ".join(cells)
        body.append(f"    {'{}' if line.startswith(('[', '*')) else ''}{line} \\\\")
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}[t]",
        r"  \centering",
        f"  \\caption{{{' '.join([latex_text(table.title) + '.', *legend])}}}",
        f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9-]+', '-', name)}}}",
        r"  \small",
        f"  \\begin{{tabular}}{{{''.join('r' if number else 'l' for number in numeric)}}}",
        r"    \toprule",
        *_groups(table),
        f"    {heading} \\\\",
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        *(f"% {printable(remark)}" for remark in table.caption.splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _groups(table: Table) -> list[str]:
    """The line of the groups of columns, with a rule below each; none without groups."""
    if not table.groups:
        return []
    names, rules, first = [], [], 1
    for name, count in table.groups:
        names.append(rf"\multicolumn{{{count}}}{{c}}{{{latex_text(name)}}}")
        rules += [rf"\cmidrule(lr){{{first}-{first + count - 1}}}"] if name else []
        first += count
    return [f"    {' & '.join(names)} \\\\", f"    {' '.join(rules)}"]


def _heading(text: str) -> str:
    lines = [latex_text(line) for part in text.split("\n") for line in wrap(part, _HEADING, break_long_words=False)]
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]
    stacked = r" \\ ".join(lines)
    return rf"\shortstack{{{stacked}}}" if len(lines) > 1 else stacked


def _cell(cell: str, number: bool) -> str:
    """A cell on one line: intervals, and what follows on further lines, are small."""
    first, *more = [latex_text(line) for line in cell.split("\n")]
    if number:
        first, *more = [_MINUS.sub("$-$", line) for line in (first, *more)]
    first = _INTERVAL.sub(r" {\\scriptsize \1}", first)
    return " ".join([first, *(rf"{{\scriptsize {line}}}" for line in more if line)])
