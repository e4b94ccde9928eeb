"""`uwc doctor`: devices, memory, versions, disk, and a self-test."""

from pathlib import Path
from typing import Annotated

import typer

from uwc.cli.options import Json
from uwc.cli.printing import print_rows


def doctor_command(
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where the self-test computes: auto, cpu, cuda, cuda:N or mps.")
    ] = "auto",
    runs: Annotated[
        Path, typer.Option("--runs-dir", metavar="FOLDER", help="The folder of runs, whose store is checked.")
    ] = Path("runs"),
    self_test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Train, score and calibrate a tiny model, twice.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Print devices, memory, versions, the store's folder and free disk, and run a self-test of less than a minute.

    The exit status is 1 if a check of the self-test fails.
    """
    from uwc.workflows.doctor import doctor

    found = doctor(runs_dir=runs, device=device, self_test=self_test)
    if as_json:
        typer.echo(found.model_dump_json(indent=1))
    else:
        devices = [
            {
                "device": d.name,
                "description": d.description,
                "memory": f"{d.memory_bytes / 1e9:.1f} GB",
                "free": f"{d.free_bytes / 1e9:.1f} GB",
            }
            for d in found.devices
        ]
        print_rows("Devices", devices)
        versions = [{"name": name, "value": value} for name, value in (found.environment | found.optional).items()]
        print_rows("Versions", versions)
        typer.echo(f"Store: {found.store} ({found.free_disk_bytes / 1e9:.1f} GB free)")
        if found.checks:
            rows = [{"check": c.name, "passed": "yes" if c.passed else "NO", "found": c.found} for c in found.checks]
            print_rows(f"Self-test ({found.seconds:.0f} s)", rows)
    if not found.passed:
        raise typer.Exit(1)
