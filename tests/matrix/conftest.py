"""What the matrix found: progress while it runs, and the table in `docs/models.md` at its end."""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.matrix.architectures import ARCHITECTURES, CELLS
from tests.matrix.table import Found, with_table


class Matrix:
    """Collects what the cells found, from whichever process ran them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.found: dict[tuple[str, str], Found] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        self.printed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep a cell's result; after the last cell of an architecture say how long all took."""
        told = dict(report.user_properties)
        if "cell" not in told:
            return
        name, cell = told["cell"]
        self.seconds[name] += report.duration
        if report.when == "call" or report.failed:
            outcome = "fails" if report.failed else "refused" if "refused" in told else "exact"
            self.found[name, cell] = Found(outcome, told.get("deviation", 0.0), told.get("refused", ""))
        if report.when == "teardown" and name not in self.printed and all((name, c) in self.found for c in CELLS):
            self.printed.add(name)
            if os.environ.get("UWC_MATRIX_TABLE"):
                self._say(f" {name}: {self.seconds[name]:.1f} s")

    def pytest_terminal_summary(self) -> None:
        """Write the table, if asked for and if all cells were run."""
        path = os.environ.get("UWC_MATRIX_TABLE")
        if not path or not self.found:
            return
        missing = [f"{n} {c}" for n in ARCHITECTURES for c in CELLS if (n, c) not in self.found]
        if missing:
            self._say(f"{path} is as it was: {len(missing)} cells were not run, such as {missing[0]}")
            return
        file = Path(path)
        file.write_text(with_table(file.read_text(encoding="utf-8"), self.found), encoding="utf-8")
        self._say(f"wrote the table in {path}")

    def _say(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(line)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Matrix(config), "matrix")
