"""Plug-ins that are files: in a study, edited, and wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people

import uwc
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.models.load import save_model
from uwc.studies.plan import make_plan
from uwc.studies.run import missing_steps
from uwc.studies.store import Store

pytestmark = pytest.mark.usefixtures("restored_registries")

METRIC = """
import numpy as np
import uwc

SCALE = 1.0

@uwc.metric
def letters(answers):
    "Characters of the answer."
    return SCALE * np.array([float(len(a)) for a in answers])
"""
LOSS = """
import uwc

@uwc.loss
def climb(forwards):
    return forwards.forget.total(forwards.forget.logprobs)
"""


def test_a_file_is_executed_once_and_again_when_it_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "my metrics.py"
    count = "import os\nos.environ['LOADED'] = str(int(os.environ.get('LOADED', '0')) + 1)\n"
    path.write_text(METRIC + count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADED", "0")
        uwc.load_plugins([path, str(path)])
        first = metrics.get("letters").function
        uwc.load_plugins([path])
        assert metrics.get("letters").function is first and first(["four"]).tolist() == [4.0]
        path.write_text((METRIC + count).replace("SCALE = 1.0", "SCALE = 2.0"))
        uwc.load_plugins([path])
        assert metrics.get("letters").function(["four"]).tolist() == [8.0]
        path.write_text(METRIC.replace("def letters", "def characters"))
        uwc.load_plugins([path])
        assert "letters" not in metrics.names() and "characters" in metrics.names(), "what it no longer says is gone"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"my\.py cannot be read \(there is no such file\)"),
        ("x = 1\nraise RuntimeError('no luck')\n", r"my\.py, line 2: .*RuntimeError: no luck"),
        ("def broken(:\n", r"my\.py, line 1: .*SyntaxError"),
        ("import a_package_that_is_not_there\n", r"my\.py, line 1: .*ModuleNotFoundError"),
        (METRIC.replace("answers)", "answerz)"), r"my\.py, line 7: .*unknown input of the metric 'letters' 'answerz'"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_its_line(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "my.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        uwc.load_plugins([path])
    assert "letters" not in metrics.names()


def write_study(folder: Path, knowing: uwc.Model) -> Path:
    """A study on a model that knows its answers, with a metric and a loss from files beside it."""
    folder.mkdir(parents=True)
    save_model(knowing, folder / "original")
    for name, part in (("forget", people(4)[:4]), ("retain", people(4)[4:])):
        rows = [{"id": e.id, "question": e.question, "answer": e.answer, "subject": e.subject} for e in part]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metric.py").write_text(METRIC)
    (folder / "loss.py").write_text(LOSS)
    (folder / "study.yaml").write_text(
        f"""
name: plugged
plugins: [metric.py, loss.py]
benchmark: {{name: local-files, settings: {{forget: {folder}/forget.jsonl, retain: {folder}/retain.jsonl}}}}
model: {{path: {folder}/original, device: cpu}}
unlearn: {{training: {{epochs: 1, lr: 1e-4, warmup_ratio: 0}}, runs: [{{name: mine, terms: [{{term: climb}}]}}]}}
score: {{metrics: [ES, letters], max_new_tokens: 0}}
calibrate: null
"""
    )
    return folder / "study.yaml"


@pytest.mark.slow
def test_a_study_names_what_its_plug_ins_register(knowing: uwc.Model, tmp_path: Path) -> None:
    path = write_study(tmp_path / "place", knowing)
    done = uwc.run_study(path, runs_dir=tmp_path / "runs", allow_plugins=True)
    (run,) = done.unlearned
    expected = sum(len(e.answer) for e in people(4)[:4]) / 4
    assert [s.mean for s in run.scores if (s.set, s.metric) == ("forget", "letters")] == [expected]
    assert set(done.provenance.steps["unlearn/unlearned/mine"].code) == {"climb"}

    def missing() -> set[str]:
        plan = make_plan(uwc.load_config(path, allow_plugins=True))
        return {step.id for step in missing_steps(plan, Store(tmp_path / "runs" / "store"))}

    assert missing() == set()
    loss = path.with_name("loss.py")
    loss.write_text(LOSS.replace("return ", "return 2 * "))
    assert missing() == {"unlearn/unlearned/mine", "score/unlearned/mine"}, "an edited loss is trained again"
    overrides = {"unlearn.training.lr": 1e-3}
    again = uwc.run_study(path, runs_dir=tmp_path / "runs", overrides=overrides, allow_plugins=True)
    assert again.unlearned[0].training is not None and run.training is not None
    assert again.unlearned[0].training.log.loss[0] == pytest.approx(2 * run.training.log.loss[0], rel=1e-4)


def test_a_plug_in_that_is_missing_is_told_by_the_study(tmp_path: Path) -> None:
    config: dict[str, Any] = {"name": "x", "plugins": ["nowhere.py"], "unlearn": {"runs": [{"method": "npo"}]}}
    with pytest.raises(ConfigError, match=r"study: the plug-in nowhere\.py cannot be read"):
        uwc.load_config(config)
