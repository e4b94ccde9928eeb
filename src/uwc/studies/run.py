"""Execution of the steps of a plan that are not in the store."""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uwc import progress
from uwc.progress import duration, gigabytes
from uwc.results import RunRecord, StepTime
from uwc.studies.checks import require_retention
from uwc.studies.plan import Plan
from uwc.studies.steps import LOG, MODEL, Attack, Calibrate, Checkpoint, Step
from uwc.studies.store import FileRecord, Manifest, Store, checkpoint_fingerprint, environment, file_records, uses_cuda
from uwc.tracking import Trackers

if TYPE_CHECKING:
    from uwc.studies.context import Context

Status = Literal["done", "missing", "diverged", "failed", "skipped", "given"]
"""The status of a step; "skipped" if it depends on a diverged step, "given" for a model of the user."""


def step_status(step: Step, store: Store) -> Status:
    """The status of a step."""
    return _status(step, store, [step_status(s, store) for s in step.inputs.values()])


def _status(step: Step, store: Store, inputs: Sequence[Status]) -> Status:
    if isinstance(step, Checkpoint):
        return "given"
    if any(status in ("diverged", "failed", "skipped") for status in inputs):
        return "skipped"
    manifest = store.manifest(step)
    return "missing" if manifest is None else manifest.outcome.status


def missing_steps(plan: Plan, store: Store) -> list[Step]:
    """The steps that a run would compute, in order."""
    return [step for step in plan.steps if step_status(step, store) == "missing"]


def verify_store(plan: Plan, store: Store, *, everything: bool = False) -> None:
    """Compare the stored models that a run would read with their hashes, and forget those that have changed.

    All other files are compared where their step is first asked for; see `Store`.

    Args:
        plan: the plan of the run.
        store: the store.
        everything: compare every model, including those that no missing step reads.
    """
    damaged = True
    while damaged:  # the inputs of a damaged model are read too
        read = plan.steps if everything else [model for step in missing_steps(plan, store) for model in _models(step)]
        complete = {step.key: step for step in read if store.manifest(step) is not None}
        damaged = False
        with progress.bar("compare stored models", total=len(complete)) as advance:
            for step in complete.values():
                damaged |= not store.verify(step)
                advance(1)


def _models(step: Step) -> Iterator[Step]:
    """The steps whose models a step reads."""
    for read in step.inputs.values():
        yield from _models(read) if isinstance(read, Calibrate) else (read,)


