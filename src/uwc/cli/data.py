"""`uwc data`: description of question files."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import (
    MODELS,
    Columns,
    Json,
    OutputDir,
    SetOfFew,
    SkipInvalid,
    TrustRemoteCode,
    file_columns,
    named_files,
    sections,
)
from uwc.cli.printing import print_rows, print_warnings
from uwc.errors import ConfigError, DataError


def data_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Question files: JSONL, JSON, CSV, TSV or Parquet.")
    ],
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    model: Annotated[
        str | None,
        typer.Option(rich_help_panel=MODELS, metavar="MODEL", help="A model whose tokens are counted."),
    ] = None,
    output_dir: OutputDir = None,
    as_json: Json = False,
    setting: SetOfFew = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Check and describe question files: invalid rows, repetitions, clusters, lengths and scripts.

    The exit status is not 0 if a row is invalid. Sections of --set: model (prompt).
    """
    from uwc.results import DataSummary
    from uwc.workflows.questions import describe_questions

    DataSummary.prepare(output_dir, overwrite=True)
    if model is None and (setting or trust_remote_code):
        raise ConfigError(
            "--set and --trust-remote-code are for the model whose tokens are counted; give --model MODEL"
        )
    given = None
    if model is not None:
        from uwc.cli.sections import DataSections

        given = sections(DataSections, setting, trust_remote_code=trust_remote_code).model.loading()
    found = describe_questions(
        named_files(files, taken=()),
        model=model,
        columns=file_columns(column),
        prompt=None if given is None else given.prompt,
        trust_remote_code=trust_remote_code,
    )
    if output_dir is not None:
        found.save(output_dir)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        print_rows("questions", found.table())
        if rows := list(found.rows()):
            print_rows("invalid rows", [dict(row) for row in rows])
        print_warnings(found.warnings)
    wrong = [s.invalid_rows for s in found.sets.values() if s.invalid_rows.invalid]
    for rows_of in wrong:
        if not skip_invalid or rows_of.too_many:
            fix = "correct them" if rows_of.too_many else "correct them, or leave them out with --skip-invalid"
            raise DataError(f"{rows_of.file}: {rows_of.invalid} of {rows_of.rows} {rows_of.unit}s are invalid; {fix}")
