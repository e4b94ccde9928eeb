"""What the matrix found: progress while it runs, and the table in `docs/models.md` at its end."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.matrix.architectures import ARCHITECTURES, CELLS
from tests.matrix.table import Found, with_table

_found: dict[tuple[str, str], Found] = {}
_seconds: dict[str, float] = defaultdict(float)
_printed: set[str] = set()


def pytest_runtest_logreport(report: Any) -> None:
    """Keep what a cell found, as the process that ran it reports it."""
    told = dict(report.user_properties)
    if "cell" not in told:
        return
    name, cell = told["cell"]
    _seconds[name] += report.duration
    if report.when == "call" or report.failed or report.skipped:
        before = _found.get((name, cell))
        if before is None or before.outcome != "fails":
            _found[name, cell] = Found(
                "fails" if report.failed else "refused" if told.get("refused") else "exact",
                told.get("deviation", 0.0), told.get("refused", ""),
            )  # fmt: skip
    if report.when == "teardown" and name not in _printed and all((name, c) in _found for c in CELLS):
        _printed.add(name)
        print(f"{name}: {_seconds[name]:.1f} s", flush=True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the table, if asked for and if all cells were run."""
    path = os.environ.get("UWC_MATRIX_TABLE")
    if not path or hasattr(config, "workerinput"):
        return
    missing = [f"{n} {c}" for n in ARCHITECTURES for c in CELLS if (n, c) not in _found]
    if missing:
        terminalreporter.write_line(f"{path} is as it was: {len(missing)} cells were not run, such as {missing[0]}")
        return
    file = Path(path)
    file.write_text(with_table(file.read_text(encoding="utf-8"), _found), encoding="utf-8")
    terminalreporter.write_line(f"wrote the table in {path}")
