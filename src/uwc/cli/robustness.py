"""`uwc robustness`: robustness of metrics under attack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc import progress
from uwc.cli.options import Json, OutputDir
from uwc.cli.printing import print_rows
from uwc.io import write_text

if TYPE_CHECKING:
    from uwc.results import Cell

_STATISTICS = ("pcc", "spearman", "slope", "intercept", "distance")


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
        list[str], typer.Option(metavar="NAME", help="A metric that is compared on logarithms. May be repeated.")
    ] = ["perplexity"],  # noqa: B006
    seed: Annotated[int, typer.Option(metavar="SEED", help="Seed of the bootstrap over checkpoints.")] = 0,
    output_dir: OutputDir = None,
    as_json: Json = False,
) -> None:
    """Compare metrics before and after attacks, over checkpoints: correlations, slopes, and a ranking."""
    from uwc.robustness import read_known, read_points, robustness

    known = read_known(faithfulness) if faithfulness is not None else {}
    found = robustness(read_points(points), known, log_metrics=log_metric, seed=seed)
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_text(output_dir / "robustness.json", found.model_dump_json(indent=1) + "\n")
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
        return
    print_rows("before against after, with 95 % intervals over checkpoints", [_row(c) for c in found.cells])
    print_rows("ranking of the metrics by mean PCC", [r.model_dump() for r in found.ranking])
    if found.faithfulness:
        rows = [f.model_dump() for f in found.faithfulness]
        print_rows("faithfulness: models that know against models that do not", rows)
    for cell in found.cells:
        for warning in cell.agreement.warnings:
            progress.note(f"warning: {cell.metric}, {cell.attack}, {cell.split}: {warning}")


def _row(cell: "Cell") -> dict[str, Any]:
    row: dict[str, Any] = {"metric": cell.metric, "attack": cell.attack, "split": cell.split, "n": cell.agreement.n}
    for name in _STATISTICS:
        estimate = getattr(cell.agreement, name)
        row[name] = f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
    return {**row, "published": cell.published}
