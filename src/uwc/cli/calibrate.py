"""`uwc calibrate`: calibration of an unlearned model to the retention constraint."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    A_MODEL,
    MEASURED,
    OUTPUT,
    Columns,
    Device,
    Forget,
    IncludePath,
    Json,
    KeepPaths,
    LogTo,
    OutputDir,
    Overwrite,
    Plugins,
    Retains,
    RetentionTasks,
    Set,
    SkipInvalid,
    Tau,
    TrustRemoteCode,
    harness_settings,
    loading,
    question_settings,
    retain_files,
    sections,
)
from uwc.cli.printing import print_answers_page, print_rows
from uwc.errors import ConfigError
from uwc.paths import path_names, renaming

if TYPE_CHECKING:
    from uwc.results import CalibrationResults, Probe

_COLUMNS = ("set", "metric", "condition", "mean", "n", "not_scored", "clusters", "se", "low", "high")


def calibrate_command(
    original: Annotated[
        str, typer.Argument(metavar="ORIGINAL", help="The model before unlearning: a folder or hub name.")
    ],
    unlearned: Annotated[
        str,
        typer.Argument(metavar="UNLEARNED", help=f"The unlearned model: {A_MODEL}."),
    ],
    forget: Forget,
    retain: Retains = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    skip_invalid: SkipInvalid = False,
    tau: Tau = None,
    retention_task: RetentionTasks = [],  # noqa: B006
    harness_include_path: IncludePath = None,
    search_only: Annotated[
        bool,
        typer.Option(
            "--search-only",
            rich_help_panel=MEASURED,
            help="Search alpha only: faster, but without the score at exactly tau and its interval.",
        ),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, metavar="FOLDER", help="Folder for the calibrated model and its model card."
        ),
    ] = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    log_to: LogTo = [],  # noqa: B006
    keep_paths: KeepPaths = False,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
    trust_remote_code: TrustRemoteCode = False,
    device: Device = None,
) -> None:
    """Calibrate an unlearned model: find its largest mixture with the original that satisfies the retention constraint.

    Sections of --set: model, calibrate (metric, tasks, rank_by, resolution; with sets=[] tasks only), harness (limit,
    num_fewshot, chat), score.max_new_tokens, seed, and benchmark.settings.further.NAME=FILE for further sets
    (real_authors, world_facts).
    """
    from uwc.api import calibrate
    from uwc.cli.sections import CalibrateSections

    files = retain_files(retain)
    kept: dict[str, Any] = {"sets": list(files)} | ({} if tau is None else {"tau": tau})
    kept |= {"tasks": retention_task} if retention_task else {}
    given = sections(
        CalibrateSections,
        setting,
        {
            "calibrate": kept,
            **question_settings(column, skip_invalid=skip_invalid),
            **harness_settings(harness_include_path),
        },
        trust_remote_code=trust_remote_code,
        device=device,
    )

    if "samples" in given.score.model_fields_set:
        raise ConfigError("--set score.samples: calibration reads no sampled answers; leave them out")

    def show(results: "CalibrationResults") -> None:
        if as_json:
            typer.echo(results.to_json(), nl=False)
        else:
            _print(results)
            print_answers_page(output_dir)

    calibrate(
        original,
        unlearned,
        forget=forget,
        retain=files | given.benchmark.settings.further,
        retention=given.calibrate,
        harness=given.harness,
        columns=given.benchmark.settings.columns,
        skip_invalid=given.benchmark.settings.skip_invalid,
        max_new_tokens=given.score.max_new_tokens,
        curve=not search_only,
        seed=given.seed,
        save=save,
        command=shlex.join(["uwc", *_arguments(save, keep_paths)]),
        output_dir=output_dir,
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        shown=show,
        **loading(given.model),
    )


def _arguments(save: Path | None, keep_paths: bool) -> list[str]:
    """The arguments of the command, for the model card."""
    arguments = sys.argv[1:]
    return arguments if keep_paths else list(map(renaming(path_names(arguments, save)), arguments))


def _print(results: "CalibrationResults") -> None:
    found = results.calibration
    print_rows("probes", [_shown(probe) for probe in found.probes])
    print_rows("scores", [{name: _known(row[name]) for name in _COLUMNS} for row in results.rows()])
    for kept in found.kept:
        typer.echo(f"{kept.measure}: {kept.value:.3f}, {kept.ratio:.1%} of the original's {kept.original:.3f}")
    above = "" if found.alpha == 1 else f" (at alpha {found.upper:.4f} it is not)"
    forget = next(s for s in results.scores if (s.set, s.condition) == ("forget", "calibrated"))
    typer.echo(
        f"calibrated mixture: alpha {found.alpha:.4f}, forget {found.metric} {forget.mean:.3f}; the retention is at "
        f"least {found.tau:g}{above}; {found.passes:.1f} scoring passes"
    )
    if found.at_tau is None:
        typer.echo("Intervals are at this alpha; without --search-only the uncertainty of alpha is included.")
    else:
        at = found.at_tau.scores["forget"]
        typer.echo(
            f"at exactly {found.tau:g}: alpha {found.at_tau.alpha.value:.4f}, forget {found.metric} {at.value:.3f} "
            f"[{at.low:.3f}, {at.high:.3f}]; the interval includes the uncertainty of alpha"
        )
    if found.unchecked:
        points = ", ".join(f"{a:g}" for a in found.unchecked)
        typer.echo(f"not probed, as the limit of scoring passes was reached: alpha {points}")


def _known(value: Any) -> Any:
    """A cell; None for NaN."""
    return None if value != value else value


def _shown(probe: "Probe") -> dict[str, Any]:
    """A row of the table of probes."""
    return {
        "alpha": probe.alpha,
        "phase": probe.phase,
        "retention": probe.retention,
        "at least tau": "yes" if probe.feasible else "no",
        "examples": f"{probe.scored} of {probe.of}",
    }
