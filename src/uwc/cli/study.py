"""`uwc study`: whole studies from one YAML file."""

from pathlib import Path
from typing import Annotated

import typer

from uwc import progress
from uwc.cli.options import (
    MACHINES,
    OUTPUT,
    RESUMED,
    AllowPlugins,
    Command,
    Json,
    KeepPaths,
    LogTo,
    Overwrite,
    Plugins,
    Set,
    TrustRemoteCode,
    Verify,
    Workers,
)
from uwc.cli.printing import print_estimate, print_results, print_rows
from uwc.errors import ConfigError

DIVERGED = 3
"""Exit status of a study in which a method diverged."""

study = typer.Typer(no_args_is_help=True, help="Run, plan or list studies, each described by one YAML file.")

Runs = Annotated[
    Path,
    typer.Option(
        "--output-dir",
        "-o",
        "--runs",
        rich_help_panel=OUTPUT,
        metavar="FOLDER",
        help=RESUMED,
    ),
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A YAML file, or the name of a shipped study.")]


@study.command("run", cls=Command)
def study_run(
    source: StudyName,
    runs: Runs = Path("runs"),
    overwrite: Overwrite = False,
    verify: Verify = False,
    log_to: LogTo = [],  # noqa: B006
    workers: Workers = 1,
    runner: Annotated[
        str,
        typer.Option(
            "--runner",
            rich_help_panel=MACHINES,
            metavar="local|ray",
            help="Compute the steps in processes of this machine, or as tasks of Ray.",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            rich_help_panel=MACHINES,
            metavar="ADDRESS",
            help="A cluster of Ray, such as auto or HOST:6379; without one Ray is started on this machine.",
        ),
    ] = None,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Run the missing steps of a study; print its table of results, the conclusion and the path of its report."""
    from uwc.studies.run import Runner
    from uwc.workflows.studies import run_study

    results = run_study(
        source,
        overrides=overrides,
        runs=runs,
        verify=verify,
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        runner=Runner(workers, runner, address),
        trust_remote_code=trust_remote_code,
        allow_plugins=allow_plugins,
    )
    if as_json:
        typer.echo(results.to_json(), nl=False)
    else:
        print_results(results)
        typer.echo(f"report: {runs / results.study.name / 'report.html'}")
    if diverged := [model.name for model in results.unlearned if model.status == "diverged"]:
        progress.note(f"diverged, and therefore not ranked: {', '.join(diverged)}")
        raise typer.Exit(DIVERGED)


@study.command("plan", cls=Command)
def study_plan(
    source: StudyName,
    runs: Runs = Path("runs"),
    slurm: Annotated[
        Path | None,
        typer.Option(
            "--slurm",
            rich_help_panel=MACHINES,
            metavar="FOLDER",
            help="Write job arrays of SLURM that run the missing steps to this folder.",
        ),
    ] = None,
    estimated: Annotated[
        bool,
        typer.Option(
            "--estimate",
            rich_help_panel=MACHINES,
            help="Print the operations, hours, disk and memory of the missing steps, and what to leave out first.",
        ),
    ] = False,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            rich_help_panel=MACHINES,
            metavar="NAME",
            help="With --estimate: cpu (the default), rtx4090, l40s, a100, h100, h200, or here, which is measured.",
        ),
    ] = None,
    as_json: Json = False,
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Print the steps of a study with their status or their cost, or write scripts that run them on a cluster."""
    from uwc.workflows.studies import estimate_study, plan_study, slurm_scripts

    if machine is not None and not estimated:
        raise ConfigError(f"--machine {machine} has an effect with --estimate only; add it, or leave --machine out")
    if estimated and slurm is not None:
        raise ConfigError("--estimate and --slurm exclude each other; leave one of them out")
    if estimated:
        found = estimate_study(
            source,
            machine=machine or "cpu",
            overrides=overrides,
            runs=runs,
            trust_remote_code=trust_remote_code,
            allow_plugins=allow_plugins,
        )
        print_estimate(found, as_json)
        return
    if slurm is not None:
        scripts = slurm_scripts(
            source,
            slurm,
            overrides=overrides,
            runs=runs,
            plugins=plugin,
            trust_remote_code=trust_remote_code,
            allow_plugins=allow_plugins,
        )
        print_rows(f"jobs of {source}", [{"script": str(path)} for path in scripts], as_json)
        progress.note(f"submit them with: {scripts[0]}")
        return

    steps = plan_study(
        source, overrides=overrides, runs=runs, trust_remote_code=trust_remote_code, allow_plugins=allow_plugins
    )
    print_rows(f"steps of {source}", steps, as_json)


@study.command("step", cls=Command)
def study_step(
    source: StudyName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The step's key, its first 8 digits or more, or its name.")],
    runs: Runs = Path("runs"),
    overrides: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    allow_plugins: AllowPlugins = False,
) -> None:
    """Run one step of a study, whose inputs are complete: the job of a cluster."""
    from uwc.workflows.studies import run_one_step

    done = run_one_step(
        source, key, overrides=overrides, runs=runs, trust_remote_code=trust_remote_code, allow_plugins=allow_plugins
    )
    typer.echo(f"{done.outcome}: {done.name}{' (from the cache)' if done.reused else ''}")


@study.command("list", cls=Command)
def study_list(as_json: Json = False) -> None:
    """List the shipped studies."""
    from uwc.studies.config_file import shipped_studies

    rows = [{"name": name, "title": title} for name, title in shipped_studies().items()]
    print_rows("shipped studies", rows, as_json)
