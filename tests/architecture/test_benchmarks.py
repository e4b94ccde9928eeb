"""The benchmarks, which no test runs, at least find all that they import."""

import importlib
import pkgutil
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)])))
def test_a_benchmark_finds_all_that_it_imports(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
