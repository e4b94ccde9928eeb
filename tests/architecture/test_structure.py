"""The shape of the code: imports run one way, light modules stay light, unit tests lie as the modules do."""

import re
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


def test_what_users_read_names_no_file_of_the_repository() -> None:
    """Someone who installed the package has no folder docs; help, errors and docstrings name commands instead."""
    page = re.compile(r"docs/[\w/-]+\.md")
    texts = [path for suffix in ("py", "yaml", "jinja") for path in (ROOT / "src").rglob(f"*.{suffix}")]
    named = {(path.name, found) for path in texts for found in page.findall(path.read_text(encoding="utf-8"))}
    assert named == {("open-unlearning-tofu.yaml", "docs/repro.md")}  # of another code


LIGHT = {
    "uwc.data.benchmarks": {"torch", "transformers", "datasets", "pyarrow", "pandas"},
    "uwc.results": {"torch", "transformers", "pandas"},
    "uwc": {"torch", "transformers"},
    "uwc.cli.main": {"torch", "transformers"},
    "uwc.studies.plan": {"torch", "transformers", "scipy.stats"},
    "uwc.workflows.studies": {"torch", "transformers", "scipy.stats"},
    "uwc.reports.page": {"torch", "transformers"},
}
"""Module -> what it does not import; imported in this order by one process."""
KINDS = ("methods", "terms", "metrics", "attacks", "tricks", "rules", "benchmarks", "published")
PLANS = ("study plan quickstart", "study plan quickstart --estimate")
COMMANDS = [*(f"list {kind}" for kind in KINDS), "explain ES", "study list", *PLANS]
"""What computes nothing, and imports no torch; run in this order by that process."""


@pytest.mark.slow
def test_light_modules_and_commands_stay_light(tmp_path: Path) -> None:
    """The first that imports what it should not is named."""
    code = f"""
import io, sys
from contextlib import redirect_stdout
from importlib import import_module
for module, never in {LIGHT}.items():
    import_module(module)
    if heavy := never & set(sys.modules):
        sys.exit(f"{{module}} imports {{heavy}}")
from uwc.cli.main import main
for command in {COMMANDS}:
    sys.argv = ["uwc", *command.split()]
    with redirect_stdout(io.StringIO()) as told:
        try:
            main()
        except SystemExit as done:
            assert not done.code, command
    assert told.getvalue().strip(), f"{{command}} prints nothing"
    assert "torch" not in sys.modules, f"{{command}} imports torch"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


UNIT = ROOT / "tests" / "unit"


@pytest.mark.parametrize("path", sorted(str(p.relative_to(UNIT)) for p in UNIT.rglob("*.py")))
def test_a_unit_test_lies_where_its_module_lies(path: str) -> None:
    """``attacks/test_gcg.py``, or ``attacks/test_gcg_TOPIC.py``, tests ``uwc/attacks/gcg.py``."""
    package = ROOT / "src" / "uwc" / Path(path).parent
    words = Path(path).stem.split("_")
    modules = ["_".join(words[1:end]) for end in range(2, len(words) + 1)]
    there = [m for m in modules if (package / f"{m}.py").is_file() or (package / m / "__init__.py").is_file()]
    assert words[0] == "test" and there, f"{package.relative_to(ROOT)} has no module for {path}"
