"""`uwc calibrate`: how much of an unlearned model keeps the original's retention."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.commands.options import Columns, DataFile, Device, Dtype, Json, Prompt, Trust, loading, pairs
from uwc.commands.printing import print_json, print_rows


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
    from uwc.workflows.calibration import calibrate

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
