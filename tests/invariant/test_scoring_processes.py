"""Two processes of `accelerate launch` that score, attack or calibrate write the bits of one."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people
from tests.invariant.test_processes import free_port

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


@pytest.fixture(scope="module")
def place(knowing: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and 48 questions, which fill several batches."""
    folder: Path = tmp_path_factory.mktemp("launched")
    save_model(knowing, folder / "model")
    noisy, noise = copied(knowing), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in noisy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
    save_model(noisy, folder / "noisy")
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


def run(place: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, *arguments, "--json"], cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COUNTING = """
import os, sys
from pathlib import Path
from uwc.models import patching, scoring
from uwc.__main__ import main
work, drops, calls = scoring._score_batch, patching._drops, []
def counted(*given):
    calls.append(given[1].size)
    return work(*given)
def dropped(*given, **settings):
    calls.append(1000 + given[2].size)
    return drops(*given, **settings)
scoring._score_batch, scoring.SCORING_BUDGET = counted, 100
patching._drops, patching.SCORING_BUDGET, patching._resumes = dropped, 100, lambda *_: True
try:
    main()
finally:
    Path('counted ' + os.environ.get('RANK', 'one')).write_text(' '.join(map(str, calls)))
"""
"""The command line, in small batches that are counted in each process."""


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_divide_the_batches_and_write_the_bits_of_one(name: str, place: Path) -> None:
    command = (*COMMANDS[name], "--set", "score.max_new_tokens=8")
    (place / "counting.py").write_text(COUNTING)
    one = run(place, "counting.py", *command, "-o", f"{name} one")
    two = run(place, *LAUNCH, "--master_port", str(free_port()), "counting.py", *command, "-o", f"{name} two")
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
