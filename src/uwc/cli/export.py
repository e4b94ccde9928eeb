"""`uwc export`: tables and figures for papers."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import OUTPUT
from uwc.errors import UserError


def export_command(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The results.json of a study, or its folder.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="latex, csv or md for tables; svg or pdf for figures.")],
    table: Annotated[str | None, typer.Option(metavar="NAME", help="One table, such as results or ranking.")] = None,
    figure: Annotated[str | None, typer.Option(metavar="NAME", help="One figure, such as tradeoff.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=OUTPUT,
            metavar="PATH",
            help="The folder of the files, or with --table or --figure the file; without it one table or SVG is "
            "printed.",
        ),
    ] = None,
) -> None:
    """Export the tables (LaTeX with booktabs, CSV, Markdown) or the figures (SVG, PDF) of a study for a paper."""
    from uwc.reports.export import export

    one = table is not None or figure is not None
    if output is None and (not one or format == "pdf"):
        raise UserError(f"name {'a file' if one else 'a folder'} for the output with -o")
    made = export(results, format, table=table, figure=figure, output=output)  # type: ignore[arg-type]
    if output is None:
        typer.echo(b"".join(made.values()).decode("utf-8"), nl=False)
    else:
        typer.echo(str(output) if one else f"{len(made)} files in {output}: {', '.join(made)}")
