"""Studies that cannot be carried out are refused before anything is computed."""

from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.harness_tasks import write_tasks
from tests.helpers.small_study import STUDY

from uwc.errors import UserError
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.workflows.studies import run_study, slurm_scripts


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            {"method": "rmu", "settings": {"misdirection": {"layer": 3}}},
            "run 'rmu': layer of the term 'misdirection' = 3: the model has 2 blocks; give 1..2, or -2..-1",
        ),
        ({"method": "npo-lat", "rule": {"layer": 3}}, r"run 'npo-lat': rule\.layer = 3: the model has 2 blocks"),
        ({"method": "ga", "training": {"optimizer": "adamm"}}, "run 'ga': unknown optimizer 'adamm'"),
    ],
)
def test_a_run_that_cannot_be_trained_is_refused(run: dict[str, Any], message: str, tmp_path: Path) -> None:
    changes = {"unlearn.runs": [{"method": "kl"}, run]}
    with pytest.raises(UserError, match=message) as error:
        run_study(STUDY, overrides=changes, runs=tmp_path / "runs")
    assert str(error.value).count("run '") == 1
    assert not list((tmp_path / "runs").rglob("manifest.json"))
    options = [f"unlearn.runs=[{run}]", "model.build.layers=2"]
    with pytest.raises(UserError, match=message):
        slurm_scripts("quickstart", tmp_path / "scripts", overrides=options, runs=tmp_path / "runs")
    assert not (tmp_path / "scripts").exists()


def test_a_chat_template_that_a_task_asks_for_is_looked_for_first(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    save_model(knowing, tmp_path / "model")
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    changes = {
        "model": {"path": str(tmp_path / "model")},
        "score.tasks": ["local_choice"],
        "harness": {"include_path": str(write_tasks(tmp_path / "tasks", people(6))), "chat": True},
    }
    with pytest.raises(UserError, match=r"harness\.chat: the model's tokenizer has no chat template"):
        run_study(STUDY, overrides=changes, runs=tmp_path / "runs")
