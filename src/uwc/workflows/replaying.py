"""Replaying a study: compute its summary again, and set every number beside the recorded one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from uwc import progress
from uwc.errors import ConfigError, UserError
from uwc.io import digest
from uwc.studies.plan import MODEL, Plan, Step, make_plan
from uwc.studies.replay import (
    TOLERANCE,
    VERDICTS,
    Compared,
    compare_results,
    environment_changes,
    group_counts,
    model_changes,
    record_changes,
)  # fmt: skip
from uwc.studies.store import Store
from uwc.studies.summary import Summary, check_questions, check_sources, read_summary, require_same_files
from uwc.workflows.studies import DEFAULT_RUNS, run_plan


@dataclass(frozen=True)
class Replay:
    """What came of a replay.

    Attributes:
        summary: the file that was replayed.
        tolerance: the relative difference up to which numbers count as within it.
        numbers: every number, recorded and recomputed.
        environment: what differs in libraries, machine, device and threads: what, recorded, now.
        models: the steps that made other weights than the recorded ones.
        record_changes: which words and hashes of the summary the same code says otherwise: what, recorded, now.
        warnings: what makes it doubtful that the numbers are the same.
        kept: the folder of the recomputed study; None where it was removed.
    """

    summary: Path
    tolerance: float
    numbers: list[Compared]
    environment: list[dict[str, str]]
    models: list[str]
    record_changes: list[dict[str, str]]
    warnings: list[str]
    kept: Path | None

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers are equal, within the tolerance, and different."""
        return {verdict: sum(n.verdict == verdict for n in self.numbers) for verdict in VERDICTS}

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The same for each model, calibration, and so on."""
        return group_counts(self.numbers)

    @property
    def different(self) -> list[dict[str, Any]]:
        """The numbers that are neither equal nor within the tolerance: path, recorded, recomputed."""
        chosen = [n for n in self.numbers if n.verdict == "different"]
        return [{"path": n.path, "recorded": n.recorded, "recomputed": n.recomputed} for n in chosen]

    def record(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "summary": str(self.summary), "tolerance": self.tolerance, "counts": self.counts, "groups": self.groups,
            "environment": self.environment, "models": self.models,
            "record_changes": self.record_changes, "warnings": self.warnings,
            "kept": None if self.kept is None else str(self.kept), "numbers": [asdict(n) for n in self.numbers],
        }  # fmt: skip


def replay(
    summary: str | Path,
    *,
    models_from: str | Path | None = None,
    tolerance: float = TOLERANCE,
    keep: str | Path | None = None,
) -> Replay:
    """Compute a study again from its results.json, and compare number by number.

    Data files and checkpoints are first compared with their recorded hashes. Everything is then computed anew in a
    folder of its own, with as many threads as were recorded: on a CPU in float32, with the same library versions, the
    numbers are equal to the last bit. Interrupted, the next call goes on where this one was.

    Args:
        summary: the results.json of a study.
        models_from: the folder of runs (``runs/``) whose trained models are taken instead of being trained again, if
            they are still those of the summary; only scores and calibrations are then computed anew.
        tolerance: the relative difference ``|a - b| / max(|a|, |b|)`` up to which numbers count as within it.
        keep: a folder in which the recomputed study is kept, with its report; otherwise it is removed at the end.

    Raises:
        UserError: the file is no summary, or what it was made from is missing or has changed.
    """
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance is {tolerance}; set it from 0 to less than 1")
    recorded = read_summary(Path(summary))
    check_sources(recorded)
    plan = make_plan(recorded.config)
    check_questions(recorded, plan.benchmark)
    warnings = recorded.warnings()
    for warning in warnings:
        progress.warn(warning)
    folder = Path(keep or DEFAULT_RUNS) / _name(recorded, scores_only=models_from is not None)
    models = _models_in(Path(models_from), recorded, plan) if models_from is not None else []
    store = Store(folder / "store")
    for step, theirs in models:
        store.borrow(step.kind, step.key, theirs)
    with _threads_of(recorded):
        recomputed = run_plan(plan, store, folder).results
    if keep is None:
        shutil.rmtree(folder)
    now = recomputed["provenance"]
    return Replay(
        recorded.path, tolerance, compare_results(recorded.results, recomputed, tolerance=tolerance),
        environment_changes(recorded.provenance["environments"], now["environments"]),
        model_changes(recorded.steps, now["steps"]), record_changes(recorded.results, recomputed), warnings,
        None if keep is None else folder,
    )  # fmt: skip


def _name(summary: Summary, *, scores_only: bool) -> str:
    """The same folder each time, so that an interrupted replay goes on; another one for another summary or mode."""
    return f"replay-{digest([summary.results, scores_only])[:16]}"


def _models_in(runs: Path, summary: Summary, plan: Plan) -> list[tuple[Step, Store]]:
    """The steps that make a model, each with the store in a folder of runs that holds the model that was recorded."""
    if not (runs / "store").is_dir():
        raise UserError(f"{runs}: no results are kept there; name the folder of runs in which the study ran")
    store, found = Store(runs / "store"), []
    for step in plan.steps:
        files = (summary.steps.get(step.name) or {}).get("files")
        if step.kind == "checkpoint" or not files:
            continue
        if store.manifest(step.kind, step.key) is None:
            raise UserError(
                f"{runs}: the model of '{step.name}' is not there (key {step.key[:16]}); replay without a folder of "
                "models, so that everything is trained again"
            )
        require_same_files(str(store.folder(step.kind, step.key) / MODEL), files)
        found.append((step, store))
    return found


@contextmanager
def _threads_of(summary: Summary) -> Iterator[None]:
    """Compute with as many threads as were recorded, for the order of sums depends on it."""
    import torch

    recorded = {e["threads"] for e in summary.provenance["environments"]}
    before = torch.get_num_threads()
    if len(recorded) == 1:
        torch.set_num_threads(int(recorded.pop()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
