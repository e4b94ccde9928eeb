"""`uwc unlearn`: unlearning of questions from a model."""

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
    KeepPaths,
    LogTo,
    Model,
    Overwrite,
    Plugins,
    Retain,
    SkipInvalid,
    TrustRemoteCode,
    loading,
    question_settings,
    sections,
)
from uwc.errors import TrainingDiverged


def unlearn_command(
    model: Model,
    method: Annotated[str, typer.Option(metavar="NAME", help="The method (`uwc list methods`).")],
    forget: Forget,
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir", "-o", rich_help_panel=OUTPUT, metavar="FOLDER", help="Folder for the unlearned model."
        ),
    ],
    retain: Retain = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    overwrite: Overwrite = False,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Annotated[
        list[str],
        typer.Option(
            "--set",
            rich_help_panel=SETTINGS,
            metavar="SECTION.KEY=VALUE",
            help="Any other setting, by its key in a run of a study: training.lr=1e-5, training.lora.rank=8, "
            "tricks.temperature=2, stop.at_most=0.2; or model.dtype=bfloat16. May be repeated. All keys: `uwc schema "
            "study`.",
        ),
    ] = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads.

    Sections of --set: training, tricks, stop, weights, settings and roles (of terms), rule, model, and
    benchmark.settings.refusals=FILE (a refusal on each line).
    """
    from uwc.api import unlearn
    from uwc.cli.sections import UnlearnSections
    from uwc.data.benchmark import DEFAULT_REFUSALS
    from uwc.data.question_files import read_lines

    given = sections(
        UnlearnSections,
        setting,
        question_settings(column, skip_invalid=skip_invalid),
        trust_remote_code=trust_remote_code,
    )
    files = given.benchmark.settings
    result = unlearn(
        model,
        given.method(method),
        forget=forget,
        retain=retain or (),
        training=given.training,
        tricks=given.tricks,
        stop=None if given.stop is None else given.stop.model_dump(),
        refusals=read_lines(files.refusals) if files.refusals else DEFAULT_REFUSALS,
        columns=files.columns,
        skip_invalid=files.skip_invalid,
        output_dir=output_dir,
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        **loading(given.model),
    )
    if progress.first_process():
        typer.echo(result.to_json() if as_json else output_dir, nl=not as_json)
    if result.status == "diverged":
        raise TrainingDiverged(result.message, step=result.diverged or 0, term=result.term)
