"""The output of a check, and its exit status."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from uwc import progress
from uwc.cli.options import OUTPUT
from uwc.cli.printing import console, print_warnings
from uwc.errors import printable
from uwc.results import CheckResults

FAIL, UNDECIDED = 5, 6
"""Exit statuses of a check."""
SYMBOLS = {"met": "✓", "violated": "✗", "worse": "✗", "undecided": "?", "left out": "–"}
SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment variable with the file to which a step's summary is appended."""

Undecided = Annotated[
    Literal["pass", "fail"] | None,
    typer.Option(
        "--undecided",
        rich_help_panel=OUTPUT,
        help="The exit status of an undecided check: that of a pass (0) or of a fail (5). Default: 6.",
    ),
]
Redact = Annotated[
    bool, typer.Option("--redact", rich_help_panel=OUTPUT, help="Hide true answers and secrets on the page to sign.")
]


def exit_status(results: CheckResults, undecided: Literal["pass", "fail"] | None) -> int:
    """0 for a pass, 5 for a fail, 6 for an undecided check or what `undecided` takes it for."""
    as_status = {None: UNDECIDED, "pass": 0, "fail": FAIL}
    return {"pass": 0, "fail": FAIL, "undecided": as_status[undecided]}[results.verdict.outcome]


def finish_check(
    results: CheckResults, folder: Path, *, undecided: Literal["pass", "fail"] | None, as_json: bool
) -> None:
    """Print a check, append it to the summary of the step of a service, and end with its exit status.

    Args:
        results: the check.
        folder: the folder with its files.
        undecided: what an undecided check counts as; a status of its own by default.
        as_json: print check.json only.
    """
    from uwc.reports.check_folder import MARKDOWN

    if as_json:
        typer.echo(results.to_json(), nl=False)
    else:
        print_check(results, folder)
    if summary := os.environ.get(SUMMARY):
        _append(Path(summary), (folder / MARKDOWN).read_text(encoding="utf-8"))
    if status := exit_status(results, undecided):
        raise typer.Exit(status)


def print_check(results: CheckResults, folder: Path) -> None:
    """Print the requirements, the warnings, the files and the outcome."""
    from uwc.reports.format import print_table
    from uwc.reports.signoff import PAGE
    from uwc.reports.tables_check import requirements_table, verdict_words

    print_table(requirements_table(results, SYMBOLS), console())
    print_warnings(results.warnings)
    for count in results.secrets:
        typer.echo(printable(f"{count.set}: {count.words}"))
    typer.echo(printable(f"page to sign: {folder / PAGE}; results: {folder / CheckResults.FILE}"))
    verdict = results.verdict
    typer.echo(printable(f"{verdict.outcome.upper()} under the policy {verdict.policy}: {verdict_words(results)}"))


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        progress.warn(f"no summary: {SUMMARY}={path} cannot be written ({error.strerror})")
