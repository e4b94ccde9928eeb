"""`uwc schema`: the JSON Schema of a result's file."""

import json
from typing import Annotated

import typer

from uwc.errors import ConfigError
from uwc.registry import unknown_name


def schema_command(
    name: Annotated[str, typer.Argument(help="results, score, calibration, attack or diff: the file's name.")],
) -> None:
    """Print the JSON Schema of a file that uwc writes."""
    from uwc.results import RESULTS, json_schema

    name = name.removesuffix(".json")
    if name not in RESULTS:
        raise ConfigError(unknown_name("result", name, list(RESULTS)))
    typer.echo(json.dumps(json_schema(name), indent=1))
