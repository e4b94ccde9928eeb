"""``uwc replay``: compute a summary again, and compare number by number."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc import progress
from uwc.commands.options import Json
from uwc.commands.printing import print_json, print_rows

if TYPE_CHECKING:
    from uwc.workflows.replaying import Replay

DIFFERENT = 4
"""Exit status of a replay in which something came out different."""

SHOWN, SHORT = 20, 60


def replay_command(
    summary: Annotated[Path, typer.Argument(metavar="SUMMARY.json", help="The results.json of a study.")],
    models_from: Annotated[
        Path | None,
        typer.Option(help="A folder of runs whose trained models are taken, so that only scores are computed again."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Relative difference that still counts as within it.")] = 1e-5,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the recomputed study, with its report, in this folder.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute a study's numbers again from its summary: equal, within tolerance, or different?"""
    from uwc.workflows.replaying import replay

    found = replay(summary, models_from=models_from, tolerance=tolerance, keep=keep)
    if as_json:
        print_json(found.record())
    else:
        _show(found)
    if found.counts["different"] or found.record_changes:
        raise typer.Exit(DIFFERENT)


def _show(found: "Replay") -> None:
    print_rows(f"replay of {found.summary}", [_row(group, found.tolerance) for group in found.groups])
    if found.different:
        shown = [{key: _exact(value) for key, value in row.items()} for row in found.different[:SHOWN]]
        print_rows(f"different ({len(shown)} of {len(found.different)}; --json has all)", shown)
    if found.record_changes:
        rows = [{key: value[:SHORT] for key, value in row.items()} for row in found.record_changes[:SHOWN]]
        print_rows(f"not as this code says it ({len(rows)} of {len(found.record_changes)}; --json has all)", rows)
    if found.models:
        progress.note(f"the weights are other ones than recorded in: {', '.join(found.models)}")
    if found.environment:
        print_rows("computed on something else than recorded", found.environment)
    else:
        typer.echo("Libraries, machine, device and threads are those of the record.")
    counts = found.counts
    typer.echo(
        f"{counts['equal']} numbers are equal to the last bit, {counts['within']} differ by at most "
        f"{found.tolerance:g} (relative), {counts['different']} are different."
    )
    if found.kept:
        typer.echo(f"the recomputed study: {found.kept}")


def _row(group: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """A group's counts for the table."""
    largest = group["largest difference"]
    return {
        "numbers of": group["group"], "equal": group["equal"], f"within {tolerance:g}": group["within"],
        "different": group["different"],
        "largest difference": "a number is missing" if largest is None else f"{largest:.2g}",
    }  # fmt: skip


def _exact(value: Any) -> str:
    """A number with all digits that tell it from its neighbours."""
    return "none" if value is None else f"{value:.12g}" if isinstance(value, float) else str(value)
