"""A study whose runs train low-rank adapters: merged, scored and calibrated like the others."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from uwc.results import ES, find
from uwc.studies.config import StudyConfig
from uwc.workflows.studies import StudyOutcome, run_study

from .test_shared_original import STUDY


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> StudyOutcome:
    folder: Path = tmp_path_factory.mktemp("lora")
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


def test_adapters_are_trained_merged_scored_and_calibrated(outcome: StudyOutcome) -> None:
    for model in outcome.results.unlearned:
        assert model.status == "ok" and model.calibration is not None and model.training is not None
        forgot = find(model.scores, "forget", ES)
        assert forgot is not None and forgot.mean < 0.8, "something was forgotten"
        assert all(kept.ratio >= model.calibration.tau for kept in model.calibration.kept)
        assert 0 < model.calibration.alpha <= 1
        effects = model.training.effects
        assert effects is not None and effects.step and set(effects.risks["forget"]) >= {"early", "middle"}


def test_what_is_kept_is_a_plain_model_and_the_original_is_untouched(outcome: StudyOutcome) -> None:
    for folder in (outcome.folder.parent / "store").glob("unlearn-*/model"):
        assert not (folder / "adapter_config.json").exists()
        assert not any("lora" in name for name in AutoModelForCausalLM.from_pretrained(folder).state_dict())
    original = outcome.results.reference("original")
    assert original is not None
    known = find(original.scores, "forget", ES)
    assert known is not None and known.mean > 0.9
