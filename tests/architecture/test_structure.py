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
    ],
)
def test_light_modules_stay_light(module: str, never: str) -> None:
    code = f"import sys, {module}; sys.exit({never!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
