"""Planning and running of studies."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc import progress
from uwc.errors import UserError, reporting_full_disk
from uwc.io import require_writable, write_text
from uwc.names import STORE
from uwc.results import RunRecord, StepTime, StudyResults
from uwc.studies.compute import step_status
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import Overrides, load_config
from uwc.studies.estimate import Estimate, Machine, estimate, machine_of
from uwc.studies.plan import Plan, make_plan
from uwc.studies.run import LOCAL, Runner, missing_steps, run_one, run_steps, verify_store
from uwc.studies.slurm import write_slurm
from uwc.studies.steps import Step, Unlearn
from uwc.studies.store import Store
from uwc.tracking import Trackers

DEFAULT_RUNS = Path("runs")
REPORT = "report.html"
Source = str | Path | Mapping[str, Any] | StudyConfig


def plan_study(
    source: Source,
    *,
    overrides: Overrides = (),
    runs: Path = DEFAULT_RUNS,
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> list[dict[str, str]]:
    """The steps of a study and which are done, without running any.

    Args:
        source: a YAML file, the name of a shipped study, a mapping of the same keys, or a configuration.
        overrides: changes to the file: ``["key.key=value"]``, or key -> value.
        runs: the folder where results are kept.
        trust_remote_code, allow_plugins: as `load_config` takes them.

    Returns:
        For each step: name, kind, key and status ("done", "missing", "diverged", "skipped" or "given").

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be.
    """
    plan = make_plan(_config(source, overrides, trust_remote_code, allow_plugins))
    store = Store(Path(runs) / STORE)
    return [{"name": s.name, "kind": s.kind, "key": s.key[:16], "status": step_status(s, store)} for s in plan.steps]


def estimate_study(
    source: Source,
    *,
    machine: str | Machine = "cpu",
    overrides: Overrides = (),
    runs: Path = DEFAULT_RUNS,
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> Estimate:
    """The cost of the missing steps of a study, without running any; see `uwc.studies.estimate.estimate`.

    Args:
        source, overrides, runs, trust_remote_code, allow_plugins: as `plan_study` takes them.
        machine: a name in `uwc.studies.estimate.MACHINES`, "here" for this machine, which is measured, or a `Machine`.

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be, or the machine is unknown.
    """
    chosen = machine if isinstance(machine, Machine) else machine_of(machine)
    plan = make_plan(_config(source, overrides, trust_remote_code, allow_plugins))
    return estimate(plan, chosen, missing_steps(plan, Store(Path(runs) / STORE)))


def run_one_step(
    source: Source,
    key: str,
    *,
    overrides: Overrides = (),
    runs: Path = DEFAULT_RUNS,
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> StepTime:
    """Run one step of a study whose inputs are complete; see `uwc.studies.run.run_one`.

    Args:
        source, overrides, runs, trust_remote_code, allow_plugins: as `run_study` takes them.
        key: the step's key, or its name.
    """
    config = _config(source, overrides, trust_remote_code, allow_plugins)
    plan, store = make_plan(config), Store(Path(runs) / STORE)
    with reporting_full_disk(store.root):
        return run_one(plan, store, key)


def slurm_scripts(
    source: str,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    runs: Path = DEFAULT_RUNS,
    plugins: Sequence[Path] = (),
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> list[Path]:
    """Write the job arrays of SLURM that run a study; see `uwc.studies.slurm.write_slurm`.

    Args:
        source, overrides, runs, trust_remote_code, allow_plugins: as `run_study` takes them.
        folder: where the scripts are written.
        plugins: the plug-ins of the command line.
    """
    plan = make_plan(_config(source, overrides, trust_remote_code, allow_plugins))
    options = [f"--output-dir={runs.resolve()}", *(f"--set={change}" for change in overrides)]
    options += [f"--plugin={path.resolve()}" for path in plugins]
    options += ["--trust-remote-code"] * trust_remote_code + ["--allow-plugins"] * allow_plugins
    uwc = [sys.executable, "-m", "uwc", "study"]
    given = str(Path(source).resolve()) if Path(source).is_file() else source
    store = Store(Path(runs) / STORE)
    require_trainable(missing_steps(plan, store), plan.config)
    return write_slurm(plan, store, folder, step=[*uwc, "step", *options, given], run=[*uwc, "run", *options, given])


def run_study(
    source: Source,
    *,
    overrides: Overrides = (),
    runs: Path = DEFAULT_RUNS,
    fresh: bool = False,
    verify: bool = False,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    runner: Runner = LOCAL,
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> StudyResults:
    """Run the missing steps of a study, and write its results and report to ``RUNS/NAME/``.

    Interrupted at any moment, the next call resumes and ends with the same bits.

    Args:
        source: a YAML file, the name of a shipped study, a mapping of the same keys, or a configuration.
        overrides: changes to the file: ``["key.key=value"]``, or key -> value.
        runs: the folder where results are kept; studies that share it share their steps.
        fresh: compute every step again.
        verify, overwrite, runner: see `run_plan`.
        keep_paths: keep absolute paths in the results.
        log_to: as `uwc.run_study` takes it.
        trust_remote_code, allow_plugins: as `load_config` takes them.

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be, the disk is full, or several
            processes were launched to run it together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study runs in one process; use accelerate launch with: uwc unlearn")
    config = _config(source, overrides, trust_remote_code, allow_plugins)
    folder = Path(runs) / config.name
    trackers = Trackers(log_to, folder=folder, group=config.name)
    plan = make_plan(config.model_copy(update={"keep_paths": True}) if keep_paths else config)
    require_models(plan.config)
    store = Store(Path(runs) / STORE)
    if fresh:
        for step in plan.steps:
            store.remove(step)
    return run_plan(plan, store, folder, verify=verify, overwrite=overwrite, trackers=trackers, runner=runner)


