"""`uwc compare`: comparison of unlearned models at equal retention."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import (
    A_MODEL,
    ATTACKS,
    MODELS,
    OUTPUT,
    Columns,
    Device,
    Forget,
    Holdout,
    IncludePath,
    Json,
    KeepPaths,
    LogTo,
    Metrics,
    OriginalModel,
    Overwrite,
    Plugins,
    Precisions,
    Retains,
    RetentionTasks,
    Retrained,
    Set,
    SkipInvalid,
    Tasks,
    Tau,
    TrustRemoteCode,
    Verify,
    Workers,
    file_columns,
    retain_files,
)
from uwc.cli.printing import print_results
from uwc.errors import UserError

DEFAULT_FOLDER = Path("comparison")

Unlearned = Annotated[
    list[str],
    typer.Option(
        "--unlearned",
        rich_help_panel=MODELS,
        metavar="[NAME=]MODEL",
        help=f"An unlearned model: {A_MODEL}. Several may follow. Models named npo@0 and npo@1 are two seeds of one "
        "method.",
    ),
]
More = Annotated[list[str] | None, typer.Argument(metavar="[NAME=]MODEL", help="Further unlearned models.")]


def compare_command(
    original: OriginalModel,
    forget: Forget,
    retain: Retains,
    unlearned: Unlearned = [],  # noqa: B006
    more: More = None,
    retrained: Retrained = None,
    holdout: Holdout = None,
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    metric: Metrics = [],  # noqa: B006
    task: Tasks = [],  # noqa: B006
    tau: Tau = None,
    retention_task: RetentionTasks = [],  # noqa: B006
    harness_include_path: IncludePath = None,
    attack: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=ATTACKS,
            metavar="NAME",
            help="An attack, a precision (nf4) or a chain (relearn+probe). May be repeated. Default: quick ones; "
            "'none' for no attack.",
        ),
    ] = [],  # noqa: B006
    precision: Precisions = [],  # noqa: B006
    output_dir: Annotated[
        Path,
        typer.Option(
            "--output-dir",
            "-o",
            rich_help_panel=OUTPUT,
            metavar="FOLDER",
            help="Folder for the results and their cache; a rerun resumes.",
        ),
    ] = DEFAULT_FOLDER,
    overwrite: Overwrite = False,
    verify: Verify = False,
    workers: Workers = 1,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
) -> None:
    """Compare unlearned models at equal retention: residual forget scores with intervals, and recovery by attacks.

    Runs the shipped study `compare` with these options; `uwc study plan compare` shows its steps.
    """
    from uwc.workflows.comparison import compare, named_by_path

    models = [*unlearned, *(more or [])]
    if not models:
        raise UserError("there is no unlearned model to compare; give at least one with --unlearned")
    retention = ({} if tau is None else {"tau": tau}) | ({"tasks": retention_task} if retention_task else {})
    results = compare(
        original,
        named_by_path(models),
        forget=forget,
        retain=retain_files(retain),
        retrained=retrained,
        holdout=holdout,
        metrics=metric or "core",
        tasks=task,
        retention=retention,
        harness=None if harness_include_path is None else {"include_path": str(harness_include_path)},
        attacks=_attacks(attack),
        precisions=precision,
        columns=file_columns(column),
        skip_invalid=skip_invalid,
        overrides=overrides if device is None else [f"model.device={device}", *overrides],
        output_dir=output_dir,
        verify=verify,
        workers=workers,
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        trust_remote_code=trust_remote_code,
    )
    if as_json:
        typer.echo(results.to_json(), nl=False)
    else:
        from uwc.reports.tables import groups_table
        from uwc.reports.tables_attacks import precision_table, recovery_tables

        groups = [groups_table(results)] if results.groups else []
        deployed = [table] if (table := precision_table(results)) else []
        print_results(results, *groups, *(recovery_tables(results) if results.attacks else ()), *deployed)
        typer.echo(f"report: {output_dir / 'report.html'}")


def _attacks(named: list[str]) -> list[str] | str:
    """The attacks to carry out: the quick ones if none is named."""
    return [name for name in named if name != "none"] if named else "quick"
