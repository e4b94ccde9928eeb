"""`uwc robustness`: robustness of metrics under attack."""

from pathlib import Path
from typing import Annotated

import typer

from uwc import progress
from uwc.cli.options import Json, KeepPaths, OutputDir
from uwc.cli.printing import print_rows, print_warnings


def robustness_command(
    points: Annotated[
        Path,
        typer.Argument(
            metavar="POINTS", help="JSONL, CSV or Parquet with checkpoint, metric, attack, split, before and after."
        ),
    ],
    faithfulness: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file with metric, split, value and knows: values of models that know the answers, and of others.",
        ),
    ] = None,
    log_metric: Annotated[
        list[str], typer.Option(metavar="NAME", help="A metric that is compared by its logarithm. May be repeated.")
    ] = ["perplexity"],  # noqa: B006
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the bootstrap over checkpoints.")] = 0,
    output_dir: OutputDir = None,
    keep_paths: KeepPaths = False,
    as_json: Json = False,
) -> None:
    """Compare metrics before and after attacks, over checkpoints: correlations, slopes, and a ranking."""
    from uwc import __version__
    from uwc.results import RobustnessResults
    from uwc.robustness import few_checkpoints, read_known, read_points, robustness

    RobustnessResults.prepare(output_dir)
    known = read_known(faithfulness) if faithfulness is not None else {}
    found = robustness(read_points(points), known, log_metrics=log_metric, seed=seed)
    results = RobustnessResults(uwc_version=__version__, robustness=found, warnings=few_checkpoints(found))
    results = results.without_paths(output_dir, keep=keep_paths)
    if output_dir is not None:
        results.save(output_dir)
    if as_json:
        typer.echo(results.to_json(), nl=False)
        return
    print_rows("before against after, with 95 % intervals over checkpoints", results.table())
    print_rows("ranking of the metrics by mean PCC", [r.model_dump() for r in found.ranking])
    if found.faithfulness:
        rows = [f.model_dump() for f in found.faithfulness]
        print_rows("faithfulness: models that know against models that do not", rows)
    print_warnings(results.warnings)
    for cell in found.cells:
        for warning in cell.agreement.warnings:
            progress.note(f"warning: {cell.metric}, {cell.attack}, {cell.split}: {warning}")
