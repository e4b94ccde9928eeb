"""`uwc list`, `uwc explain` and `uwc schema`: names and their sources, definitions of metrics, schemas of files."""

import json
from typing import Annotated

import typer

from uwc.cli.options import Json, Plugins
from uwc.cli.printing import print_json, print_rows
from uwc.errors import ConfigError
from uwc.registry import unknown_name


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
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="A name or label; see: uwc list metrics.")],
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
            help="results, score, calibration, attack, strongest, check, audit, robustness, judge, unlearn, data or "
            "diff.",
        ),
    ],
) -> None:
    """Print the JSON Schema of a file that uwc writes."""
    from uwc.results import RESULTS, json_schema

    name = name.removesuffix(".json")
    if name not in RESULTS:
        raise ConfigError(unknown_name("result", name, list(RESULTS)))
    typer.echo(json.dumps(json_schema(name), indent=1))
