"""`uwc import-logs`: scores from evaluation logs of other codes."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import Json, KeepPaths, OutputDir
from uwc.cli.printing import print_scores


def import_logs_command(
    logs: Annotated[
        Path, typer.Argument(metavar="LOGS", help="A model's evaluation logs: a JSON file of TOFU or OpenUnlearning.")
    ],
    retrained: Annotated[
        Path | None,
        typer.Option(
            "--retrained",
            metavar="LOGS",
            help="The logs of a model that was never trained on the forget questions, for forget quality.",
        ),
    ] = None,
    average: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The average over wrong answers in the truth ratio: of probabilities (TOFU's paper; the default for "
            "its logs) or of losses (the code of TOFU's leaderboard; the default for OpenUnlearning's logs).",
        ),
    ] = None,
    output_dir: OutputDir = None,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
) -> None:
    """Compute model utility, its parts and forget quality from evaluation logs of TOFU or OpenUnlearning."""
    from uwc.metrics.logs import from_logs
    from uwc.results import Scores

    Scores.prepare(output_dir)
    scores = from_logs(logs, retrained=retrained, average=average).without_paths(output_dir, keep=keep_paths)
    if output_dir is not None:
        scores.save(output_dir)
    print_scores(scores, str(logs), as_json)
