"""Tables on standard output."""

import sys
from typing import Any

from rich.console import Console

from uwc.reports.tables import Table, print_table


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows of plain values as a table; columns that are empty everywhere are left out."""
    columns = [c for c in (rows[0] if rows else {}) if any(row[c] not in (None, "") for row in rows)]
    cells = tuple(tuple(_cell(row[c]) for c in columns) for row in rows)
    console = Console(width=None if sys.stdout.isatty() else 140)
    print_table(Table(title=title, columns=tuple(columns), rows=cells), console)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