def run_steps(plan: Plan, store: Store, *, on_step: progress.Advance, trackers: Trackers | None = None) -> RunRecord:
    """Run every missing step, in order, and store each result.

    Args:
        plan: the plan.
        store: the store.
        on_step: called with each step and the ETA.
        trackers: get the logs of trainings, also of those that are taken from the store.

    Raises:
        UserError: a step fails, or the original scores near 0 on a set of the retention constraint.
    """
    from uwc.studies.context import Context  # heavy: only where something is computed

    context, started = Context(store, trackers=trackers or Trackers()), _now()
    _forget_not_cached(plan, store)
    times, left = [], _time_left(plan, store)
    for step in plan.steps:
        store.remove_leftovers(step)
        if not isinstance(step, Checkpoint):
            times.append(_run(step, context))
            left = left if times[-1].reused else _time_left(plan, store)
            _report(step, times[-1], store, left)
        on_step(1, note=left)
        if step is plan.original.score and plan.config.calibrate is not None:
            require_retention(plan, store)
    return RunRecord(environment=environment(), steps=tuple(times), started=started, ended=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _forget_not_cached(plan: Plan, store: Store) -> None:
    """Remove the results of steps that must not be cached."""
    reasons = {step.not_cached for step in plan.steps if step.not_cached}
    for reason in reasons:
        progress.warn(f"{reason}, so the steps that use it are computed in every run")
    for step in plan.steps:
        if step.not_cached:
            store.remove(step)


def _time_left(plan: Plan, store: Store) -> str:
    status: dict[str, Status] = {}
    for step in plan.steps:
        status[step.key] = _status(step, store, [status[s.key] for s in step.inputs.values()])
    finished = [(_cost_class(s), _seconds(s, store)) for s in plan.steps if status[s.key] in ("done", "diverged")]
    return time_left(finished, [_cost_class(s) for s in plan.steps if status[s.key] == "missing"])


def _cost_class(step: Step) -> str:
    """The class of steps of similar cost: the kind and, for attacks, the chain."""
    return " ".join([step.kind, *(name for name, _ in step.attack)]) if isinstance(step, Attack) else step.kind


def seconds_left(finished: Iterable[tuple[str, float]], missing: Sequence[str]) -> tuple[float, bool]:
    """The sum over missing steps of the mean time of finished steps of the same class.

    Args:
        finished: class and time in seconds of each finished step, of this or an earlier run.
        missing: the classes of the missing steps.

    Returns:
        The seconds, and whether they include every missing step, that is, each class has a finished step.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in finished:
        spent[kind].append(seconds)
    known = [sum(spent[kind]) / len(spent[kind]) for kind in missing if spent[kind]]
    return sum(known), len(known) == len(missing)


def time_left(finished: Iterable[tuple[str, float]], missing: Sequence[str]) -> str:
    """The missing steps and the ETA in words, such as ``3 steps left, about 40.0 s``; empty if there are none."""
    if not missing:
        return ""
    seconds, complete = seconds_left(finished, missing)
    steps = f"{len(missing)} {'step' if len(missing) == 1 else 'steps'} left"
    return f"{steps}, {'about' if complete else 'more than'} {duration(seconds)}" if seconds else steps


def _seconds(step: Step, store: Store) -> float:
    manifest = store.manifest(step)
    return 0.0 if manifest is None else manifest.seconds


def _run(step: Step, context: "Context") -> StepTime:
    store = context.store
    status = step_status(step, store)
    reused = status != "missing"
    if status == "missing":
        with store.lock(step):
            reused = store.manifest(step) is not None  # another run may have made it meanwhile
            if not reused:
                _compute(step, context)
        status = step_status(step, store)
    if reused and context.trackers.used:
        _track_stored(step, context)
    made = store.manifest(step)
    return StepTime(
        name=step.name,
        key=step.key,
        seconds=_seconds(step, store),
        peak_bytes=None if made is None else made.peak_bytes,
        reused=reused,
        outcome=status,
    )


def _track_stored(step: Step, context: "Context") -> None:
    """Log the training of a step that is taken from the store."""
    log = context.store.folder(step) / LOG
    if log.is_file():
        outcome = context.store.outcome(step)
        with context.trackers.run(step.name, step.settings) as run:
            for entry in json.loads(log.read_text(encoding="utf-8")):
                run.step(entry)
            run.end(stopped=outcome.stopped, diverged=outcome.diverged, collapse=outcome.collapse)


def _report(step: Step, time: StepTime, store: Store, left: str) -> None:
    """Print a note on the outcome of a step and the ETA."""
    failed = time.outcome in ("diverged", "failed")
    if time.reused and not failed:
        return
    why = f": {store.outcome(step).message}" if failed else ""
    after = f"; {left}" if left else ""
    took = f"{time.seconds:.1f} s" + ("" if time.peak_bytes is None else f", {gigabytes(time.peak_bytes)}")
    progress.note(f"{time.outcome if failed else 'done':>8}  {step.name} ({took}){why}{after}")


def _compute(step: Step, context: "Context") -> None:
    from uwc.memory import peak_bytes, start_of_peak

    asked = step.settings["loading"]["device"]
    device = "cuda" if uses_cuda(asked) else "cpu"
    started, before = time.perf_counter(), start_of_peak(device)
    with context.store.writing(step) as writing:
        outcome = step.run(context, writing.folder)
        records = file_records(writing.folder)
        writing.manifest = Manifest(
            key=step.key,
            kind=step.kind,
            name=step.name,
            settings=step.settings,
            inputs={role: s.key for role, s in step.inputs.items()},
            outcome=outcome,
            seconds=time.perf_counter() - started,
            peak_bytes=None if before is None else peak_bytes(device),
            model=_model_files(writing.folder / MODEL, records),
            files=records,
            environment=environment(device=asked),
        )


def _model_files(folder: Path, records: Mapping[str, FileRecord]) -> dict[str, str]:
    """The fingerprint of a step's model, without hashing its files twice."""

    def hashed(path: Path) -> str:
        return records[f"{MODEL}/{path.relative_to(folder).as_posix()}"].sha256

    return checkpoint_fingerprint(str(folder), hashed=hashed) if folder.is_dir() else {}
