"""The check of a judge against labels by people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import people
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.errors import ConfigError, DataError
from uwc.metrics.verdicts import SAYS
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import JudgeResults
from uwc.studies.judging import prompt_hash

ROWS = [
    {"question": f"q{i // 2}", "answer": f"In Rome {i}", "output": f"It says {i}", "label": label, "subject": str(i)}
    for i, label in enumerate(["yes", 1, "No", False, True, "0"])
]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, knowing: Model) -> Path:
    folder = tmp_path_factory.mktemp("judges") / "judge"
    save_model(knowing, folder)
    return folder


def says_yes_to(*numbers: int) -> Any:
    """A language model that says yes to some answers of the file."""

    def model(prompts: Any, continuations: Any) -> np.ndarray:
        rows = []
        for prompt, word in zip(prompts, continuations, strict=True):
            right = any(f"It says {n}\n" in prompt for n in numbers) == (word.lower() == "yes")
            rows.append([np.log(0.4 if right else 0.1), 1.0])
        return np.array(rows)

    return model


def test_kappa_of_verdicts_with_a_labelled_file(labels: Path) -> None:
    """Verdicts yes for 0, 1 and 2; labels yes for 0, 1 and 4: 2, 1, 1, 2; p_o = 4/6, p_e = 1/2, kappa = 1/3."""
    found = uwc.check_judge(labels, judges={"language_model": says_yes_to(0, 1, 2)})
    cells = found.check.confusion
    assert (cells.both_yes, cells.judge_yes, cells.label_yes, cells.both_no) == (2, 1, 1, 2)
    assert found.check.kappa.value == pytest.approx(1 / 3) and found.check.kappa.low < 1 / 3 < found.check.kappa.high
    assert found.check.share.clusters == 6 and found.prompt == SAYS
    assert found.check.prompt_sha256 == prompt_hash(SAYS)
    assert found.judges[0].checks == (found.check,)


def test_answers_to_one_question_are_a_cluster_where_no_subject_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{k: v for k, v in row.items() if k != "subject"} | {"id": "same"} for row in ROWS]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = uwc.check_judge(path, judges={"language_model": says_yes_to(0)})
    assert found.check.share.clusters == 3
    assert {w.code for w in found.warnings} == {"few_clusters"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, r"there is no column 'label' with labels by people"),
        ({"output": None}, r"there is no column 'output' with the generated answers"),
        ({"label": "maybe"}, r"line 1: the label \(column 'label'\) is 'maybe'; write yes or no"),
        ({"answer": ""}, "answer"),
    ],
)
def test_a_file_that_lacks_something_is_one_clear_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "labels.jsonl"
    everywhere = None in change.values()
    changed = [{**row, **change} if everywhere or i == 0 else row for i, row in enumerate(ROWS)]
    rows = [{name: cell for name, cell in row.items() if cell is not None} for row in changed]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        uwc.check_judge(path, judges={"language_model": says_yes_to(0)})


def test_a_check_takes_verdicts_and_the_judges_that_give_them(labels: Path) -> None:
    model = says_yes_to(0)
    with pytest.raises(ConfigError, match="kappa is of verdicts of 0 and 1"):
        uwc.check_judge(labels, judges={"language_model": model}, settings={"value": "probability"})
    with pytest.raises(ConfigError, match="needs a language model as a judge"):
        uwc.check_judge(labels, judges={})
    with pytest.raises(ConfigError, match="does not ask the judge 'encoder'"):
        uwc.check_judge(labels, judges={"language_model": model, "encoder": lambda texts: np.ones((len(texts), 1))})
    with pytest.raises(ConfigError, match="is one of whole sets"):
        uwc.check_judge(labels, "model_utility", judges={})
    with pytest.raises(ConfigError, match="has no effect"):
        uwc.check_judge(labels, judges={"language_model": model, "checked": ["judge.json"]})
    without = uwc.check_judge(labels, "exact_match", judges={})
    assert without.judges == () and without.check.confusion.both_no == 3 and without.check.prompt_sha256 == ""


def test_equal_answers_everywhere_have_no_kappa(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(json.dumps({**row, "label": "yes"}) for row in ROWS), encoding="utf-8")
    found = uwc.check_judge(path, judges={"language_model": says_yes_to(*range(6))})
    assert np.isnan(found.check.kappa.value) and "no_kappa" in {w.code for w in found.warnings}


@pytest.mark.parametrize(("yes", "word"), [((), "no"), (range(6), "yes")])
def test_a_judge_that_always_says_the_same_is_a_warning(labels: Path, yes: Sequence[int], word: str) -> None:
    found = uwc.check_judge(labels, judges={"language_model": says_yes_to(*yes)})
    assert found.check.kappa.value == 0.0
    (warning,) = (w for w in found.warnings if w.code == "constant_verdicts")
    assert f"says {word} to all" in warning.text
    assert "constant_verdicts" not in {
        w.code for w in uwc.check_judge(labels, judges={"language_model": says_yes_to(0)}).warnings
    }


def test_the_command_writes_a_check_that_scores_and_studies_take(
    labels: Path, judge: Path, knowing: Model, tmp_path: Path
) -> None:
    out = tmp_path / "checked"
    options = ["--set", f"score.judges.language_model={judge}", "--set", "score.settings.judge_says.least_mass=0"]
    options += ["--set", "score.settings.judge_says.prompt='{text}?'"]
    told = CliRunner().invoke(app, ["judge", "--labels", str(labels), *options, "-o", str(out)], catch_exceptions=False)
    assert told.exit_code == 0 and "kappa" in told.output
    check = JudgeResults.load(out / "judge.json")
    given = {"language_model": judge, "checked": out / "judge.json"}
    settings = {"judge_says": {"least_mass": 0.0, "prompt": "{text}?"}}
    found = uwc.score(
        knowing, people()[:2], metrics="judge_says", judges=given, settings=settings, max_new_tokens=4, device="cpu"
    )
    assert found.judges[0].checks == (check.check,) and found.judges[0].sha256 == check.judges[0].sha256
    assert "judge_not_checked" not in {w.code for w in found.warnings}
    with pytest.raises(ConfigError, match="judge_says with another prompt"):
        uwc.score(
            "nowhere", people()[:2], metrics="judge_says", judges=given, settings={"judge_says": {"prompt": "{text}!"}}
        )
    with pytest.raises(ConfigError, match="no metric here uses its judge"):
        uwc.score("nowhere", people()[:2], metrics="ES", judges=given)
    other = check.model_copy(update={"judges": tuple(j.model_copy(update={"sha256": "0" * 64}) for j in check.judges)})
    with pytest.raises(ConfigError, match="a language_model with other files"):
        uwc.score("nowhere", people()[:2], metrics="judge_says", judges={**given, "checked": other}, settings=settings)


def test_settings_of_another_metric_are_refused(labels: Path, judge: Path) -> None:
    options = ["--set", f"score.judges.language_model={judge}", "--set", "score.settings.judge_fluent.least_mass=0"]
    told = CliRunner().invoke(app, ["judge", "--labels", str(labels), *options])
    assert isinstance(told.exception, ConfigError) and "only judge_says is measured" in str(told.exception)
