"""What each process does that a launcher started."""

from pathlib import Path

import pytest
import torch

from uwc.errors import UserError
from uwc.models.load import pick_device
from uwc.workflows.studies import run_study


def test_each_process_takes_the_gpu_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 3)
    assert pick_device("cpu") == torch.device("cpu")


def test_a_study_is_not_run_by_several_processes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="a study runs in one process"):
        run_study("quickstart", runs=tmp_path)
    assert not list(tmp_path.iterdir())
