"""Attacks that are interrupted while they train or search, and run again, end with the bits of one that is not."""

from collections.abc import Iterator
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


def relearned(model: Model, folder: Path, budgets: tuple[int, ...] = (1, 3, 5), **changes: Any) -> list[bytes]:
    """The bits of the weights at each budget."""
    settings = {**LENGTHS, "budgets": budgets, **changes}
    chain = make_chain("relearn", {"relearn": settings})
    with keeping(folder, "run"), attacked(model, AttackData(SCORED, train=OWNED), chain) as variants:
        return [b"".join(p.detach().numpy().tobytes() for p in v.model.model.parameters()) for v in variants]


def interrupted(model: Model, folder: Path, steps: Steps, *, after: int) -> None:
    steps.most = steps.done + after
    with pytest.raises(Interrupted):
        relearned(model, folder)
    steps.most = 10**9


@pytest.mark.parametrize(("damaged", "again"), [(f"1/{FILE}", 5), ("1/step-1.pt", 5), ("step-3.pt", 5), ("", 2)])
def test_damaged_files_start_the_training_again(
    damaged: str, again: int, untrained: Model, tmp_path: Path, steps: Steps
) -> None:
    """Interrupted after 3 of 5 steps: what is missing or damaged is found, and 5 steps are taken again, not 2.

    Without the weights at the budget 1, that is found out after the other two.
    """
    expected = relearned(untrained, tmp_path / "whole")
    interrupted(untrained, tmp_path / "out", steps, after=3)
    if damaged:
        (file,) = (tmp_path / "out").glob(f"*/{damaged}")
        file.write_bytes(file.read_bytes()[:-1]) if file.suffix == ".pt" else file.unlink()
    before = steps.done
    assert relearned(untrained, tmp_path / "out") == expected
    assert steps.done - before == again + 2 * damaged.startswith("1/")
    assert not (tmp_path / "out").exists()


def test_another_training_is_never_resumed(untrained: Model, tmp_path: Path, steps: Steps) -> None:
    """Of other weights (one number of one), another rate, seed or budget."""
    interrupted(untrained, tmp_path / "out", steps, after=3)
    changed = replace(untrained, model=copied(untrained).model)
    with torch.no_grad():
        next(changed.model.parameters()).view(-1)[777] += 1e-3
    others: list[tuple[Model, dict[str, Any]]] = [
        (changed, {}),
        (untrained, {"lr": 2e-3}),
        (untrained, {"seed": 1}),
        (untrained, {"budgets": (2,), "steps": 5}),
    ]
    for model, settings in others:
        steps.most = (before := steps.done) + 4
        with pytest.raises(Interrupted):
            relearned(model, tmp_path / "out", **settings)
        assert steps.done - before == 4
    steps.most, before = 10**9, steps.done
    relearned(untrained, tmp_path / "out")
    assert steps.done - before == 2, "the checkpoint of the first is still there"


def test_a_full_disk_ends_the_checkpoints_and_not_the_training(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = relearned(untrained, tmp_path / "whole", ())
    tried = []

    def full(folder: Path, state: Any) -> None:
        tried.append(state.step)
        raise DiskFull("no space left on the device")

    monkeypatch.setattr(checkpoint, "save_checkpoint", full)
    assert relearned(untrained, tmp_path / "out", ()) == expected
    assert tried == [1]
    assert "cannot be resumed after step 1: no space left" in capsys.readouterr().err


def test_a_training_shorter_than_the_interval_leaves_nothing(
    untrained: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither checkpoints nor the weights at its budgets, once these are scored."""
    monkeypatch.setattr(chunks, "EVERY", 60.0)
    chain = make_chain("relearn", {"relearn": {**LENGTHS, "budgets": [1, 5]}})
    with keeping(tmp_path / "out", "run"):
        with attacked(untrained, AttackData(SCORED, train=OWNED), chain) as variants:
            assert [v.effort for v in variants] == [1, 5]
        assert not list((tmp_path / "out").iterdir())


def test_the_pace_of_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute; after a write of 2 s a minute again, and after one of 9 s three minutes, 20 times as long."""
    monkeypatch.setattr(chunks, "EVERY", 60.0)
    now = 1000.0
    monkeypatch.setattr(chunks.time, "monotonic", lambda: now)
    pace = Pace()
    for took, wait in ((2.0, 60.0), (9.0, 60.0), (0.5, 180.0), (0.0, 60.0)):
        now += wait - 1.0
        assert not pace.due()
        now += 1.0
        assert pace.due()
        with pace.writing():
            now += took
