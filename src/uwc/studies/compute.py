"""Computes one step, unless its result is in the store, and stores it."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import SoftFileLease

from uwc.errors import UserError
from uwc.studies.steps import LOG, MODEL, Checkpoint, Step
from uwc.studies.store import FileRecord, Manifest, Store, checkpoint_fingerprint, environment, file_records, uses_cuda

if TYPE_CHECKING:
    from uwc.studies.context import Context

Status = Literal["done", "missing", "diverged", "failed", "skipped", "given"]
"""The status of a step; "skipped" if it depends on a diverged step, "given" for a model of the user."""


def step_status(step: Step, store: Store) -> Status:
    """The status of a step."""
    return status_after(step, store, [step_status(s, store) for s in step.inputs.values()])


def status_after(step: Step, store: Store, inputs: Sequence[Status]) -> Status:
    """The status of a step whose inputs have these."""
    if isinstance(step, Checkpoint):
        return "given"
    if any(status in ("diverged", "failed", "skipped") for status in inputs):
        return "skipped"
    manifest = store.manifest(step)
    return "missing" if manifest is None else manifest.outcome.status


LATE = 90.0
"""The most seconds after which a result that one machine has written is seen by the others."""


def wait_for(step: Step, store: Store) -> None:
    """Wait until the result of a step, which another machine has written, is seen by this one.

    File systems of a network keep what they know of a folder for up to a minute.

    Raises:
        UserError: it is not seen after `LATE` seconds.
    """
    until = time.monotonic() + LATE
    while step_status(step, store) == "missing":
        if time.monotonic() > until:
            raise UserError(
                f"the result of '{step.name}' was written by another machine, and {platform.node()} does not see it in "
                f"{store.root.resolve()}; all machines have to share this folder (--output-dir)"
            )
        store.refresh()
        time.sleep(0.2)


def run_step(step: Step, context: "Context") -> bool:
    """Compute a step if its result is missing.

    Args:
        step: the step; its inputs are complete.
        context: the store, and what steps share.

    Returns:
        Whether nothing was computed: the result was there, another run has made it meanwhile, or a step that it needs
        has no model.

    Raises:
        UserError: the step fails.
    """
    store = context.store
    reused = step_status(step, store) != "missing"
    if not reused:
        with store.lock(step) as lock:
            store.refresh()
            reused = store.manifest(step) is not None  # another run may have made it meanwhile
            if not reused:
                _compute(step, context, lock)
    if reused and context.trackers.used:
        _track_stored(step, context)
    return reused


def _track_stored(step: Step, context: "Context") -> None:
    """Log the training of a step that is taken from the store."""
    log = context.store.folder(step) / LOG
    if log.is_file():
        outcome = context.store.outcome(step)
        with context.trackers.run(step.name, step.settings) as run:
            for entry in json.loads(log.read_text(encoding="utf-8")):
                run.step(entry)
            run.end(stopped=outcome.stopped, diverged=outcome.diverged, collapse=outcome.collapse)


def _compute(step: Step, context: "Context", lock: SoftFileLease) -> None:
    from uwc.memory import peak_bytes, start_of_peak

    asked = step.settings["loading"]["device"]
    device = "cuda" if uses_cuda(asked) else "cpu"
    started, before = time.perf_counter(), start_of_peak(device)
    with context.store.writing(step, lock) as writing:
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
