"""A study whose runs train low-rank adapters: merged, scored and calibrated like the others."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from uwc.studies.config import StudyConfig
from uwc.workflows.studies import run_study

from .test_shared_original import STUDY


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder: Path = tmp_path_factory.mktemp("lora")
    training = {"epochs": 8, "lr": 5e-3, "gradient_effect_every": 2}
    adapted = {**training, "lora": {"rank": 4}}
    runs = [
        {"method": "kl", "training": {**adapted, "lr": 2e-2}},
        {"method": "npo", "training": {**adapted, "lr": 2e-2}},
        {"method": "gd", "training": training},
    ]
    config = StudyConfig(**{**STUDY.model_dump(), "unlearn": {"training": {"batch_size": 2}, "runs": runs}})
    outcome = run_study(config, runs=folder)
    return {"results": outcome.results, "folder": folder}


def test_adapters_are_trained_merged_scored_and_calibrated(results: dict) -> None:
    for record in results["results"]["unlearned"]:
        assert record["status"] == "ok"
        forgot = record["before"]["forget"]["extraction_strength"]["mean"]
        assert forgot < 0.8, "something was forgotten"
        kept = record["after"]["retain"]["extraction_strength"]["mean"]
        assert kept >= record["calibration"]["threshold"]
        assert 0 < record["calibration"]["alpha"] <= 1
        effects = record["training"]["effects"]
        assert effects["step"] and set(effects["forget"]) >= {"early", "middle"}


def test_what_is_kept_is_a_plain_model_and_the_original_is_untouched(results: dict) -> None:
    for folder in (results["folder"] / "store").glob("unlearn-*/model"):
        assert not (folder / "adapter_config.json").exists()
        assert not any("lora" in name for name in AutoModelForCausalLM.from_pretrained(folder).state_dict())
    (original,) = [m for m in results["results"]["models"] if m["name"] == "original"]
    assert original["scores"]["forget"]["extraction_strength"]["mean"] > 0.9
    json.dumps(results["results"], allow_nan=False)
