"""The benchmarks, which no test runs, at least find all that they import, and are found themselves."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from tests.conftest import people
from tests.helpers.forks import FORKS

from uwc.models.load import build_model, save_model

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_every_benchmark_can_be_imported_and_is_found() -> None:
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)])]
    loaded = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    found = {name for name, module in loaded.items() if hasattr(module, "comparisons")}
    trained = {"depth", "probing", "relearning", "selection", "training"}
    assert found == {"answers", "large", "mixing", "planning", "sampling", "scoring", *trained}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["ours", "plain"])
def test_the_training_of_a_model_in_a_folder_is_measured(side: str, tmp_path: Path) -> None:
    model = build_model(people(), vocabulary=300, hidden_size=32, layers=2, heads=2, context=512, seed=0)
    save_model(model, tmp_path)
    run_side = importlib.import_module("benchmarks.training").run_side
    with FORKS.Pool(1) as own_process:
        found = own_process.apply(run_side, ("kl", side, "cpu", str(tmp_path)))
    assert found["state_bytes"] == 18 * sum(p.numel() for p in model.model.parameters()), "with a frozen copy"
    assert len(found["losses"]) == 20 and found["seconds"] > 0
