"""`uwc list`, `uwc explain` and `uwc schema`: names and their sources, definitions of metrics, schemas of files."""

import json
from typing import Annotated

import typer

from uwc.cli.options import Json, Plugins
from uwc.cli.printing import print_json, print_rows
from uwc.errors import ConfigError
from uwc.registry import unknown_name

STUDY = "study"
"""The name of a study's file for `uwc schema`."""


def list_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="methods, terms, rules, tricks, metrics, attacks, benchmarks, policies, published, or the name of a "
            "policy or a published table.",
        ),
    ],
    as_json: Json = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List methods, metrics, attacks or others by name, with their sources."""
    from uwc.catalogue import catalogue, in_words

    rows = catalogue(kind)
    if as_json:
        print_json(rows)
    else:
        print_rows(kind, [in_words(row) for row in rows])


def explain_command(
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="A name or label (`uwc list metrics`).")],
    as_json: Json = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """Explain a metric: definition, range, direction, needs, settings and source."""
    from uwc.catalogue import explain, explanation

    if as_json:
        print_json(explanation(metric))
    else:
        typer.echo(explain(metric))


def schema_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="study, the YAML file of a study; or results, score, calibration, attack, strongest, check, audit, "
            "robustness, judge, unlearn, data or diff.",
        ),
    ],
) -> None:
    """Print the JSON Schema of a file that uwc writes, or of a study's file, with a description of every key."""
    from uwc.results import RESULTS, json_schema

    name = name.removesuffix(".json")
    if name == STUDY:
        from uwc.studies.config import study_schema

        found = study_schema()
    elif name in RESULTS:
        found = json_schema(name)
    else:
        raise ConfigError(unknown_name("file", name, [STUDY, *RESULTS]))
    typer.echo(json.dumps(found, indent=1))
