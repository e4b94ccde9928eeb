"""A study whose runs train low-rank adapters: merged, scored and calibrated like the others."""

from pathlib import Path

import pytest
from tests.helpers.small_study import STUDY
from transformers import AutoModelForCausalLM

from uwc.results import ES, StudyResults, find
from uwc.studies.config import StudyConfig
from uwc.workflows.studies import run_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def results(folder: Path) -> StudyResults:
    training = {"epochs": 8, "lr": 5e-3, "gradient_effect_every": 2}
    adapted = {**training, "lora": {"rank": 4}}
    runs = [
        {"method": "kl", "training": {**adapted, "lr": 2e-2}},
        {"method": "npo", "training": {**adapted, "lr": 2e-2}},
        {"method": "gd", "training": training},
    ]
    changed = {
        "unlearn": {"training": {"batch_size": 2}, "runs": runs},
        "calibrate": {"scan": 4, "resolution": 0.02},
    }
    config = StudyConfig(**{**STUDY.model_dump(), **changed})
    return run_study(config, runs=folder)


@pytest.mark.slow
def test_adapters_are_trained_merged_scored_and_calibrated(results: StudyResults) -> None:
    for model in results.unlearned:
        assert model.status == "ok" and model.calibration is not None and model.training is not None
        forgot = find(model.scores, "forget", ES)
        assert forgot is not None and forgot.mean < 0.8, "something was forgotten"
        assert all(kept.ratio >= model.calibration.tau for kept in model.calibration.kept)
        assert 0 < model.calibration.alpha <= 1
        effects = model.training.effects
        assert effects is not None and effects.step and set(effects.risks["forget"]) >= {"early", "middle"}


def test_what_is_kept_is_a_plain_model_and_the_original_is_untouched(results: StudyResults, folder: Path) -> None:
    for model in (folder / "store").glob("unlearn-*/model"):
        assert not (model / "adapter_config.json").exists()
        assert not any("lora" in name for name in AutoModelForCausalLM.from_pretrained(model).state_dict())
    original = results.reference("original")
    assert original is not None
    known = find(original.scores, "forget", ES)
    assert known is not None and known.mean > 0.9
