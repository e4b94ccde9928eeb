"""`uwc unlearn`: make a model forget."""

import json
from pathlib import Path
from typing import Annotated

import typer

from uwc import progress
from uwc.cli.options import (
    OUTPUT,
    SETTINGS,
    Columns,
    Forget,
    Json,
    Model,
    Plugins,
    Retain,
    file_columns,
    given_files,
    loading,
    sections,
)
from uwc.cli.printing import print_json


def unlearn_command(
    model: Model,
    method: Annotated[str, typer.Option(metavar="NAME", help="See: uwc list methods.")],
    forget: Forget,
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "-o", rich_help_panel=OUTPUT, metavar="FOLDER", help="Folder for the unlearned model."
        ),
    ],
    retain: Retain = None,
    column: Columns = [],  # noqa: B006
    as_json: Json = False,
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            rich_help_panel=SETTINGS,
            metavar="SECTION.KEY=VALUE",
            help="Any other setting, by the key of a run of a study: training.lr=1e-5, training.lora.rank=8, "
            "tricks.temperature=2, stop.at_most=0.2; or model.dtype=bfloat16. May be repeated.",
        ),
    ] = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads.

    Sections for --set: training, tricks, stop, model, benchmark.settings.refusals=FILE (one a line).
    """
    from uwc.cli.sections import UnlearnSections
    from uwc.data.columns import read_files
    from uwc.data.question_files import read_lines
    from uwc.data.refusals import DEFAULT_REFUSALS
    from uwc.workflows.unlearning import unlearn

    given = sections(UnlearnSections, setting, {"benchmark": {"settings": {"columns": file_columns(column)}}})
    settings = given.benchmark.settings
    questions = read_files(given_files(forget=forget, retain=retain), settings.columns)
    written = unlearn(
        model,
        output_dir,
        method=method,
        forget=questions["forget"],
        retain=questions.get("retain", ()),
        refusals=read_lines(settings.refusals) if settings.refusals else DEFAULT_REFUSALS,
        settings=given.training,
        tricks=given.tricks,
        stop=None if given.stop is None else given.stop.model_dump(),
        **loading(given.model),
    )
    if not progress.FIRST_PROCESS:
        return
    if as_json:
        log = json.loads((written / "training_log.json").read_text(encoding="utf-8"))
        print_json({"output_dir": str(written), **log})
    else:
        typer.echo(str(written))
