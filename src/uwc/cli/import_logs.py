"""`uwc import-logs`: scores of a model of which only the evaluation logs exist."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import Json, OutputDir
from uwc.cli.printing import print_scores


def import_logs_command(
    logs: Annotated[Path, typer.Argument(help="A model's evaluation logs: a JSON file of TOFU or OpenUnlearning.")],
    retrained: Annotated[
        Path | None,
        typer.Option("--retrained", help="The logs of a model never trained on the data, for forget quality."),
    ] = None,
    average: Annotated[
        str | None,
        typer.Option(
            help="Over the wrong answers in the truth ratio: probabilities (TOFU's paper; the default for its logs) or "
            "losses (the code of TOFU's leaderboard; the default for OpenUnlearning's logs)."
        ),
    ] = None,
    output_dir: OutputDir = None,
    as_json: Json = False,
) -> None:
    """Model utility with its parts, and forget quality, of a model of which only the evaluation logs exist."""
    from uwc.metrics.logs import from_logs

    scores = from_logs(logs, retrained=retrained, average=average)
    if output_dir is not None:
        scores.save(output_dir)
    print_scores(scores, str(logs), as_json)
