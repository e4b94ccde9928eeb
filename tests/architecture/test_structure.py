"""The shape of the code: imports run one way, and light modules stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_imports_run_one_way() -> None:
    """The contracts are in pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("uwc", "torch"),
        ("uwc.cli.main", "torch"),
        ("uwc.results", "pandas"),
        ("uwc.reports.page", "torch"),
        ("uwc.studies.plan", "transformers"),
        ("uwc.workflows.studies", "torch"),
    ],
)
def test_light_modules_stay_light(module: str, never: str) -> None:
    code = f"import sys, {module}; sys.exit({never!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        *(f"list {kind}" for kind in ("methods", "terms", "metrics", "attacks", "tricks", "rules", "benchmarks")),
        "explain ES",
        "study list",
        "study plan quickstart",
    ],
)
def test_commands_that_compute_nothing_import_no_torch(command: str, tmp_path: Path) -> None:
    code = """
import sys
from uwc.cli.main import main
try:
    main()
except SystemExit as done:
    sys.exit(done.code or "torch" in sys.modules)
"""
    arguments = [sys.executable, "-c", code, *command.split()]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
