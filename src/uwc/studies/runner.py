"""Runs the steps of a plan that are not done yet."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from uwc import progress
from uwc.studies.plan import MODEL, Plan, Step
from uwc.studies.provenance import checkpoint_fingerprint, environment
from uwc.studies.remaining import time_left
from uwc.studies.sanity import require_retention
from uwc.studies.shelf import Shelf
from uwc.studies.store import Store


@dataclass(frozen=True)
class StepRecord:
    """How a step went.

    Attributes:
        name: the step.
        key: what its result is kept under.
        seconds: how long it took when it was computed; 0 for a checkpoint that the user brought.
        reused: whether it was there already.
        outcome: "ok", "diverged" (an attack: or failed), or "skipped" for what depends on a diverged run.
    """

    name: str
    key: str
    seconds: float
    reused: bool
    outcome: str


def step_status(step: Step, store: Store) -> str:
    """ "done", "missing", "diverged", "skipped" (what it needs diverged) or "given" (a user's checkpoint)."""
    return _status(step, store, [step_status(s, store) for s in step.inputs.values()])


def _status(step: Step, store: Store, inputs: Sequence[str]) -> str:
    if step.kind == "checkpoint":
        return "given"
    if any(status in ("diverged", "skipped") for status in inputs):
        return "skipped"
    manifest = store.manifest(step.kind, step.key)
    if manifest is None:
        return "missing"
    return "diverged" if manifest["outcome"].get("status") in ("diverged", "failed") else "done"


def run_steps(plan: Plan, store: Store, *, on_step: progress.Advance) -> list[StepRecord]:
    """Run every missing step, in order; `on_step` is told of each and of the time left. A result is kept at once.

    Raises:
        UserError: a step cannot be done, or the original knows too little for a calibration to mean anything.
    """
    records, shelf, left = [], Shelf(), _time_left(plan, store)
    for step in plan.steps:
        if step.kind != "checkpoint":
            records.append(_run(step, plan, store, shelf))
            left = left if records[-1].reused else _time_left(plan, store)
            _tell(records[-1], store.manifest(step.kind, step.key), left)
        on_step(1, note=left)
        if step.name == "score original" and plan.config.calibrate is not None:
            require_retention(plan, store)
    return records


def _time_left(plan: Plan, store: Store) -> str:
    status: dict[str, str] = {}
    for step in plan.steps:
        status[step.key] = _status(step, store, [status[s.key] for s in step.inputs.values()])
    finished = [(_sort(s), _seconds(s, store)) for s in plan.steps if status[s.key] in ("done", "diverged")]
    return time_left(finished, [_sort(s) for s in plan.steps if status[s.key] == "missing"])


def _sort(step: Step) -> str:
    """Steps that cost about the same: of one kind, and of attacks those by one chain."""
    return " ".join([step.kind, *(name for name, _ in step.settings.get("chain", ()))])


def _seconds(step: Step, store: Store) -> float:
    return float((store.manifest(step.kind, step.key) or {}).get("seconds", 0.0))


def _run(step: Step, plan: Plan, store: Store, shelf: Shelf) -> StepRecord:
    status = step_status(step, store)
    reused = status != "missing"
    if status == "missing":
        with store.lock(step.kind, step.key, name=step.name):
            reused = store.manifest(step.kind, step.key) is not None  # another run may have made it meanwhile
            if not reused:
                _compute(step, plan, store, shelf)
        status = step_status(step, store)
    outcome = "ok" if status == "done" else status
    return StepRecord(step.name, step.key, _seconds(step, store), reused, outcome)


def _tell(record: StepRecord, manifest: Mapping[str, Any] | None, left: str) -> None:
    """Note that a step was done, or diverged and why, and the time left."""
    diverged = record.outcome == "diverged"
    if record.reused and not diverged:
        return
    outcome = (manifest or {}).get("outcome") or {}
    why = f": {outcome.get('message', '')}" if diverged else ""
    word, after = outcome.get("status", "diverged") if diverged else "done", f"; {left}" if left else ""
    progress.note(f"{word:>8}  {record.name} ({record.seconds:.1f} s){why}{after}")


def _compute(step: Step, plan: Plan, store: Store, shelf: Shelf) -> None:
    from uwc.studies.steps import STEP_FUNCTIONS, Workshop  # heavy: only where something is computed

    started = time.perf_counter()
    with store.writing(step.kind, step.key) as (folder, manifest):
        outcome = STEP_FUNCTIONS[step.kind](step, Workshop(plan, store, shelf), folder)
        manifest.update(
            name=step.name,
            settings=dict(step.settings),
            inputs={role: s.key for role, s in step.inputs.items()},
            outcome=outcome,
            seconds=time.perf_counter() - started,
            files=checkpoint_fingerprint(str(folder / MODEL)) if (folder / MODEL).is_dir() else {},
            environment=environment(device=step.settings["device"]),
        )


def run_record(records: list[StepRecord]) -> dict[str, object]:
    """How a run went, as plain data for the report."""
    return {"environment": environment(), "steps": [asdict(r) for r in records]}
