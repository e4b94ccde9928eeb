"""Tables and JSON on standard output."""

import json
import sys
from typing import Any

import typer
from rich.console import Console

from uwc.io import finite
from uwc.reports.format import Table, print_table


def print_rows(title: str, rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """Print rows of plain values as JSON, or as a table without the columns that are empty everywhere."""
    if as_json:
        print_json(rows)
        return
    columns = [c for c in (rows[0] if rows else {}) if any(row[c] not in (None, "") for row in rows)]
    cells = tuple(tuple(_cell(row[c]) for c in columns) for row in rows)
    print_table(Table(title=title, columns=tuple(columns), rows=cells), console())


def print_json(value: Any) -> None:
    """Print plain data as JSON, and nothing else; None stands for NaN and infinities."""
    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False))


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
