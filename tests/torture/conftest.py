"""How much is tried, progress while it is, and the table of figures in `docs/reliability.md` at the end.

`make test` tries a sample of each kind, `make torture` all of it.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from tests.torture.trials import Place

WHOLE = os.environ.get("UWC_TORTURE") == "whole"
BEGIN, END = "<!-- torture: begin -->", "<!-- torture: end -->"

Tried = Callable[[str, int, str], None]
"""Says the kind of a trial, how many were tried and what each of them must end in."""


@dataclass
class Kind:
    """The figures of a kind of trial, over all tests of it."""

    tried: int = 0
    failed: int = 0
    must: str = ""
    seconds: float = 0.0


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Tried:
    """To be called once by a test, before it asserts: ``tried("kill of a study", 60, "resumed to the same bits")``."""
    return lambda kind, count, must: record_property("torture", (kind, count, must))


@pytest.fixture
def failed(record_property: Callable[[str, object], None]) -> Callable[[int], None]:
    """How many of those failed, for a test that tries many cases and goes on after a failure."""
    return lambda count: record_property("failed", count)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> "Place":
    """Models, questions and undisturbed runs of commands, made once for all processes."""
    from tests.torture.trials import load_place, make_place, save_place

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "torture"
    with FileLock(f"{folder}.lock"):
        if not (folder / "place.json").exists():
            save_place(make_place(folder), folder / "place.json")
        return load_place(folder / "place.json")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of some ten thousand weights, questions to forget and to retain. Do not change it."""
    from tests.conftest import people, tiny_model

    from uwc.models.load import save_model

    folder, examples = tmp_path_factory.mktemp("inputs"), people()
    save_model(tiny_model(examples), folder / "model")
    for name, part in (("forget", examples[:4]), ("retain", examples[4:])):
        rows = [{"question": e.question, "answer": e.answer, "subject": e.subject} for e in part]
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def try_all(inputs: Path, tmp_path: Path, tried: Tried, failed: Callable[[int], None]) -> Callable[..., None]:
    """Tries cases of a kind, see `tests.torture.fuzz`; all are tried, also after one has failed."""
    from tests.torture.fuzz import faults

    def trying(kind: str, cases: list[Any]) -> None:
        found = faults(cases, inputs, tmp_path)
        tried(kind, len(cases), "a result, or one line that names the mistake")
        failed(len(found))
        assert not found, "\n".join([f"{len(found)} of {len(cases)} failed", *found])

    return trying


class Torture:
    """Collects the figures, from whichever process ran the tests."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.kinds: dict[str, Kind] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add a test's figures to its kind; in an hour's run a failure is told at once."""
        if WHOLE and report.failed:
            why = getattr(report.longrepr, "reprcrash", None) or report.longrepr
            self._say(f" {report.nodeid}: {str(why)[:2000]}")
        told = dict(report.user_properties)
        if "torture" not in told or report.when != "call":
            return
        name, count, must = told["torture"]
        kind = self.kinds.setdefault(name, Kind())
        kind.tried += count
        kind.failed += told.get("failed") or int(report.failed)
        kind.must = must
        kind.seconds += report.duration
        if os.environ.get("UWC_TORTURE_TABLE"):
            self._say(f" {name}: {kind.tried} tried, {kind.failed} failed, {kind.seconds:.0f} s")

    def pytest_terminal_summary(self) -> None:
        """Write the table, if asked for."""
        path = os.environ.get("UWC_TORTURE_TABLE")
        if path and self.kinds:
            file = Path(path)
            file.write_text(with_table(file.read_text(encoding="utf-8"), self.kinds), encoding="utf-8")
            self._say(f"wrote the table in {path}")

    def _say(self, line: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(line)


def with_table(text: str, kinds: dict[str, Kind]) -> str:
    """The page with this run's table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    rows = ["| tried | times | must end in | failed |", "|---|---|---|---|"]
    rows += [f"| {name} | {k.tried:,} | {k.must} | {k.failed} |" for name, k in sorted(kinds.items())]
    total, failed = (sum(getattr(k, field) for k in kinds.values()) for field in ("tried", "failed"))
    rows.append(f"| all | {total:,} | | {failed} |")
    return f"{before}{BEGIN}\n" + "\n".join(rows) + f"\n{END}{after}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Torture(config), "torture")
