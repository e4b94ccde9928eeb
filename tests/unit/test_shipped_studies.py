"""The studies that come with the package."""

import pytest

from uwc.objectives.methods import METHODS
from uwc.studies.config_file import load_config, shipped_configs


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_study_is_valid_and_bears_its_files_name(name: str) -> None:
    assert load_config(name).name == name


def test_the_study_of_all_methods_has_every_one_that_can_be_calibrated() -> None:
    config = load_config("all-methods")
    assert {run.label for run in config.unlearn.runs} == set(METHODS) - {"whp"}


def test_the_study_of_all_methods_starts_from_the_models_of_the_quick_start() -> None:
    everything, quick = load_config("all-methods"), load_config("quickstart")
    for part in ("benchmark", "model", "finetune", "gold", "seed"):
        assert getattr(everything, part) == getattr(quick, part)
