"""PISTOL: edges of the graph, and those that share a party with a forgotten one."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import json_file, serve
from tests.helpers.written_files import complaint

from uwc.data.benchmarks.pistol import pistol
from uwc.errors import ConfigError

EDGES = ("A_B", "A_C", "D_E", "E_F")


def rows() -> list[dict[str, Any]]:
    return [{"question": f"What is term {i} of {e}?", "answer": f"{e} {i}", "edge": e} for e in EDGES for i in (0, 1)]


@pytest.mark.parametrize("file", ["sample_data_1.json", "data/sample_data_1.json", "pistol_sample1.json"])
def test_neighbours_are_kept_from_unlearning(file: str, tmp_path: Path) -> None:
    json_file(tmp_path / file, rows())
    benchmark = pistol(path=str(tmp_path))
    assert {split: {e.subject for e in benchmark[split]} for split in benchmark.splits} == {
        "forget": {"A_B"},
        "retain": {"D_E", "E_F"},
        "neighbours": {"A_C"},
    }
    whole = pistol(path=str(tmp_path), forget=("A_B", "D_E"), keep_neighbours=False)
    assert {e.subject for e in whole["retain"]} == {"A_C", "E_F"} and list(whole.splits) == ["forget", "retain"]


def test_the_second_sample_is_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, {("pistol_data_2", "train"): rows()})
    assert pistol(sample=2).name == "pistol-2"


def test_unknown_edges_and_nothing_to_retain_are_refused(tmp_path: Path) -> None:
    json_file(tmp_path / "sample_data_1.json", rows())
    path = str(tmp_path)
    message = complaint(lambda: pistol(path=path, forget=("X_Y",)), ConfigError)
    assert "'X_Y'" in message and "A_B, A_C" in message
    assert "keep_neighbours to false" in complaint(lambda: pistol(path=path, forget=("A_B", "D_E")))
    json_file(tmp_path / "sample_data_1.json", [{"question": "a?", "answer": "b"}])
    assert "column 'edge' is missing" in complaint(lambda: pistol(path=path))
