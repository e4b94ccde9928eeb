"""LUME: a copy in each of its layouts, and the real files where they are."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import REAL, serve, write_copy
from tests.helpers.written_files import complaint, write_jsonl

from uwc.data.benchmarks.lume import lume


def rows(word: str) -> list[dict[str, Any]]:
    story = {"id": f'"{word}"sc1', "input": f"{word} went to sea. ", "output": f"{word} came back.", "task": "Task1"}
    asked = {"id": f'"{word}"qa0', "input": f"Where did {word} go?", "output": "to sea", "task": "Task1"}
    person = {"id": f"{word}-2sc1", "input": f"Ann {word} was born", "output": "in May.", "task": "Task2"}
    number = {"id": f"{word}-2qa3", "input": f"What is Ann {word}'s number?", "output": "900", "task": "Task2"}
    return [story, asked, person, number]


def hub() -> dict[tuple[str | None, str], Any]:
    folds = ("forget_train", "retain_train", "forget_validation", "retain_validation")
    return {(None, fold): rows(fold.replace("_", "")) for fold in folds}


def test_the_repositorys_files_make_forget_and_retain(tmp_path: Path) -> None:
    for split in ("forget", "retain"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows(split))
    benchmark = lume(path=str(tmp_path))
    assert list(benchmark.splits) == ["forget", "retain"]
    story, asked, person, number = benchmark["forget"]
    assert (story.id, story.subject, story.raw) == ("Task1/forget/sc1", "Task1/forget", True)
    assert (story.question, story.answer) == ("forget went to sea.", " forget came back.")
    assert (asked.raw, asked.subject, asked.answer) == (False, story.subject, "to sea")
    assert person.subject == number.subject == "Task2/forget-2"
    assert [e.id for e in benchmark["forget"]][1:] == ["Task1/forget/qa0", "Task2/forget-2/sc1", "Task2/forget-2/qa3"]


def test_the_validation_folds_are_not_used_in_unlearning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = lume(path=str(write_copy(tmp_path, hub())))
    assert {split: len(examples) for split, examples in copy.splits.items()} == {
        "forget": 4,
        "retain": 4,
        "retain_eval": 4,
        "forget_validation": 4,
    }
    assert copy.retention == "retain_eval" and set(copy.trained) == set(copy.splits)
    serve(monkeypatch, hub())
    assert lume() == copy


@pytest.mark.parametrize("named", [True, False])
def test_documents_for_membership_inference_are_scored_as_a_whole(tmp_path: Path, named: bool) -> None:
    for split in ("forget", "retain"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows(split))
    folder = tmp_path / ("elsewhere" if named else "mia_data")
    folder.mkdir()
    for file, text in (("member", "forget went to sea."), ("nonmember", "Nobody read this.")):
        write_jsonl(folder / f"{file}.jsonl", [{"id": "1", "document": text}])
    benchmark = lume(path=str(tmp_path), mia=str(folder) if named else None)
    (member,), (other,) = benchmark["members"], benchmark["holdout"]
    assert member.raw and other.raw and (member.question, member.answer) == ("", "forget went to sea.")
    assert {"members", "holdout"}.isdisjoint(benchmark.trained)
    assert "member.jsonl is missing" in complaint(lambda: lume(path=str(tmp_path), mia=str(tmp_path)))


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path)
    for essential in ("LUME's file forget.jsonl is missing", "path: /folder"):
        assert essential in complaint(lambda: lume(path=path))
    write_jsonl(tmp_path / "forget.jsonl", [{"id": "a", "input": "b", "output": "c", "task": "Task1"}])
    assert "line 1: the id 'a' of task 'Task1'" in complaint(lambda: lume(path=path))
    write_jsonl(tmp_path / "forget.jsonl", [{"id": "a", "input": "b", "output": "c"}])
    assert "column 'task' is missing" in complaint(lambda: lume(path=path))


@pytest.mark.skipif(not (REAL / "lume").is_dir(), reason="LUME's files are not there")
def test_the_real_files() -> None:
    """Counted by hand: sc and qa of the tasks 1 to 3."""
    benchmark = lume(path=str(REAL / "lume"))
    counted = {
        split: Counter(e.id[:5] + e.id.rpartition("/")[2][:2] for e in benchmark[split])
        for split in ("forget", "retain")
    }
    kinds = [f"Task{task}{kind}" for task in (1, 2, 3) for kind in ("sc", "qa")]
    assert [counted["forget"][kind] for kind in kinds] == [243, 243, 250, 1250, 373, 373]
    assert [counted["retain"][kind] for kind in kinds] == [246, 246, 250, 1250, 371, 371]