def run_plan(
    plan: Plan,
    store: Store,
    folder: Path,
    *,
    verify: bool = False,
    overwrite: bool = False,
    trackers: Trackers | None = None,
    runner: Runner = LOCAL,
) -> StudyResults:
    """Run the missing steps of a plan, and write its results, report and log (``run.log``) to a folder.

    Args:
        plan: the plan.
        store: the store.
        folder: where the results are written.
        verify: compare the hashes of all stored models, and not only of those that a missing step reads.
        overwrite: replace the results of a study of another model or benchmark.
        trackers: get the logs of trainings, and the results.
        runner: what computes the steps.

    Raises:
        UserError: the folder has such results, nothing can be written to it or to the store, a step fails, or the disk
            is full.
    """
    require_writable(store.root)
    require_writable(folder, StudyResults.FILE, REPORT)
    if not overwrite:
        require_same_study(plan.config, folder)
        StudyResults.require_own_answers(folder, damaged=True)
    with reporting_full_disk(folder), progress.logged(folder / "run.log"):
        verify_store(plan, store, everything=verify)
        missing = missing_steps(plan, store)
        require_trainable(missing, plan.config)
        for name, lacking in plan.left_out.items():
            progress.note(f"{name} left out: it needs {lacking}")
        progress.note(f"{plan.config.name}: {len(plan.steps)} steps, {len(missing)} to run")
        with progress.bar(plan.config.name, total=len(plan.steps), alike=False) as advance:
            run = run_steps(plan, store, on_step=advance, trackers=trackers, runner=runner)
        results = _publish(plan, store, run, folder)
        if trackers is not None:
            trackers.results(results)
        return results


def require_same_study(config: StudyConfig, folder: Path) -> None:
    """Raise UserError if a folder has the results of another benchmark or model; other settings may have changed."""
    try:
        found = StudyResults.load(folder / StudyResults.FILE)
        theirs: Any = found.study.config
        benchmark, model = theirs["benchmark"]["name"], theirs["model"]["path"] or ""
    except (UserError, KeyError, TypeError):  # none, damaged, or of another version: written again
        return
    ours = config.model.path or ""
    if benchmark != config.benchmark.name:
        other = f"benchmark, {benchmark!r}"
    elif bool(model) != bool(ours) or not found.names_path(model, ours):
        other = f"model, {model or 'a built one'!r}"
    else:
        return
    raise UserError(
        f"{folder} has the results of a study of another {other}; give the study another name, or replace them with "
        "--overwrite (in Python overwrite=True)"
    )


def require_models(config: StudyConfig) -> None:
    """Raise ModelError if a given model cannot be used, as far as the files tell: before anything is computed."""
    trust, original = config.model.trust_remote_code, config.model.path
    given = [str(path) for path in (original, config.retrained) if isinstance(path, str)]
    runs = [str(run.checkpoint) for run in config.unlearn.runs if run.checkpoint is not None]
    if not given and not runs:
        return
    from uwc.metrics.harness import require_chat_template
    from uwc.models.load import depth_of
    from uwc.models.mixtures import require_mixable, require_whole

    config.model.loading().used_by(*given, *runs)
    if original is not None:
        require_whole(original)
        if config.harness.chat:
            require_chat_template(config.model.loading().reading(original).tokenizer)
    for path in given:
        depth_of(path, trust_remote_code=trust)
    if original is not None and config.finetune is None:
        for path in runs:
            require_mixable(original, path, trust_remote_code=trust, dequantize=config.model.dequantize)


def require_trainable(steps: Sequence[Step], config: StudyConfig) -> None:
    """Raise UserError if one of the steps trains with settings that cannot be used, before anything is computed."""
    trained = [step for step in steps if isinstance(step, Unlearn)]
    if not trained:
        return
    if config.model.build is not None:
        depth = config.model.build.layers
    else:
        from uwc.models.load import depth_of

        depth = depth_of(str(config.model.path), trust_remote_code=config.model.trust_remote_code)
    for step in trained:
        step.check(depth)


def _publish(plan: Plan, store: Store, run: RunRecord, folder: Path) -> StudyResults:
    from uwc.reports.markdown import results_markdown
    from uwc.reports.page import write_page
    from uwc.studies.gather import gather

    results = gather(plan, store).without_paths(folder, keep=plan.config.keep_paths)
    results.save(folder)
    write_text(folder / "run.json", run.model_dump_json(indent=1) + "\n")
    write_text(folder / "results.md", results_markdown(results))
    write_page(results, run, folder / REPORT, answers=results.answers)
    return results


def _config(source: Source, overrides: Overrides, trust_remote_code: bool, allow_plugins: bool) -> StudyConfig:
    if isinstance(source, StudyConfig):
        if not overrides:
            return source
        trust_remote_code, allow_plugins = source.model.trust_remote_code or trust_remote_code, True
        source = source.model_dump(mode="json", exclude_unset=True)
    return load_config(source, overrides=overrides, trust_remote_code=trust_remote_code, allow_plugins=allow_plugins)
