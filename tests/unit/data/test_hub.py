"""Data sets of the hub and their local copies."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import json_file, parquet, serve
from tests.helpers.written_files import complaint

from uwc.data.hub import HubData

ROWS = [{"question": f"{i}?", "answer": str(i)} for i in range(4)]


def data(path: Path | str) -> HubData:
    return HubData("SOME", "org/SOME", str(path))


def test_a_copy_in_the_hubs_layout_is_found_and_its_parts_are_joined(tmp_path: Path) -> None:
    parquet(tmp_path / "one/test-00000-of-00002.parquet", ROWS[:3])
    parquet(tmp_path / "one/test-00001-of-00002.parquet", ROWS[3:])
    json_file(tmp_path / "two/train.json", ROWS[:1])
    some = data(tmp_path)
    assert [(number, dict(row)) for number, row in some.table("one", split="test").rows] == list(enumerate(ROWS, 1))
    assert [dict(row) for _, row in some.table("two").rows] == ROWS[:1]
    assert [Path(file).name for file in some.read] == [
        "test-00000-of-00002.parquet",
        "test-00001-of-00002.parquet",
        "train.json",
    ]


def test_named_files_come_first_in_their_order(tmp_path: Path) -> None:
    json_file(tmp_path / "b.json", ROWS[:2])
    json_file(tmp_path / "c.json", ROWS[:3])
    assert len(data(tmp_path).table("x", files=["a.json", "b.json", "c.json"]).rows) == 2


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = complaint(lambda: data(tmp_path).table("x", split="test", remedy="leave it out"))
    for essential in ("SOME's file x/test", "org/SOME", "path: /folder/with/the/SOME/files", "; or leave it out"):
        assert essential in message
    assert "there is no such folder" in complaint(lambda: data(tmp_path / "nowhere").table("x"))
    serve(monkeypatch, {("x", "train"): ROWS})
    assert [dict(row) for _, row in data("org/SOME").table("x").rows] == ROWS

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    assert "SOME's x test cannot be loaded from 'org/SOME' (Couldn't reach the hub)" in complaint(
        lambda: data("org/SOME").table("x", split="test")
    )
