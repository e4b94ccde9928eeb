"""`uwc study`: whole studies from one YAML file."""

from pathlib import Path
from typing import Annotated

import typer

from uwc import progress
from uwc.commands.options import Json
from uwc.commands.printing import console, print_rows

DIVERGED = 3
"""Exit status of a study in which a method diverged."""

study = typer.Typer(no_args_is_help=True, help="Run a whole study from one YAML file.")

Runs = Annotated[Path, typer.Option(help="Folder where results are kept and found again.")]
Set = Annotated[
    list[str], typer.Option("--set", help="Change a key of the file: calibrate.tau=0.9", metavar="KEY=VALUE")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or a shipped study's name.")]


@study.command("run")
def study_run(source: StudyName, overrides: Set = [], runs: Runs = Path("runs"), as_json: Json = False) -> None:  # noqa: B006
    """Run what is missing of a study, then print its result table and the path of its report."""
    from uwc.reports.format import print_table
    from uwc.reports.tables_results import result_table
    from uwc.workflows.studies import run_study

    outcome = run_study(source, overrides=overrides, runs=runs)
    if as_json:
        typer.echo(outcome.results.to_json(), nl=False)
    else:
        print_table(result_table(outcome.results), console())
        typer.echo(f"report: {outcome.report}")
    if outcome.diverged:
        progress.note(f"diverged, and left out of the ranking: {', '.join(outcome.diverged)}")
        raise typer.Exit(DIVERGED)


@study.command("plan")
def study_plan(source: StudyName, overrides: Set = [], runs: Runs = Path("runs"), as_json: Json = False) -> None:  # noqa: B006
    """Show the steps of a study and which of them are done."""
    from uwc.workflows.studies import plan_study

    steps = plan_study(source, overrides=overrides, runs=runs)
    print_rows(f"steps of {source}", steps, as_json)


@study.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies that come with the package."""
    from uwc.studies.config_file import load_config, shipped_configs

    rows = [{"name": name, "title": load_config(name).title} for name in shipped_configs()]
    print_rows("shipped studies", rows, as_json)
