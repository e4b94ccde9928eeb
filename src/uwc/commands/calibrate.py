"""`uwc calibrate`: how much of an unlearned model keeps the original's retention."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc.commands.options import (
    AuthorsFile,
    Columns,
    DataFile,
    Device,
    Dtype,
    FactsFile,
    Json,
    OutputDir,
    Prompt,
    RetainFiles,
    RetentionTasks,
    Trust,
    loading,
    named_files,
    pairs,
    utility_files,
)
from uwc.commands.printing import print_rows

if TYPE_CHECKING:
    from uwc.results import CalibrationResults, Probe

_COLUMNS = ("set", "metric", "condition", "mean", "n", "not_scored", "clusters", "se", "low", "high")


def calibrate_command(
    original: Annotated[str, typer.Argument(help="The model before unlearning: a folder or hub name.")],
    unlearned: Annotated[str, typer.Argument(help="The model after unlearning, or a LoRA adapter on the original.")],
    forget: DataFile,
    retain: RetainFiles = [],  # noqa: B006
    retention_task: RetentionTasks = [],  # noqa: B006
    tau: Annotated[float, typer.Option(help="Least ratio to the original's retention.")] = 0.95,
    retention_metric: Annotated[
        str, typer.Option(help="The metric to keep on the retain data; none: the tasks alone.")
    ] = "extraction_strength",
    rank_by: Annotated[
        str | None, typer.Option(help="The metric of the forget set; the retention metric if it can be, else ES.")
    ] = None,
    real_authors: AuthorsFile = None,
    world_facts: FactsFile = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    search_only: Annotated[
        bool,
        typer.Option("--search-only", help="Search alpha alone: faster, without the score at tau and its interval."),
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Folder for the calibrated model and its card.")] = None,
    output_dir: OutputDir = None,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Mix an unlearned model with its original until it keeps `tau` of the retention; how much is forgotten then?"""
    from uwc.data.question_files import read_examples
    from uwc.workflows.calibration import calibrate
    from uwc.workflows.comparison import TAKEN

    columns, utility = pairs(column), utility_files(real_authors, world_facts)
    files = dict(zip(["retain"], retain, strict=False)) | named_files(retain[1:], taken=TAKEN)
    results = calibrate(
        original,
        unlearned,
        forget=read_examples(forget, columns=columns),
        retain={name: read_examples(path, columns=columns) for name, path in files.items()},
        retention=retention_task,
        tau=tau,
        retention_metric=None if retention_metric == "none" else retention_metric,
        rank_by=rank_by,
        sets={name: read_examples(path, columns=columns) for name, path in utility.items()},
        max_new_tokens=max_new_tokens,
        curve=not search_only,
        save=save,
        output_dir=output_dir,
        command=shlex.join(["uwc", *sys.argv[1:]]),
        **loading(dtype, device, trust, prompt),
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
