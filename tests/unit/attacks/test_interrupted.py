"""Attacks that are interrupted while they train or search, and run again, end with the bits of one that is not."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people
from torch.optim.optimizer import register_optimizer_step_pre_hook

import uwc
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.suffix_search import SuffixSearch
from uwc.errors import DiskFull
from uwc.models import chunks
from uwc.models.chunks import Pace, keeping
from uwc.models.model import Model
from uwc.training import checkpoint
from uwc.training.checkpoint import FILE

SCORED, OWNED, RETAINED = people()[:4], people()[4:8], people()[8:]
LENGTHS = {"steps": 5, "lr": 1e-3, "batch_size": 2}
SEARCH = {"steps": 5, "start": " x x", "candidates": 8, "top_k": 8}
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "relearn": {"relearn": LENGTHS},
    "relearn_forget": {"relearn_forget": {**LENGTHS, "budgets": [1, 3, 5]}},
    "probe": {"probe": {"epochs": 3, "positions": 16, "lr": 1e-3}},
    "soft_prompt": {"soft_prompt": {"steps": 5, "batch_size": 2, "tokens": 3}},
    "gcg": {"gcg": {**SEARCH, "questions": 2, "budgets": [2, 5]}},
    "gcg_per_question": {"gcg_per_question": {**SEARCH, "steps": 3}},
    "relearn+gcg": {"relearn": {**LENGTHS, "steps": 2}, "gcg": {**SEARCH, "steps": 2, "questions": 2}},
}


class Interrupted(Exception):
    """What a kill is in these tests."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state after every step is written."""
    monkeypatch.setattr(chunks, "EVERY", 0.0)


class Steps:
    """Counts finished steps of trainings and searches, and interrupts before one."""

    def __init__(self) -> None:
        self.done, self.most = 0, 10**9

    def begin(self, *_given: Any) -> None:
        if self.done >= self.most:
            raise Interrupted
        self.done += 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    counted, step = Steps(), SuffixSearch.step

    def search(self: SuffixSearch) -> None:
        counted.begin()
        step(self)

    monkeypatch.setattr(SuffixSearch, "step", search)
    handle = register_optimizer_step_pre_hook(counted.begin)
    yield counted
    handle.remove()


def attack(model: Model, name: str, folder: Path | None) -> uwc.AttackResults:
    return uwc.attack(
        model,
        SCORED,
        name,
        attacker=uwc.Attacker(train=OWNED, retain=RETAINED),
        settings=CASES[name],
        metrics=["probability", "extraction_strength"],
        max_new_tokens=4,
        output_dir=folder,
    )


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_attack_continues_with_the_same_bits(
    name: str, untrained: Model, tmp_path: Path, steps: Steps
) -> None:
    """Stopped after every two steps; each step is computed once, and nothing is left."""
    expected = attack(untrained, name, tmp_path / "whole")
    whole, steps.done, stopped = steps.done, 0, 0
    while True:
        steps.most = steps.done + 2
        try:
            found = attack(untrained, name, tmp_path / "out")
        except Interrupted:
            stopped += 1
            assert any((tmp_path / "out" / ".chunks").iterdir())
            continue
        break
    assert stopped >= (whole - 1) // 2 > 0
    assert steps.done == whole
    assert found.to_json() == expected.to_json()
    (outcome, *_) = found.attacks.models[0].outcomes
    assert outcome.after.mean != outcome.before.mean
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    assert not (tmp_path / "out" / ".chunks").exists()
