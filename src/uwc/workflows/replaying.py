"""Replaying a study: compute its results again, and set every number beside the recorded one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from uwc import progress
from uwc.errors import ConfigError, UserError
from uwc.io import digest
from uwc.results import Diff
from uwc.studies.diff import RTOL, diff
from uwc.studies.plan import Plan, make_plan
from uwc.studies.step import STORE_VERSION, Step
from uwc.studies.steps import MODEL, Checkpoint
from uwc.studies.store import Store
from uwc.studies.summary import Recorded, check_questions, check_sources, read_recorded, require_same_files
from uwc.workflows.studies import DEFAULT_RUNS, run_plan


@dataclass(frozen=True)
class Replay:
    """A finished replay.

    Attributes:
        diff: the recorded results against the recomputed ones.
        kept: the folder of the recomputed study; None where it was removed.
    """

    diff: Diff
    kept: Path | None


def replay(
    results: str | Path,
    *,
    models_from: str | Path | None = None,
    rtol: float = RTOL,
    keep: str | Path | None = None,
) -> Replay:
    """Compute a study again from its results.json, and compare number by number.

    Data files and checkpoints are first compared with their recorded hashes. Everything is then computed in a folder of
    its own, with as many threads as were recorded: on a CPU in float32, with the same library versions, the numbers are
    equal to the last bit. Interrupted, the next call resumes.

    Args:
        results: the results.json of a study.
        models_from: the folder of runs (``runs/``) whose trained models are taken instead of being trained again, if
            they are still those of the results; only scores and calibrations are then computed.
        rtol: the relative difference ``|a - b| / max(|a|, |b|)`` up to which numbers count as within it.
        keep: a folder in which the recomputed study is kept, with its report; otherwise it is removed at the end.

    Raises:
        UserError: the file holds no results, or what they were made from is missing or has changed.
    """
    if not 0 <= rtol < 1:
        raise ConfigError(f"rtol is {rtol}; set it from 0 to less than 1")
    recorded = read_recorded(Path(results))
    check_sources(recorded)
    plan = make_plan(recorded.config)
    check_questions(recorded, plan.benchmark)
    if (version := recorded.results.provenance.store_version) != STORE_VERSION:
        progress.warn(
            f"this version computes some steps otherwise (store version {STORE_VERSION}, recorded {version}); "
            "CHANGELOG.md says which numbers moved"
        )
    folder = Path(keep or DEFAULT_RUNS) / _name(recorded, scores_only=models_from is not None)
    models = _models_in(Path(models_from), recorded, plan) if models_from is not None else []
    store = Store(folder / "store")
    for step, theirs in models:
        store.borrow(step, theirs)
    with _threads_of(recorded):
        recomputed = run_plan(plan, store, folder)
    if keep is None:
        shutil.rmtree(folder)
    found = diff(recorded.results, recomputed, rtol=rtol, names=(str(recorded.path), "recomputed"))
    return Replay(found, None if keep is None else folder)


def _name(recorded: Recorded, *, scores_only: bool) -> str:
    """The same folder each time, so that an interrupted replay resumes; another one for other results or mode."""
    return f"replay-{digest([recorded.results.to_dict(), scores_only])[:16]}"


def _models_in(runs: Path, recorded: Recorded, plan: Plan) -> list[tuple[Step, Store]]:
    """The steps that make a model, each with the store in a folder of runs that holds the model that was recorded."""
    if not (runs / "store").is_dir():
        raise UserError(f"{runs}: no results are kept there; name the folder of runs in which the study ran")
    store, found = Store(runs / "store"), []
    origins = recorded.results.provenance.steps
    for step in plan.steps:
        files = origins[step.id].files if step.id in origins else {}
        if isinstance(step, Checkpoint) or not files:
            continue
        if store.manifest(step) is None:
            raise UserError(
                f"{runs}: the model of '{step.name}' is not there (key {step.key[:16]}); replay without a folder of "
                "models, so that everything is trained again"
            )
        require_same_files(str(store.folder(step) / MODEL), files)
        found.append((step, store))
    return found


@contextmanager
def _threads_of(recorded: Recorded) -> Iterator[None]:
    """Compute with as many threads as were recorded: the order of sums depends on it."""
    import torch

    threads = {e["threads"] for e in recorded.results.provenance.environments}
    before = torch.get_num_threads()
    if len(threads) == 1:
        torch.set_num_threads(int(threads.pop()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
