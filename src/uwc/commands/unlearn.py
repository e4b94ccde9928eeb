"""`uwc unlearn`: make a model forget."""

from pathlib import Path
from typing import Annotated

import typer

from uwc import progress
from uwc.commands.options import (
    Columns,
    DataFile,
    Device,
    Dtype,
    Prompt,
    Trust,
    loading,
    nested,
    number,
    pairs,
    yaml_value,
)


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
    rule: Annotated[
        list[str], typer.Option(help="A setting of the method's rule: share=0.25", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    trick: Annotated[list[str], typer.Option(help="A trick: temperature=2", metavar="NAME=VALUE")] = [],  # noqa: B006
    stop: Annotated[
        list[str], typer.Option(help="Early stopping: at_most=0.2, tau=0.95, every=10", metavar="KEY=VALUE")
    ] = [],  # noqa: B006
    column: Columns = [],  # noqa: B006
    dtype: Dtype = "float32",
    device: Device = "auto",
    trust: Trust = False,
    prompt: Prompt = [],  # noqa: B006
) -> None:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads."""
    from uwc.data.question_files import read_examples, read_lines
    from uwc.data.refusals import DEFAULT_REFUSALS
    from uwc.workflows.unlearning import unlearn

    columns = pairs(column)
    written = unlearn(
        model,
        output,
        method=method,
        forget=read_examples(forget, columns=columns),
        retain=read_examples(retain, columns=columns) if retain else (),
        refusals=read_lines(refusals) if refusals else DEFAULT_REFUSALS,
        settings=nested({key: yaml_value(key, value) for key, value in pairs(setting).items()}),
        rule={key: yaml_value(key, value) for key, value in pairs(rule).items()},
        tricks={name: number(name, value) for name, value in pairs(trick).items()},
        stop={key: yaml_value(key, value) for key, value in pairs(stop).items()},
        **loading(dtype, device, trust, prompt),
    )
    if progress.FIRST_PROCESS:
        typer.echo(str(written))
