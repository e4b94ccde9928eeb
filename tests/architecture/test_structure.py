"""The shape of the code: imports run one way, light modules stay light, unit tests lie as the modules do."""

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


UNIT = ROOT / "tests" / "unit"


@pytest.mark.parametrize("path", sorted(str(p.relative_to(UNIT)) for p in UNIT.rglob("*.py")))
def test_a_unit_test_lies_where_its_module_lies(path: str) -> None:
    """``attacks/test_gcg.py``, or ``attacks/test_gcg_TOPIC.py``, tests ``uwc/attacks/gcg.py``."""
    package = ROOT / "src" / "uwc" / Path(path).parent
    words = Path(path).stem.split("_")
    modules = ["_".join(words[1:end]) for end in range(2, len(words) + 1)]
    there = [m for m in modules if (package / f"{m}.py").is_file() or (package / m / "__init__.py").is_file()]
    assert words[0] == "test" and there, f"{package.relative_to(ROOT)} has no module for {path}"
