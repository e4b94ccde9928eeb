"""The benchmarks, which no test runs, at least find all that they import, and are found themselves."""

import importlib
import pkgutil
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_benchmark_can_be_imported_and_is_found() -> None:
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    loaded = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    found = {name for name, module in loaded.items() if hasattr(module, "comparisons")}
    assert found == {"answers", "depth", "mixing", "probing", "sampling", "scoring", "training"}


def test_the_training_of_the_benchmark_can_begin() -> None:
    """Settings that are refused are found here, and not when somebody measures."""
    importlib.import_module("benchmarks.training")._import_everything()
