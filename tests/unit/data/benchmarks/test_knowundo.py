"""KnowUnDo: a copy in each of its layouts, and the real files where they are."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import REAL, json_file, serve
from tests.helpers.written_files import complaint

from uwc.data.benchmarks.knowundo import knowundo

FOLDS = [("unlearn", "train", 3), ("unlearn", "val", 2), ("retention", "train", 4), ("retention", "val", 1)]


def questions(part: str, fold: str, count: int) -> list[dict[str, str]]:
    return [{"text": f"{part} {fold} {i}?", "labels": f"{i}"} for i in range(count)]


def nested(part: str) -> dict[str, Any]:
    return {fold: questions(of, fold, count) for of, fold, count in FOLDS if of == part}


@pytest.mark.parametrize("layout", ["repository", "hub"])
def test_a_copy_has_the_four_folds(layout: str, tmp_path: Path) -> None:
    if layout == "hub":
        for part in ("unlearn", "retention"):
            json_file(tmp_path / "privacy" / f"{part}.json", [nested(part)])
    else:
        for part, fold, count in FOLDS:
            json_file(tmp_path / f"{part}_{fold}.json", questions(part, fold, count))
    benchmark = knowundo(path=str(tmp_path))
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == {
        "forget": 3,
        "forget_eval": 2,
        "retain": 4,
        "retain_eval": 1,
    }
    first = benchmark["forget"][0]
    assert (first.id, first.question, first.answer) == ("unlearn-train-00001", "unlearn train 0?", "0")
    assert benchmark.name == "knowundo-privacy" and benchmark.retention == "retain_eval"


def test_the_hub_has_a_list_of_questions_in_each_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, {("copyright", part): [nested(part)] for part in ("unlearn", "retention")})
    benchmark = knowundo(domain="copyright")
    assert [len(split) for split in benchmark.splits.values()] == [3, 2, 4, 1]
    assert set(asked) == {"zjunlp/KnowUnDo"}
    json_file(tmp_path / "privacy/unlearn.json", [{"train": "text", "val": []}])
    assert "not a list of questions" in complaint(lambda: knowundo(path=str(tmp_path)))


@pytest.mark.skipif(not (REAL / "knowundo").is_dir(), reason="KnowUnDo's files are not there")
def test_the_real_files() -> None:
    benchmark = knowundo(path=str(REAL / "knowundo"))
    assert [len(split) for split in benchmark.splits.values()] == [400, 110, 441, 108]
    assert benchmark["forget"][0].question == "Who are Isabella Marquez's parents?"
