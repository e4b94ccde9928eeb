"""The shape of the code: which package may import which, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "uwc"
FILES = sorted(SOURCE.rglob("*.py"))

LAYERS = [
    {"errors", "registry", "code_digest", "progress", "io", "results", "published"},
    {"data"},
    {"models"},
    {"metrics", "objectives"},
    {"training"},
    {"attacks", "calibration", "robustness"},
    {"plugins"},
    {"studies"},
    {"workflows", "catalogue"},
    {"api"},
    {"commands"},
    {"cli"},
]
OLD_NAMES = {f"workflows/{name}.py" for name in ("scoring", "calibration", "attacking", "unlearning")}
"""What commands call until they call `uwc.api`."""
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imported_rooms(path: Path) -> set[str]:
    """The rooms of uwc that a file imports, at its top or inside functions."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "uwc" else [node.module]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("uwc.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(path)
    if own in ("__init__", "__main__") or path.relative_to(SOURCE).as_posix() in OLD_NAMES:
        return
    for other in imported_rooms(path) - {own}:
        if own == "reports":
            assert other in LAYERS[0], f"reports read stored records only, and may not import {other}"
        elif other == "reports":
            assert level(own) >= level("workflows"), f"{own} may not import reports"
        else:
            assert level(other) < max(level(own), 1), f"{own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_functions_fit_on_a_screen(path: Path) -> None:
    assert path.name not in FORBIDDEN_NAMES
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):  # parameters and docstring aside
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            assert (node.end_lineno or 0) - first.lineno <= 50, f"{node.name} does not fit on a screen"


@pytest.mark.parametrize(
    ("module", "never"),
    [("uwc", "torch"), ("uwc.cli", "torch"), ("uwc.reports.page", "torch"), ("uwc.studies.plan", "transformers")],
)
def test_light_modules_stay_light(module: str, never: str) -> None:
    code = f"import sys, {module}; sys.exit({never!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
