"""`uwc replay`: recompute a study's results, and compare number by number."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from uwc import progress
from uwc.cli.options import OUTPUT, AllowPlugins, Json, TrustRemoteCode
from uwc.cli.printing import print_rows

if TYPE_CHECKING:
    from uwc.results import Diff, GroupDiff

DIFFERENT = 4
"""Exit status of a replay with a different number or text."""

SHOWN, SHORT = 20, 60


def replay_command(
    results: Annotated[Path, typer.Argument(metavar="RESULTS.json", help="The results.json of a study.")],
    models_from: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder of runs whose trained models are used, so that only scores are recomputed.",
        ),
    ] = None,
    rtol: Annotated[float, typer.Option(metavar="RTOL", help="Relative tolerance of a number.")] = 1e-5,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            "-o",
            rich_help_panel=OUTPUT,
            metavar="FOLDER",
            help="Folder for the recomputed study with its report; removed by default.",
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_plugins: AllowPlugins = False,
    as_json: Json = False,
) -> None:
    """Recompute a study from its results.json: which numbers are equal, within a tolerance, or different?"""
    from uwc.workflows.replaying import replay

    done = replay(
        results,
        models_from=models_from,
        rtol=rtol,
        keep=output_dir,
        trust_remote_code=trust_remote_code,
        allow_plugins=allow_plugins,
    )
    if as_json:
        typer.echo(done.diff.to_json(), nl=False)
    else:
        _show(done.diff)
        if done.kept:
            typer.echo(f"the recomputed study: {done.kept}")
    if done.diff.different or done.diff.texts:
        raise typer.Exit(DIFFERENT)


def _show(found: "Diff") -> None:
    print_rows(f"replay of {found.first}", [_row(group, found.rtol) for group in found.groups()])
    if found.different:
        rows = [
            {"path": n.path, "recorded": _exact(n.first), "recomputed": _exact(n.second)}
            for n in found.different[:SHOWN]
        ]
        print_rows(f"different ({len(rows)} of {len(found.different)}; --json has all)", rows)
    if found.texts:
        changes = [{k: v[:SHORT] for k, v in change.model_dump().items()} for change in found.texts[:SHOWN]]
        print_rows(f"different texts ({len(changes)} of {len(found.texts)}; --json has all)", changes)
    if found.models:
        progress.note(f"weights that differ from the recorded ones: {', '.join(found.models)}")
    if found.environment:
        print_rows("differences of the environment", [e.model_dump() for e in found.environment])
    else:
        typer.echo("Libraries, machine, device and number of threads are equal to the recorded ones.")
    typer.echo(
        f"{found.count('equal')} numbers are equal to the last bit, {found.count('within')} differ by at most "
        f"{found.rtol:g} (relative), {found.count('different')} are different."
    )


def _row(group: "GroupDiff", rtol: float) -> dict[str, Any]:
    """A group's counts for the table."""
    return {
        "numbers of": group.group,
        "equal": group.equal,
        f"within {rtol:g}": group.within,
        "different": group.different,
        "largest difference": "a number is missing" if group.largest is None else f"{group.largest:.2g}",
    }


def _exact(value: float | None) -> str:
    """A number with 12 significant digits."""
    return "none" if value is None else f"{value:.12g}"
