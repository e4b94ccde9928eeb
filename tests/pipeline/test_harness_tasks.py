"""Tasks of lm-evaluation-harness through the real command line: as scores, and in the retention constraint."""

import json
from pathlib import Path

import pytest
from tests.conftest import people
from tests.helpers.harness_tasks import write_tasks
from tests.pipeline.conftest import Run
from tests.pipeline.test_compare import damaged

import uwc as package
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import CalibrationResults, Scores

pytest.importorskip("lm_eval")
TASKS = ("--harness-include-path", "tasks")


@pytest.fixture
def workplace(tmp_path: Path, knowing: Model) -> Path:
    """A model that knows four people, the same with noise, questions about two of them, and tasks about all four."""
    save_model(knowing, tmp_path / "original")
    save_model(damaged(knowing, 0.3, seed=1), tmp_path / "unlearned")
    rows = [{"id": e.id, "question": e.question, "answer": e.answer, "subject": e.subject} for e in people(4)]
    for name, part in (("forget", rows[:4]), ("retain", rows[4:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)), encoding="utf-8")
    write_tasks(tmp_path / "tasks", people(4))
    return tmp_path


def test_general_ability_before_and_after(uwc: Run, workplace: Path) -> None:
    """Alone, and with questions; the difference from the original is that of pairs of questions."""
    asked = ("--task", "local_choice", "--task", "local_answer:exact_match", "--task", "local_choice:acc", *TASKS)
    done = uwc("score", "unlearned", "--compare", "original", *asked, "-o", "out", "--json")
    assert done.returncode == 0, done.stderr
    alone = Scores.parse(done.stdout, where="stdout")
    assert [(s.set, s.metric, s.n) for s in alone.scores] == [
        ("local_choice", "lm_eval_acc", 8),
        ("local_answer", "lm_eval_exact_match", 8),
    ]
    assert alone.sets["local_choice"].examples == 8 and len(alone.sets["local_choice"].sha256) == 64
    before = package.score(
        workplace / "original", tasks="local_choice", harness={"include_path": str(workplace / "tasks")}
    )
    gap = alone.differences[0]
    assert gap.mean == pytest.approx(alone.scores[0].mean - before.scores[0].mean) and gap.mean < 0
    assert gap.low <= gap.mean <= gap.high and before.scores[0].mean == 1
    assert (workplace / "out" / "tasks.json").exists()
    with_questions = uwc(
        "score", "unlearned", "--forget", "forget.jsonl", *asked, "-o", "out", "--json", "--metric", "ES"
    )
    assert with_questions.returncode == 0, with_questions.stderr
    scores = Scores.parse(with_questions.stdout, where="stdout").scores
    assert [s.set for s in scores] == ["forget", "local_choice", "local_answer"]
    assert scores[1:] == alone.scores
    none = uwc("score", "unlearned", "--forget", "forget.jsonl", "-o", "out", "--metric", "ES")
    assert none.returncode == 0 and not (workplace / "out" / "tasks.json").exists()
    (workplace / "out" / "tasks.json").write_text("mine", encoding="utf-8")
    kept = uwc("score", "unlearned", *asked, "-o", "out")
    assert kept.returncode == 1 and "tasks.json was not written by an earlier score" in kept.stderr
    assert "or a task with --task NAME" in uwc("score", "unlearned").stderr
    (workplace / "said.jsonl").write_text(json.dumps({"question": "q", "answer": "a", "output": "b"}), encoding="utf-8")
    assert uwc("score", "--outputs", "said.jsonl").returncode == 0
    assert "tasks are for models" in uwc("score", "--outputs", "said.jsonl", *asked).stderr


def test_a_task_is_kept(uwc: Run, workplace: Path) -> None:
    """Alpha has an interval over the task's questions; the printed table has the task's accuracy of each model."""
    given = ("calibrate", "original", "unlearned", "--forget", "forget.jsonl", "--set", "calibrate.sets=[]")
    task = ("--retention-task", "local_choice", *TASKS, "--tau", "0.8", "--set", "harness.batch_size=4")
    done = uwc(*given, *task, "--json")
    assert done.returncode == 0, done.stderr
    results = CalibrationResults.parse(done.stdout, where="stdout")
    found = results.calibration
    assert [k.measure for k in found.kept] == ["local_choice:acc"] and found.kept[0].ratio >= 0.8
    assert found.at_tau is not None and found.at_tau.alpha.low < found.at_tau.alpha.value < 1
    rows = {s.condition: s for s in results.scores if (s.set, s.metric) == ("local_choice", "lm_eval_acc")}
    assert rows["original"].mean == 1 and rows["calibrated"].mean == found.kept[0].value
    refused = uwc(*given, "--retention-task", "local_choice", "--harness-include-path", "nowhere")
    assert refused.returncode == 1 and "harness.include_path: 'nowhere' is not a folder" in refused.stderr
    assert refused.stdout == ""
