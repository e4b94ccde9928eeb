"""A study step by step, as jobs of SLURM: the results of one process."""

import os
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.small_study import STUDY
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.errors import UserError
from uwc.results import StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.pending import missing_inputs
from uwc.studies.plan import make_plan
from uwc.studies.run import missing_steps
from uwc.studies.sections import ResourcesConfig
from uwc.studies.store import Store
from uwc.workflows.studies import run_one_step, run_study, slurm_scripts

CONTENT: dict[str, Any] = {
    "name": "shared",
    "benchmark": STUDY.benchmark.model_dump(),
    "model": {"build": {"vocabulary": 500, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}},
    "finetune": {"epochs": 30, "batch_size": 16, "lr": 1e-2},
    "unlearn": {
        "training": {"epochs": 1, "batch_size": 2, "lr": 1e-3, "warmup_ratio": 0.0},
        "runs": [{"method": "ga"}, {"method": "rmu"}],
    },
    "score": {"metrics": ["extraction_strength", "kl_to_original"], "max_new_tokens": 0},
    "calibrate": {"scan": 2, "resolution": 0.2},
    "attack": {"chains": ["token_noise"], "sets": ["forget"]},
}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return run_study(CONTENT, runs=tmp_path_factory.mktemp("serial"))


def test_steps_by_hand_in_a_random_order(serial: StudyResults, tmp_path: Path) -> None:
    plan, store = make_plan(StudyConfig(**CONTENT)), Store(tmp_path / "store")
    order = random.Random(0)
    with pytest.raises(UserError, match="'score ga' needs results that are not there: 'unlearn ga', 'fine-tune"):
        run_one_step(CONTENT, "score ga", runs=tmp_path)
    while missing := missing_steps(plan, store):
        step = order.choice([step for step in missing if not missing_inputs(step, store)])
        run_one_step(CONTENT, step.key[:12], runs=tmp_path)
    assert run_study(CONTENT, runs=tmp_path).to_json() == serial.to_json()


def test_a_step_is_named_by_its_key_or_its_name(tmp_path: Path) -> None:
    done = run_one_step(CONTENT, "build model", runs=tmp_path)
    assert (done.outcome, done.reused) == ("done", False)
    assert run_one_step(CONTENT, done.key[:8], runs=tmp_path).reused
    for key in ("score nobody", done.key[:7]):
        with pytest.raises(UserError, match=r"no step of shared called .*uwc study plan"):
            run_one_step(CONTENT, key, runs=tmp_path)


PYTHON = """#!/bin/bash
# runs the first step; of the others it notes the command
[ -e commands.txt ] || %s "$@" || exit
printf '%%s\\t' "$@" >> commands.txt
echo >> commands.txt
"""

SBATCH = """#!/bin/bash
# runs the tasks of a job at once, and answers with a number, as sbatch --parsable does
set -e
echo "$@" >> calls.txt
for script; do case $script in --chdir=*) folder=${script#--chdir=};; esac; done
last=$(sed -n 's/^#SBATCH --array=1-//p' "$script")
cd "$folder"
case $script in *results.sbatch) exit;; esac
for task in $(seq 1 "${last:-1}"); do SLURM_CPUS_PER_TASK=1 SLURM_ARRAY_TASK_ID=$task bash "$script" >&2; done
echo $RANDOM
"""


def test_job_arrays_compute_the_study(serial: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path /= "a folder with 100 %"
    tmp_path.mkdir()
    content = {**CONTENT, "attack": None, "calibrate": None}
    content["unlearn"] = {**CONTENT["unlearn"], "runs": [{"method": "ga"}]}
    resources = {"cpus": 2, "kinds": {"score": {"gpus": 1, "hours": 0.5}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**content, "resources": resources}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "python").write_text(PYTHON % shlex.quote(sys.executable))
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    first, *scripts = slurm_scripts("study.yaml", tmp_path / "jobs", runs=Path("runs"), overrides=["seed=0"])
    names = ["01-build", "02-finetune", "03-score", "03-unlearn", "04-score", "results"]
    assert [s.name for s in (first, *scripts)] == ["submit.sh", *(f"{name}.sbatch" for name in names)]
    header = scripts[2].read_text()
    assert all(f"#SBATCH --{line}\n" in header for line in ("array=1-1", "gpus=1", "time=30", "cpus-per-task=2"))
    assert "--gpus" not in scripts[3].read_text()
    (tmp_path / "sbatch").write_text(SBATCH)
    (tmp_path / "sbatch").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([str(first)], check=True, cwd=tmp_path, env={**os.environ, "PATH": path}, timeout=600)
    assert [path.name.partition("-")[0] for path in (tmp_path / "runs" / "store").glob("*-*")] == ["build"]
    commands = [line.split("\t")[:-1] for line in (tmp_path / "commands.txt").read_text().splitlines()]
    assert [command[:4] for command in commands] == [["-m", "uwc", "study", "step"]] * 5
    for command in commands[1:]:  # in the order of the jobs
        done = CliRunner().invoke(app, command[2:])
        assert done.exit_code == 0, done.output
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert "--dependency" not in calls[0] and "/a folder with 100 %%/jobs/logs/01-build-%a.log" in calls[0]
    assert calls[4].partition("afterok:")[2].split()[0].count(":") == 1  # after both arrays of level 3
    assert calls[5].endswith("results.sbatch") and "study run" in scripts[-1].read_text()
    with pytest.raises(UserError, match="every step of the study is complete"):
        slurm_scripts("study.yaml", tmp_path / "more", runs=Path("runs"), overrides=["seed=0"])
    found = run_study("study.yaml", overrides=["seed=0"], runs=Path("runs"))
    assert found.references == serial.references
    assert [m.scores for m in found.unlearned] == [m.scores for m in serial.unlearned if m.name == "ga"] != [[]]
    with pytest.raises(UserError, match="has the scripts of a study already"):
        slurm_scripts("study.yaml", tmp_path / "jobs", runs=Path("runs"))


def test_resources_of_a_kind() -> None:
    given = ResourcesConfig(gpus=1, memory_gb=24, kinds={"score": {"memory_gb": 8}, "build": {"gpus": 0}})  # type: ignore[dict-item]
    assert given.of("unlearn").model_dump() == {"gpus": 1, "cpus": 1, "memory_gb": 24, "hours": None}
    assert given.of("score").model_dump() == {"gpus": 1, "cpus": 1, "memory_gb": 8, "hours": None}
    assert given.of("build").gpus == 0
