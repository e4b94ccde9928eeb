"""Tables and JSON on standard output."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from uwc.errors import printable
from uwc.io import finite
from uwc.reports.format import Table, print_table
from uwc.results import attack_table, number_text

if TYPE_CHECKING:
    from uwc.results import Scores, StudyResults, Warning
    from uwc.studies.estimate import Estimate


def print_rows(title: str, rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """Print rows of plain values as JSON, or as a table without the columns that are empty everywhere."""
    if as_json:
        print_json(rows)
        return
    columns = [c for c in (rows[0] if rows else {}) if any(row[c] not in (None, "") for row in rows)]
    cells = tuple(tuple(_cell(row[c]) for c in columns) for row in rows)
    print_table(Table(title=title, columns=tuple(columns), rows=cells), console())


def print_estimate(found: "Estimate", as_json: bool = False) -> None:
    """Print the cost of a study as JSON, or as a table by kind of step and what to leave out first."""
    if as_json:
        print_json(found.to_dict())
        return
    unit = "GPU hours" if found.machine.device == "cuda" else "hours"
    rows = [
        {
            "kind": cost.kind,
            "steps": cost.steps,
            "TFLOP": f"{cost.tflop:.3g}",
            unit: f"{cost.hours:.3g}",
            "share": f"{cost.share:.0%}",
            "disk GB": f"{cost.disk_gb:.3g}",
            "peak GB": f"{cost.memory_gb:.3g}",
            "devices": cost.devices,
        }
        for cost in (*found.kinds, found.total)
    ]
    print_rows(f"estimated cost of {found.study} on {found.machine.name}, {found.parameters:,} parameters", rows)
    typer.echo(f"{found.path_hours:.3g} hours with any number of workers: the longest chain of steps")
    saved = [
        {"leave out first": s.what, "key": s.how, unit: f"{s.hours:.3g}", "share": f"{s.share:.0%}"}
        for s in found.leave_out
    ]
    if saved:
        print_rows("what saves most, each taken alone", saved)


def print_scores(scores: "Scores", title: str, as_json: bool) -> None:
    """Print scores, and the differences from another model where there are any, as JSON or as tables."""
    if as_json:
        typer.echo(scores.to_json(), nl=False)
        return
    print_rows(title, [_with_reasons(row) for row in scores.rows()])
    for count in scores.secrets:
        typer.echo(printable(f"{count.set}: {count.words}"))
    for curve in scores.leaks:
        typer.echo(printable(f"{curve.set}: {curve.words}"))
    if scores.leaks:
        print_rows("Leakage of k sampled answers", [dict(row) for row in scores.leak_rows()])
    if scores.differences:
        print_rows(f"{scores.model} minus {scores.compared_with}", [dict(row) for row in scores.difference_rows()])
    if scores.attacks is not None:
        print_rows(f"{scores.model} under attack", [dict(row) for row in attack_table(scores.attacks)])
    if scores.kind != "checkpoint":
        for lacking in dict.fromkeys(scores.left_out.values()):
            names = ", ".join(name for name, reason in scores.left_out.items() if reason == lacking)
            typer.echo(printable(f"Left out, since they need {lacking}: {names}"))


def _with_reasons(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of scores for the table: the reasons of missing values beside their number."""
    why = "; ".join(row["why"])
    missing = f"{row['not_scored']} ({why})" if why else str(row["not_scored"])
    return {k: v for k, v in row.items() if k != "why"} | {"not_scored": missing}


def print_warnings(warnings: "Iterable[Warning]") -> None:
    """Print the warnings on results, one a line."""
    for warning in warnings:
        typer.echo(printable(f"Warning: {warning.text}"))


def print_results(results: "StudyResults", *tables: Table) -> None:
    """Print the table of a study's results, further tables, the conclusion in sentences, the warnings, and the verdict
    on each model under each policy."""
    from uwc.reports.tables import indistinct, result_table, summary, tau_words, verdict_lines
    from uwc.reports.tables_attacks import recovery_words

    for table in (result_table(results), *tables):
        print_table(table, console())
    under_attack = recovery_words(results) if results.attacks else []
    for sentence in filter(None, [*summary(results), indistinct(results), *tau_words(results), *under_attack]):
        typer.echo(printable(sentence))
    print_warnings(results.warnings)
    for line in verdict_lines(results):
        typer.echo(printable(line))


def print_answers_page(folder: Path | None) -> None:
    """Print the path of the answers page, if one was written to a folder."""
    from uwc.reports.answers_page import PAGE

    if folder is not None and (folder / PAGE).exists():
        typer.echo(printable(f"answers: {folder / PAGE}"))


def print_json(value: Any) -> None:
    """Print plain data as JSON, and nothing else; None stands for NaN and infinities."""
    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False))


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else 140)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return number_text(value) if isinstance(value, float) else str(value)
