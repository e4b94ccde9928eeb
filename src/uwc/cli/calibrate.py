"""`uwc calibrate`: how much of an unlearned model keeps the original's retention."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.cli.options import (
    MEASURED,
    OUTPUT,
    Columns,
    Forget,
    Json,
    OutputDir,
    Plugins,
    Retains,
    Set,
    Tau,
    file_columns,
    loading,
    retain_files,
    sections,
)
from uwc.cli.printing import print_rows

if TYPE_CHECKING:
    from uwc.results import CalibrationResults, Probe

_COLUMNS = ("set", "metric", "condition", "mean", "n", "not_scored", "clusters", "se", "low", "high")


def calibrate_command(
    original: Annotated[str, typer.Argument(help="The model before unlearning: a folder or hub name.")],
    unlearned: Annotated[str, typer.Argument(help="The model after unlearning, or a LoRA adapter on the original.")],
    forget: Forget,
    retain: Retains = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    tau: Tau = None,
    search_only: Annotated[
        bool,
        typer.Option(
            "--search-only",
            rich_help_panel=MEASURED,
            help="Search alpha alone: faster, without the score at tau and its interval.",
        ),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, metavar="FOLDER", help="Folder for the calibrated model and its card."),
    ] = None,
    output_dir: OutputDir = None,
    as_json: Json = False,
    setting: Set = [],  # noqa: B006
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Mix an unlearned model with its original until it keeps `tau` of the retention; how much is forgotten then?

    Sections for --set: model, calibrate (metric, tasks=[mmlu], rank_by, resolution; sets=[] keeps the tasks alone),
    score.max_new_tokens, seed, and benchmark.settings.further.NAME=FILE for further sets (real_authors, world_facts).
    """
    from uwc.api import calibrate
    from uwc.cli.sections import CalibrateSections

    files = retain_files(retain)
    kept: dict[str, Any] = {"sets": list(files)} | ({} if tau is None else {"tau": tau})
    given = sections(
        CalibrateSections,
        setting,
        {"calibrate": kept, "benchmark": {"settings": {"columns": file_columns(column)}}},
    )
    results = calibrate(
        original,
        unlearned,
        forget=forget,
        retain=files | given.benchmark.settings.further,
        retention=given.calibrate,
        columns=given.benchmark.settings.columns,
        max_new_tokens=given.score.max_new_tokens,
        curve=not search_only,
        seed=given.seed,
        save=save,
        command=shlex.join(["uwc", *sys.argv[1:]]),
        output_dir=output_dir,
        **loading(given.model),
    )
    if as_json:
        typer.echo(results.to_json(), nl=False)
    else:
        _print(results)


def _print(results: "CalibrationResults") -> None:
    found = results.calibration
    print_rows("probes", [_shown(probe) for probe in found.probes])
    print_rows("scores", [{name: _known(row[name]) for name in _COLUMNS} for row in results.rows()])
    for kept in found.kept:
        typer.echo(f"{kept.measure}: {kept.value:.3f}, {kept.ratio:.1%} of the original's {kept.original:.3f}")
    above = "" if found.alpha == 1 else f", {found.upper:.4f} does not"
    forget = next(s for s in results.scores if (s.set, s.condition) == ("forget", "calibrated"))
    typer.echo(
        f"alpha {found.alpha:.4f} keeps at least {found.tau:g} of each{above}; forget {found.metric} is then "
        f"{forget.mean:.3f}; found in {found.passes:.1f} scoring passes"
    )
    if found.at_tau is None:
        typer.echo("The intervals are those at this alpha; without --search-only there are those through alpha, too.")
    else:
        at = found.at_tau.scores["forget"]
        typer.echo(
            f"at exactly {found.tau:g}: alpha {found.at_tau.alpha.value:.4f}, forget {found.metric} {at.value:.3f} "
            f"[{at.low:.3f}, {at.high:.3f}], with the uncertainty of alpha in the interval"
        )
    if found.unchecked:
        points = ", ".join(f"{a:g}" for a in found.unchecked)
        typer.echo(f"not probed, as it would have taken too many passes: alpha {points}")


def _known(value: Any) -> Any:
    """A cell; empty for NaN."""
    return None if value != value else value


def _shown(probe: "Probe") -> dict[str, Any]:
    """A probe for the table: on how many examples it was decided."""
    return {
        "alpha": probe.alpha,
        "why": probe.phase,
        "retention": probe.retention,
        "enough": "yes" if probe.feasible else "no",
        "decided on": f"{probe.scored} of {probe.of}",
    }
