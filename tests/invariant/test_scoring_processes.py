"""Two processes of `accelerate launch` that score, attack or calibrate write the bits of one."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, noisy, people
from tests.helpers import counted_batches
from tests.invariant.test_processes import free_port
from tests.pipeline.conftest import Started, run_command

from uwc.models.load import save_model
from uwc.models.model import Model

LAUNCH = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
"""The launcher that `accelerate launch` starts for several devices; on a CPU alone accelerate itself needs MPI."""
FIELDS = ("id", "question", "answer", "subject")
COMMANDS = {
    "score": (
        *("score", "model", "--original", "original", "--retrained", "retrained", "--data", "people.jsonl"),
        *("--metric", "extraction_strength", "--metric", "rouge_l", "--metric", "uds"),
    ),
    "attack": ("attack", "model", "--data", "people.jsonl", "--attack", "jailbreak"),
    "calibrate": ("calibrate", "model", "noisy", "--forget", "first.jsonl", "--retain", "second.jsonl"),
}
LAUNCHED = "attack"
"""The command that the launcher starts; the processes of the others are forked, with the environment that it gives."""


@pytest.fixture(scope="module")
def place(knowing: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and 48 questions, which fill several batches."""
    folder: Path = tmp_path_factory.mktemp("launched")
    save_model(knowing, folder / "model")
    save_model(noisy(knowing), folder / "noisy")
    for name, scale in (("original", 1.02), ("retrained", 0.7)):
        other = copied(knowing)
        with torch.no_grad():
            for parameter in other.model.parameters():
                parameter.mul_(scale)
        save_model(other, folder / name)
    rows = []
    for number in range(4):
        for example in people():
            row = {key: value for key, value in asdict(example).items() if key in FIELDS}
            rows.append({**row, "id": f"{number}/{example.id}", "question": f"{number}: {example.question}"})
    for name, part in {"people": rows, "first": rows[:24], "second": rows[24:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    return folder


def alone(place: Path, *arguments: str) -> str:
    """The output of one process, which is forked, and so has its imports."""
    done = run_command(*arguments, cwd=place, before=counted_batches.count, ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    return done.stdout


def launched(place: Path, *arguments: str) -> str:
    """The output of two processes that the launcher of `accelerate launch` starts."""
    environment = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(sys.path)}
    launch = [*LAUNCH, "--master_port", str(free_port()), counted_batches.__file__]
    done = subprocess.run(
        [sys.executable, *launch, *arguments],
        cwd=place, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def together(place: Path, *arguments: str) -> str:
    """The output of two processes that have the environment of the launcher's."""
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        Started(
            *arguments, cwd=place, before=counted_batches.count,
            **group, RANK=rank, LOCAL_RANK=rank, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true",
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    first, second = (process.end() for process in started)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    return first.stdout + second.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_divide_the_batches_and_write_the_bits_of_one(name: str, place: Path) -> None:
    for path in place.glob("counted *"):
        path.unlink()
    command = (*COMMANDS[name], "--set", "score.max_new_tokens=8", "--json")
    one = alone(place, *command, "-o", f"{name} one")
    two = (launched if name == LAUNCHED else together)(place, *command, "-o", f"{name} two")
    assert json.loads(two) == json.loads(one), "printed once"
    files = {path.name: path.read_bytes() for path in (place / f"{name} one").iterdir()}
    assert {path.name for path in (place / f"{name} two").iterdir()} == files.keys()
    for file, content in files.items():
        assert (place / f"{name} two" / file).read_bytes() == content, file
    of_one, first, second = ((place / f"counted {rank}").read_text().split() for rank in ("one", "0", "1"))
    assert sorted(first + second) == sorted(of_one)
    assert len(first) > 1 and len(second) > 1
    if name == "score":
        assert all(any(int(size) > 1000 for size in of) for of in (first, second)), "the depth score, too"
