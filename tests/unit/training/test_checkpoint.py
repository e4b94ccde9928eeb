"""A run that is killed at any step goes on from its last checkpoint and ends with the same bits."""

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people

from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError
from uwc.models.model import Model
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.callbacks import StopRule
from uwc.training.checkpoint import FILE
from uwc.training.data import TrainingData
from uwc.training.loop import TrainingLog, train
from uwc.training.settings import SampleSettings, TrainingSettings

DATA = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.", "No idea."))


class Killed(BaseException):
    """Stands for a signal: nothing in the code catches it."""


def bits(model: Model) -> list[bytes]:
    return [p.detach().numpy().tobytes() for p in model.model.parameters()]


def run(
    knowing: Model, method: str, folder: Path | None, *, kill: int = 0, **settings: Any
) -> tuple[list[bytes], TrainingLog]:
    """Train from the knowing model; with `kill`, die after that step."""
    model = copied(knowing)

    def measure(_model: Model) -> float:
        raise Killed

    chosen = {"epochs": 3, "batch_size": 2, "lr": 1e-3, "checkpoint_every": 2, **settings}
    stop = StopRule(measure, bound=0.0, every=kill) if kill else None
    log = train(
        model,
        Objective(METHODS[method], model.model),
        DATA,
        TrainingSettings(**chosen),
        checkpoints=folder,
        stop=stop,
    )
    return bits(model), log


@pytest.mark.slow
@pytest.mark.parametrize("kill", [1, 3, 6])
def test_a_killed_run_ends_with_the_same_bits(kill: int, knowing: Model, tmp_path: Path) -> None:
    whole, log = run(knowing, "npo-kl", None)
    with pytest.raises(Killed):
        run(knowing, "npo-kl", tmp_path, kill=kill)
    again, resumed = run(knowing, "npo-kl", tmp_path)
    assert again == whole
    assert resumed.steps == log.steps
    assert (tmp_path / FILE).exists() == (kill > 1 or len(log.steps) > 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("pdu", {}),
        ("prune-first", {}),
        ("l1-sparse", {"epochs": 2}),
        ("task-vector", {}),
        ("npo-gru", {}),
        ("npo-lat", {}),
        ("npo-on-policy", {"samples": SampleSettings(max_new_tokens=5, every=4)}),
        ("rmu", {"optimizer": "sgd", "optimizer_settings": {"momentum": 0.9}, "schedule": "cosine"}),
    ],
)
def test_what_a_method_remembers_beside_its_weights_is_kept(
    method: str, settings: dict[str, Any], knowing: Model, tmp_path: Path
) -> None:
    """Dual variables, masks, the weights it began with, averaged gradients, sampled answers, momentum."""
    whole, log = run(knowing, method, None, **settings)
    with pytest.raises(Killed):
        run(knowing, method, tmp_path, kill=3, **settings)
    again, resumed = run(knowing, method, tmp_path, **settings)
    assert again == whole
    assert resumed.steps == log.steps


def test_a_killed_write_leaves_the_checkpoint_before_it(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = run(knowing, "gd", None)
    writes = []

    def torn(*args: Any, **kwargs: Any) -> None:
        writes.append(1)
        if len(writes) == 2:
            args[1].write(b"half a file")
            raise Killed
        save(*args, **kwargs)

    save = torch.save
    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        run(knowing, "gd", tmp_path)
    monkeypatch.undo()
    assert run(knowing, "gd", tmp_path)[0] == whole


def test_the_checkpoint_of_another_run_is_refused(knowing: Model, tmp_path: Path) -> None:
    """Of other settings, another prompt, other tokens of the same prompt, another precision of the same weights."""
    half, knowing = copied(knowing), copied(knowing)
    half.model.bfloat16()
    knowing.model.bfloat16().float()
    with pytest.raises(Killed):
        run(knowing, "gd", tmp_path, kill=3)
    asked_otherwise = replace(knowing, template=PromptTemplate("{question} ->"))
    tokens_otherwise = replace(knowing, tokenizer=copy.deepcopy(knowing.tokenizer))
    tokens_otherwise.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for other, settings in ((knowing, {"lr": 2e-3}), (asked_otherwise, {}), (tokens_otherwise, {}), (half, {})):
        with pytest.raises(ConfigError, match="was written by a run with other settings"):
            run(other, "gd", tmp_path, **settings)


def flipped(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damaged", ["state", "name", "no state", "a folder", "a pipe", "not JSON"])
def test_a_run_whose_checkpoint_is_damaged_starts_again(
    damaged: str, knowing: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, log = run(knowing, "gd", None)
    with pytest.raises(Killed):
        run(knowing, "gd", tmp_path, kill=3)
    (state,) = tmp_path.glob("step-*.pt")
    if damaged == "state":
        flipped(state)
    elif damaged == "name":
        flipped(tmp_path / FILE)
    elif damaged == "no state":
        state.unlink()
    elif damaged == "a folder":
        state.unlink()
        state.mkdir()
    elif damaged == "a pipe":
        (tmp_path / FILE).unlink()
        os.mkfifo(tmp_path / FILE)
    else:
        (tmp_path / FILE).write_bytes(b"\xff")
    again, resumed = run(knowing, "gd", tmp_path)
    assert again == whole and resumed.steps == log.steps
    assert "starts again" in capsys.readouterr().err
