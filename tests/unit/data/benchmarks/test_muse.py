"""MUSE, read from a small copy in the hub's layout."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import serve, write_copy
from tests.helpers.written_files import complaint

from uwc.data.benchmarks.muse import muse
from uwc.errors import ConfigError


def texts(name: str, count: int = 3) -> list[dict[str, str]]:
    return [
        {"text": f"The {name} story {i} begins here.\n" + f"The {name} story {i} goes on. " * 10} for i in range(count)
    ]


def splits() -> dict[tuple[str | None, str], Any]:
    found: dict[tuple[str | None, str], Any] = {
        ("raw", part): texts(part) for part in ("forget", "retain1", "retain2", "holdout")
    }
    found |= {(config, f"forget_{i}"): texts(f"{config}{i}") for config in ("scal", "sust") for i in (1, 2, 3, 4)}
    found |= {("privleak", part): texts(f"private {part}") for part in ("forget", "retain", "holdout")}
    found["verbmem", "forget"] = [{"prompt": f"Once {i} upon", "gt": " a time there was"} for i in range(4)]
    for part in ("forget", "retain"):
        found["knowmem", f"{part}_qa"] = [{"question": f"{part} {i}?", "answer": f"{i}"} for i in range(5)]
    return found


@pytest.fixture
def copy(tmp_path: Path) -> str:
    return str(write_copy(tmp_path, splits()))


def test_each_criterion_has_its_set(copy: str) -> None:
    benchmark = muse(path=copy, passage_length=200)
    counts = {split: len({e.subject or e.id for e in examples}) for split, examples in benchmark.splits.items()}
    assert counts == {
        "forget": 3,
        "retain": 3,
        "retain_eval": 3,
        "holdout": 3,
        "verbatim": 4,
        "forget_knowledge": 5,
        "retain_knowledge": 5,
    }
    for split in ("forget", "retain", "retain_eval", "holdout"):
        assert all(e.raw and len(e.question + e.answer) <= 200 for e in benchmark[split])
        assert len(benchmark[split]) > 3, "a text is cut into several passages"
    assert not any(e.raw for e in benchmark["verbatim"]), "that set has no template anyway"
    assert benchmark["verbatim"][0].question == "Once 0 upon"
    assert benchmark.trained == ("forget", "retain", "retain_eval")


@pytest.mark.parametrize("forget", ["scal_2", "sust_4"])
def test_the_forget_sets_of_scalability_and_sustainability(copy: str, forget: str) -> None:
    benchmark = muse(path=copy, forget=forget)  # type: ignore[arg-type]
    assert benchmark.name == f"muse-news-{forget}"
    assert benchmark["forget"][0].question.startswith(f"The {forget.replace('_', '')} story 0")


def test_all_forget_sets_of_a_criterion_are_portions_of_one(tmp_path: Path) -> None:
    found = splits()
    for i in (2, 3, 4):  # as in MUSE, each is a part of the next
        found["scal", f"forget_{i}"] = [*found["scal", f"forget_{i - 1}"], *texts(f"scal{i}", count=2)]
    copy = str(write_copy(tmp_path, found))
    whole = muse(path=copy, forget="scal", passage_length=200)
    assert whole.name == "muse-news-scal"
    for i in (1, 2, 3, 4):
        part = muse(path=copy, forget=f"scal_{i}", passage_length=200)["forget"]  # type: ignore[arg-type]
        assert [(e.question, e.answer) for e in whole.portion(f"scal_{i}")] == [(e.question, e.answer) for e in part]
    folds = muse(path=copy, forget="sust", passage_length=200)
    ids = [e.id for i in (1, 2, 3, 4) for e in folds.portion(f"sust_{i}")]
    assert ids == [e.id for e in folds["forget"]] and len(set(ids)) == len(ids)
    assert muse(path=copy).portions == {}


def test_numbers_of_texts_are_limited(copy: str) -> None:
    benchmark = muse(path=copy, texts=2, retain_eval=1)
    assert [len({e.subject for e in benchmark[s]}) for s in ("forget", "retain", "retain_eval")] == [2, 2, 1]


def test_passages_of_two_splits_are_left_out_of_the_later(tmp_path: Path) -> None:
    repeated = splits()
    repeated["raw", "retain1"] = [*repeated["raw", "forget"][:1], *repeated["raw", "retain1"]]
    benchmark = muse(path=str(write_copy(tmp_path, repeated)))
    assert [e.subject for e in benchmark["retain"]] == ["raw-retain1-00002", "raw-retain1-00003", "raw-retain1-00004"]
    repeated["raw", "retain1"] = repeated["raw", "forget"]
    assert "'retain'" in complaint(lambda: muse(path=str(write_copy(tmp_path, repeated))))


def test_the_hub_gives_the_same_as_a_copy(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, splits())
    assert muse() == muse(path=copy)
    assert set(asked) == {"muse-bench/MUSE-News"}


def test_books_have_one_forget_set_and_missing_files_are_named(copy: str) -> None:
    assert "valid: raw" in complaint(lambda: muse(corpus="books", forget="scal_1"), ConfigError)
    (Path(copy) / "knowmem/forget_qa-00000-of-00001.parquet").unlink()
    message = complaint(lambda: muse(path=copy))
    assert "knowmem/forget_qa" in message and "muse-bench/MUSE-News" in message
