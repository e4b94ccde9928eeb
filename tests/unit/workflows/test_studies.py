"""A study is run by one process."""

from pathlib import Path

import pytest

from uwc.errors import UserError
from uwc.workflows.studies import run_study


def test_a_study_is_not_run_by_several_processes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a study runs in one process"):
        run_study("quickstart", runs=tmp_path)
    assert not list(tmp_path.iterdir())
