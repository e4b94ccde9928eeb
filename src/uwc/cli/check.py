"""`uwc check`: one checkpoint against a policy, for a signature or a gate in continuous integration."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import (
    MEASURED,
    MODELS,
    OUTPUT,
    Columns,
    Forget,
    Holdout,
    Json,
    KeepPaths,
    Overwrite,
    Plugins,
    Retains,
    Retrained,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    Verify,
    file_columns,
    retain_files,
)
from uwc.cli.verdicts import Redact, Undecided, finish_check

DEFAULT_FOLDER = Path("checks")


def check_command(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="[NAME=]CHECKPOINT", help="The unlearned model: a folder, a hub name or the folder of an adapter."
        ),
    ],
    original: Annotated[
        str, typer.Option(rich_help_panel=MODELS, metavar="MODEL", help="The model before unlearning.")
    ],
    forget: Forget,
    retain: Retains,
    retrained: Retrained = None,
    holdout: Holdout = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    policy: Annotated[
        str,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="NAME",
            help="The requirements: a shipped policy (see: uwc list policies) or a YAML file.",
        ),
    ] = "standard",
    baseline: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="FILE",
            help="The check.json of an earlier check of the same questions: a significantly worse number fails.",
        ),
    ] = None,
    undecided: Undecided = None,
    redact: Redact = False,
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "-o",
            rich_help_panel=OUTPUT,
            metavar="FOLDER",
            help="Folder for the results, in FOLDER/NAME, and the cache of all checks there; a rerun resumes.",
        ),
    ] = DEFAULT_FOLDER,
    overwrite: Overwrite = False,
    verify: Verify = False,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Check a model as delivered against a policy. Exit status: 0 pass, 5 fail, 6 undecided, 1 for an error.

    Writes check.json, check.xml (JUnit), check.md and signoff.html. Runs the shipped study `check`.
    """
    from uwc.workflows.checking import check, folder_of_check

    results = check(
        checkpoint,
        original=original,
        forget=forget,
        retain=retain_files(retain),
        retrained=retrained,
        holdout=holdout,
        policy=policy,
        baseline=baseline,
        columns=file_columns(column),
        skip_invalid=skip_invalid,
        redact=redact,
        undecided=undecided,
        overrides=overrides,
        output_dir=output_dir,
        verify=verify,
        overwrite=overwrite,
        keep_paths=keep_paths,
        trust_remote_code=trust_remote_code,
    )
    folder = folder_of_check(checkpoint, output_dir)
    finish_check(results, folder, undecided=undecided, as_json=as_json)
