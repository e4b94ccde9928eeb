"""The benchmarks, which no test runs, at least follow the code's names."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
IMPORTED = [
    (file.name, node.module, alias.name)
    for file in sorted(FOLDER.glob("*.py"))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("uwc", "benchmarks")
    for alias in node.names
]


@pytest.mark.parametrize(("file", "module", "name"), IMPORTED)
def test_what_a_benchmark_imports_is_there(file: str, module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name), f"{file} imports {name} from {module}"
