"""`uwc list` and `uwc explain`: what can be chosen, and how a metric is defined."""

from typing import Annotated

import typer

from uwc.cli.options import Json, Plugins
from uwc.cli.printing import print_json, print_rows


def list_command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="methods, terms, metrics, attacks, tricks, benchmarks, published, or a published table.",
        ),
    ],
    as_json: Json = False,
    plugin: Plugins = [],  # noqa: B006
) -> None:
    """List what can be chosen, with its source."""
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
    """Explain a metric: definition, range, direction, what it needs, source."""
    from uwc.catalogue import explain, explanation

    if as_json:
        print_json(explanation(metric))
    else:
        typer.echo(explain(metric))
