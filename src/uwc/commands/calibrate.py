"""`uwc calibrate`: how much of an unlearned model keeps the original's retention."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from uwc.commands.options import (
    AuthorsFile,
    Columns,
    DataFile,
    Device,
    Dtype,
    FactsFile,
    Json,
    Prompt,
    RetainFiles,
    RetentionTasks,
    Trust,
    loading,
    named_files,
    pairs,
    utility_files,
)
from uwc.commands.printing import print_json, print_rows


def calibrate_command(
    original: Annotated[str, typer.Argument(help="The model before unlearning: a folder or hub name.")],
    unlearned: Annotated[str, typer.Argument(help="The model after unlearning, or a LoRA adapter on the original.")],
    forget: DataFile,
    retain: RetainFiles = [],  # noqa: B006
    retention_task: RetentionTasks = [],  # noqa: B006
    tau: Annotated[float, typer.Option(help="Share of the original's retention to keep.")] = 0.95,
    metric: Annotated[str, typer.Option(help="The metric to hold fixed on the retain data.")] = "extraction_strength",
    real_authors: AuthorsFile = None,
    world_facts: FactsFile = None,
    max_new_tokens: Annotated[int, typer.Option(help="The most tokens of a generated answer.")] = 64,
    save: Annotated[Path | None, typer.Option(help="Folder for the calibrated model and its card.")] = None,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Mix an unlearned model with its original until it keeps `tau` of the retention; what is still forgotten then?"""
    from uwc.data.question_files import read_examples
    from uwc.workflows.calibration import calibrate

    columns, files = pairs(column), {"retain": retain[0]} if len(retain) == 1 else named_files(retain)
    utility = utility_files(real_authors, world_facts)
    record = calibrate(
        original,
        unlearned,
        forget=read_examples(forget, columns=columns),
        retain={name: read_examples(path, columns=columns) for name, path in files.items()},
        retention=retention_task,
        tau=tau,
        metric=metric,
        utility_sets={name: read_examples(path, columns=columns) for name, path in utility.items()},
        max_new_tokens=max_new_tokens,
        save=save,
        command=shlex.join(["uwc", *sys.argv[1:]]),
        **loading(dtype, device, trust, prompt),
    )
    if as_json:
        print_json(record)
    else:
        _print(record)


def _print(record: dict[str, Any]) -> None:
    print_rows("probes", [_shown(probe) for probe in record["trace"]])
    print_rows("scores", record["scores"])
    for kept in record["kept"]:
        typer.echo(
            f"{kept['measure']}: {kept['score']:.3f}, {kept['share']:.1%} of the original's {kept['original']:.3f}"
        )
    forget = next(r for r in record["scores"] if (r["set"], r["model"]) == ("forget", "calibrated"))
    above = "" if record["alpha"] == 1 else f", {record['upper']:.4f} does not"
    typer.echo(
        f"alpha {record['alpha']:.4f} keeps at least {record['tau']:g} of each{above}; forget {forget['metric']} is "
        f"then {forget['mean']:.3f}; found in {record['passes']:.1f} scoring passes"
    )
    typer.echo("The intervals are those at this alpha; uwc compare has them through the search for it, too.")
    if record["unchecked"]:
        points = ", ".join(f"{a:g}" for a in record["unchecked"])
        typer.echo(f"not looked at, for it would have taken too many passes: alpha {points}")


def _shown(probe: dict[str, Any]) -> dict[str, Any]:
    """A probe for the table: on how many examples it was decided."""
    decided = f"{probe['scored']} of {probe['of']}"
    return {
        "alpha": probe["alpha"], "why": probe["phase"], "retention": probe["retain"],
        "enough": "yes" if probe["feasible"] else "no", "decided on": decided,
    }  # fmt: skip
