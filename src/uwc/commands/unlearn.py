"""`uwc unlearn` and `uwc calibrate`: make a model forget, and find how much of that keeps its retention."""

from pathlib import Path
from typing import Annotated

import typer
import yaml

from uwc.commands.options import (
    Columns,
    DataFile,
    Device,
    Dtype,
    Json,
    Prompt,
    Trust,
    loading,
    nested,
    number,
    pairs,
)
from uwc.commands.printing import print_json, print_rows


def unlearn_command(
    model: Annotated[str, typer.Argument(help="A folder or hub name.")],
    method: Annotated[str, typer.Option(help="See: uwc list methods.")],
    forget: DataFile,
    output: Annotated[Path, typer.Option(help="Folder for the unlearned model.")],
    retain: Annotated[Path | None, typer.Option(help="Questions to keep.")] = None,
    refusals: Annotated[Path | None, typer.Option(help="Refusals, one a line; a built-in list by default.")] = None,
    setting: Annotated[
        list[str], typer.Option("--train", help="A training setting: lr=1e-5, lora.rank=8", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    trick: Annotated[list[str], typer.Option(help="A trick: temperature=2", metavar="NAME=VALUE")] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
) -> None:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads."""
    from uwc.data.local_files import read_examples, read_lines
    from uwc.data.refusals import DEFAULT_REFUSALS
    from uwc.workflows import unlearn

    columns = pairs(column)
    written = unlearn(
        model,
        output,
        method=method,
        forget=read_examples(forget, columns=columns),
        retain=read_examples(retain, columns=columns) if retain else (),
        refusals=read_lines(refusals) if refusals else DEFAULT_REFUSALS,
        settings=nested({key: yaml.safe_load(value) for key, value in pairs(setting).items()}),
        tricks={name: number(name, value) for name, value in pairs(trick).items()},
        **loading(dtype, device, trust, prompt),
    )
    typer.echo(str(written))


def calibrate_command(
    original: Annotated[str, typer.Argument(help="The model before unlearning: a folder or hub name.")],
    unlearned: Annotated[str, typer.Argument(help="The model after unlearning.")],
    forget: DataFile,
    retain: DataFile,
    tau: Annotated[float, typer.Option(help="Share of the original's retention to keep.")] = 0.95,
    metric: Annotated[str, typer.Option(help="The metric to hold fixed.")] = "extraction_strength",
    save: Annotated[Path | None, typer.Option(help="Folder for the calibrated model.")] = None,
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = "",
    as_json: Json = False,
) -> None:
    """Mix an unlearned model with its original until it keeps `tau` of the retention; what is still forgotten then?"""
    from uwc.data.local_files import read_examples
    from uwc.workflows import calibrate

    columns = pairs(column)
    record = calibrate(
        original,
        unlearned,
        retain=read_examples(retain, columns=columns),
        forget=read_examples(forget, columns=columns),
        tau=tau,
        metric=metric,
        save=save,
        **loading(dtype, device, trust, prompt),
    )
    if as_json:
        print_json(record)
    else:
        print_rows("probes", record["trace"], False)
        typer.echo(
            f"alpha {record['alpha']:.4f} keeps {record['retain_score']:.3f} of at least {record['threshold']:.3f} "
            f"on retain; forget {metric} is then {record['forget_score']:.3f} (lower is better)"
        )
