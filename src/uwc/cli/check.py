"""`uwc check`: one checkpoint against a policy, for a signature or a gate in continuous integration."""

from pathlib import Path
from typing import Annotated, Any

import typer

from uwc.cli.options import (
    A_MODEL,
    MEASURED,
    OUTPUT,
    RESUMED,
    TEXTS_INSTEAD,
    BeforeFile,
    Columns,
    EndpointAttacks,
    EndpointModel,
    EndpointUrl,
    ForgetOrTexts,
    Holdout,
    Json,
    KeepPaths,
    OriginalOrTexts,
    OutputsFile,
    Overwrite,
    Plugins,
    Precisions,
    Retains,
    RetrainedOrTexts,
    Set,
    SkipInvalid,
    TrustRemoteCode,
    UnderFiles,
    Verify,
    Workers,
    endpoint_of,
    file_columns,
    one_system,
    retain_files,
    sections,
    texts_under,
)
from uwc.cli.verdicts import Redact, Undecided, finish_check
from uwc.errors import UserError

DEFAULT_FOLDER = Path("checks")
OF_ENDPOINT = ("endpoint.", "attack.", "score.max_new_tokens=")
"""The beginnings of settings of an endpoint and of the attacks on it."""


def check_command(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME=]CHECKPOINT",
            help=f"The unlearned model: {A_MODEL}; {TEXTS_INSTEAD}.",
        ),
    ] = None,
    original: OriginalOrTexts = None,
    forget: ForgetOrTexts = None,
    retain: Retains = [],  # noqa: B006
    retrained: RetrainedOrTexts = None,
    outputs: OutputsFile = None,
    before: BeforeFile = None,
    under: UnderFiles = [],  # noqa: B006
    endpoint: EndpointUrl = None,
    endpoint_model: EndpointModel = None,
    attack: EndpointAttacks = [],  # noqa: B006
    holdout: Holdout = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    policy: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MEASURED,
            metavar="NAME",
            help="The requirements: a shipped policy (`uwc list policies`) or a YAML file. Default: standard; texts "
            "with --outputs or --endpoint.",
        ),
    ] = None,
    precision: Precisions = [],  # noqa: B006
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
            help=RESUMED,
        ),
    ] = DEFAULT_FOLDER,
    overwrite: Overwrite = False,
    verify: Verify = False,
    workers: Workers = 1,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Check a model as delivered, or texts, against a policy. Exit status: 0 pass, 5 fail, 6 undecided, 1 for an error.

    Writes check.json, check.xml (JUnit), check.md and signoff.html. Runs the shipped study `check`.
    """
    from uwc.cli.sections import EndpointSections
    from uwc.data.outputs import Outputs
    from uwc.models.endpoint import Endpoint
    from uwc.workflows.checking import check, folder_of_check

    checked: str | Outputs | Endpoint
    models: dict[str, Any]
    server, attacks = None, dict[str, Any]()
    asked = [setting for setting in overrides if setting.startswith(OF_ENDPOINT)]
    if endpoint is not None or endpoint_model is not None or attack:
        server, attacks = endpoint_of(endpoint, endpoint_model, attack, sections(EndpointSections, asked))
        overrides = [setting for setting in overrides if setting not in asked]
    system = one_system(outputs, server)
    if system is not None:
        if checkpoint is not None or original is not None:
            raise UserError(
                "--outputs and --endpoint take the place of a model; leave CHECKPOINT and --original out, see --before"
            )
        checked = system
        given = {"original": before, "retrained": retrained}
        models = {name: None if file is None else Outputs(file) for name, file in given.items()}
        models["under"] = {**attacks, **texts_under(under)}
    elif checkpoint is None or original is None or forget is None or not retain:
        raise UserError(
            "give CHECKPOINT with --original MODEL, --forget FILE and --retain FILE, texts with --outputs FILE, or "
            "a server with --endpoint URL"
        )
    elif before is not None or under:
        raise UserError("--before and --under are for texts; give --outputs FILE, or leave them out")
    else:
        checked, models = checkpoint, {"original": original, "retrained": retrained}
    results = check(
        checked,
        **models,
        forget=forget,
        retain=retain_files(retain) or None,
        holdout=holdout,
        policy=policy,
        precisions=precision,
        baseline=baseline,
        columns=file_columns(column),
        skip_invalid=skip_invalid,
        redact=redact,
        undecided=undecided,
        overrides=overrides,
        output_dir=output_dir,
        verify=verify,
        workers=workers,
        overwrite=overwrite,
        keep_paths=keep_paths,
        trust_remote_code=trust_remote_code,
    )
    folder = folder_of_check(checked, output_dir)
    finish_check(results, folder, undecided=undecided, as_json=as_json)
