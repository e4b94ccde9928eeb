"""A study as job arrays of SLURM: scripts whose tasks run one step each, with dependencies."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from uwc.errors import UserError
from uwc.io import write_text
from uwc.studies.pending import missing_inputs
from uwc.studies.plan import Plan
from uwc.studies.run import missing_steps
from uwc.studies.sections import StepResources
from uwc.studies.steps import Step
from uwc.studies.store import Store

SUBMIT = "submit.sh"


def write_slurm(plan: Plan, store: Store, folder: Path, *, step: Sequence[str], run: Sequence[str]) -> list[Path]:
    """Write the scripts that compute a study's missing steps.

    Steps that need no other missing step are the first level, those that need only these the second, and so on. Each
    job array has the steps of a level and kind, and starts after all arrays of the level before it. The last job writes
    results and report.

    Args:
        plan: the plan.
        store: where results are kept; all machines see this folder.
        folder: where the scripts are written: ``submit.sh``, a script and a list of keys for each array, and a folder
            for logs.
        step: the command that runs one step, to which the step's key is added.
        run: the command that writes the results once all steps are complete.

    Returns:
        The scripts, ``submit.sh`` first.

    Raises:
        UserError: the folder has scripts already, or nothing is missing.
    """
    if (folder / SUBMIT).exists():
        raise UserError(f"{folder} has the scripts of a study already; give another folder, or remove it")
    levels = _levels(missing_steps(plan, store), store)
    if not levels:
        raise UserError("every step of the study is complete; write its results with: " + shlex.join(run))
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    where, submit, scripts = folder.resolve(), ["#!/bin/bash", "# Submit the study's jobs in order.", "set -e"], []
    before = ""
    for number, level in enumerate(levels, 1):
        jobs = []
        for kind, steps in level.items():
            name = f"{number:02d}-{kind}"
            write_text(folder / f"{name}.txt", "".join(f"{s.key}\t{s.name}\n" for s in steps))
            lines = [f"#SBATCH --array=1-{len(steps)}", *_header(plan, name, plan.config.resources.of(kind))]
            keys = shlex.quote(str(where / f"{name}.txt"))
            lines += ["", "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}"]
            lines += [f'KEY=$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {keys} | cut -f1)', f'{shlex.join(step)} "$KEY"']
            scripts.append(_script(folder / f"{name}.sbatch", lines))
            job = f"JOB_{number}_{kind.upper()}"
            submit.append(f"{job}=$(sbatch --parsable {before}{_called(where, name, task='-%a')})")
            jobs.append(f"${job}")
        before = f"--dependency=afterok:{':'.join(jobs)} --kill-on-invalid-dep=yes "
    results = _header(plan, "results", StepResources())
    scripts.append(_script(folder / "results.sbatch", [*results, "", shlex.join(run)]))
    submit.append(f"sbatch {before}{_called(where, 'results')}")
    return [_script(folder / SUBMIT, submit[1:]), *scripts]


def _levels(steps: Sequence[Step], store: Store) -> list[Mapping[str, list[Step]]]:
    """By level and kind: the steps that need steps of earlier levels only."""
    level: dict[str, int] = {}
    levels: list[dict[str, list[Step]]] = []
    for step in steps:
        level[step.key] = number = max((level[s.key] + 1 for s in missing_inputs(step, store)), default=0)
        if number == len(levels):
            levels.append({})
        levels[number].setdefault(step.kind, []).append(step)
    return list(levels)


def _called(folder: Path, name: str, *, task: str = "") -> str:
    """The script of a job, the folder that it runs in and its log, as arguments of sbatch, quoted for the shell."""
    log = str(folder).replace("%", "%%") + f"/logs/{name}{task}.log"
    return shlex.join([f"--chdir={Path.cwd()}", f"--output={log}", str(folder / f"{name}.sbatch")])


def _header(plan: Plan, name: str, asked: StepResources) -> list[str]:
    lines = [f"#SBATCH --job-name=uwc-{plan.config.name}-{name}", f"#SBATCH --cpus-per-task={asked.cpus}"]
    if asked.gpus:
        lines.append(f"#SBATCH --gpus={max(1, round(asked.gpus))}")
    if asked.memory_gb is not None:
        lines.append(f"#SBATCH --mem={round(asked.memory_gb * 1000)}M")
    if asked.hours is not None:
        lines.append(f"#SBATCH --time={max(1, round(asked.hours * 60))}")
    return lines


def _script(path: Path, lines: Sequence[str]) -> Path:
    write_text(path, "\n".join(["#!/bin/bash", *lines]) + "\n")
    path.chmod(0o755)
    return path
