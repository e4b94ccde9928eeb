"""The same step cut into micro-batches, or shared between processes, is the same step."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people
from transformers import AutoModelForCausalLM

from uwc.models.loading import save_target
from uwc.models.target import Target
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.loading import Loader, TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

DATA = TrainingData(people(4)[:5], people(4)[5:], ("I cannot say.", "No idea."))
WORKER = Path(__file__).with_name("data_parallel_worker.py")


def losses(knowing: Target, method: str, **settings: int) -> tuple[list[dict[str, float]], torch.Tensor]:
    target = copied(knowing)
    chosen = TrainingSettings(epochs=2, batch_size=4, lr=1e-3, **METHODS[method].training, **settings)  # type: ignore[arg-type]
    log = train(target, Objective(METHODS[method], target.model), DATA, chosen)
    return log.steps, torch.cat([p.detach().flatten() for p in target.model.parameters()])


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_change_no_loss(method: str, knowing: Target) -> None:
    """Five examples in steps of four and one; cut into ones, twos and threes."""
    whole, weights = losses(knowing, method)
    for size in (1, 2, 3):
        cut, again = losses(knowing, method, micro_batch_size=size)
        for a, b in zip(whole, cut, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3, abs=1e-4)
        torch.testing.assert_close(again, weights, rtol=0, atol=2e-4)


def test_processes_share_each_step_completely(knowing: Target) -> None:
    """Every example is read by one process; each makes equally many forwards; fillers count nothing."""
    loader = Loader(knowing, Objective(METHODS["gd"], knowing.model), DATA, TrainingSettings(epochs=2, batch_size=4))
    for step in loader.plan:
        parts = [loader.micro_batches(step, 1, rank=rank, of=3) for rank in range(3)]
        assert len({len(p) for p in parts}) == 1
        read = [m.roles["forget"].keys[0][0] for p in parts for m in p if m.live]
        assert sorted(read) == sorted(step.anchors)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npo-kl", "rmu"])
def test_two_processes_have_the_losses_of_one(method: str, knowing: Target, tmp_path: Path) -> None:
    """Data-parallel with gloo on the CPU, over a set that does not divide evenly. The launcher starts one process a
    "GPU"; the model is on the CPU, and so each process computes there."""
    save_target(knowing, tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(port),
        str(WORKER), method, str(tmp_path),
    ]  # fmt: skip
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, weights = losses(knowing, method)
    for rank in range(2):
        shared = json.loads((tmp_path / f"log-{rank}.json").read_text())
        for one, two in zip(alone, shared, strict=True):
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-4, abs=1e-5)
            assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    state = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    torch.testing.assert_close(
        torch.cat([p.detach().flatten() for p in state.parameters()]), weights, rtol=0, atol=2e-4
    )
