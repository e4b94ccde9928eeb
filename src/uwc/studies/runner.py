"""Runs the steps of a plan that are not done yet."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from uwc import progress
from uwc.studies.plan import MODEL, Plan, Step
from uwc.studies.provenance import checkpoint_fingerprint, environment
from uwc.studies.store import Store


@dataclass(frozen=True)
class StepRecord:
    """How a step went.

    Attributes:
        name: the step.
        key: what its result is kept under.
        seconds: how long it took when it was computed; 0 for a checkpoint that the user brought.
        reused: whether it was there already.
        outcome: "ok", "diverged", or "skipped" for what depends on a diverged run.
    """

    name: str
    key: str
    seconds: float
    reused: bool
    outcome: str


def step_status(step: Step, store: Store) -> str:
    """ "done", "missing", "diverged", "skipped" (what it needs diverged) or "given" (a user's checkpoint)."""
    if step.kind == "checkpoint":
        return "given"
    if any(step_status(s, store) in ("diverged", "skipped") for s in step.inputs.values()):
        return "skipped"
    manifest = store.manifest(step.kind, step.key)
    if manifest is None:
        return "missing"
    return "diverged" if manifest["outcome"].get("status") == "diverged" else "done"


def run_steps(plan: Plan, store: Store, *, on_step: Callable[[], None]) -> list[StepRecord]:
    """Run every missing step, in order, calling `on_step` after each. A result is kept as soon as it is there."""
    records = []
    for step in plan.steps:
        if step.kind != "checkpoint":
            records.append(_run(step, plan, store))
        on_step()
    return records


def _run(step: Step, plan: Plan, store: Store) -> StepRecord:
    status = step_status(step, store)
    reused = status != "missing"
    if status == "missing":
        with store.lock(step.kind, step.key, name=step.name):
            reused = store.manifest(step.kind, step.key) is not None  # another run may have made it meanwhile
            if not reused:
                _compute(step, plan, store)
        status = step_status(step, store)
    manifest = store.manifest(step.kind, step.key) or {}
    seconds = float(manifest.get("seconds", 0.0))
    outcome = "ok" if status == "done" else status
    note = {"ok": "", "diverged": ": " + str(manifest.get("outcome", {}).get("message", "")), "skipped": ""}[outcome]
    if not reused or outcome == "diverged":
        progress.note(f"{'diverged' if outcome == 'diverged' else 'done':>8}  {step.name} ({seconds:.1f} s){note}")
    return StepRecord(step.name, step.key, seconds, reused, outcome)


def _compute(step: Step, plan: Plan, store: Store) -> None:
    from uwc.studies.steps import STEP_FUNCTIONS, Workshop  # heavy: only where something is computed

    started = time.perf_counter()
    with store.writing(step.kind, step.key) as (folder, manifest):
        outcome = STEP_FUNCTIONS[step.kind](step, Workshop(plan, store), folder)
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
