"""Replay of a study: recompute its results, and compare every number with the recorded one."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from uwc import progress
from uwc.data.benchmark import Benchmark
from uwc.errors import ConfigError, DataError, ModelError, UserError
from uwc.io import digest, expanded, file_digest
from uwc.names import STORE
from uwc.results import Diff, StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import require_allowed
from uwc.studies.diff import RTOL, diff
from uwc.studies.plan import Plan, make_plan
from uwc.studies.sections import first_problem
from uwc.studies.steps import MODEL, STORE_VERSION, Checkpoint, Step
from uwc.studies.store import BASE, Store, checkpoint_fingerprint
from uwc.workflows.studies import DEFAULT_RUNS, run_plan

_WHERE = (
    "relative paths count from the current folder; one that lay outside is recorded by its last part, unless the study "
    "ran with --keep-paths: put it, or a link to it, there"
)


@dataclass(frozen=True)
class Recorded:
    """The recorded results of a study, to be replayed.

    Attributes:
        path: the file.
        results: its content.
        config: the configuration of the study, checked.
    """

    path: Path
    results: StudyResults
    config: StudyConfig


def read_recorded(path: Path, *, trust_remote_code: bool = False, allow_plugins: bool = False) -> Recorded:
    """Read a results.json.

    Args:
        path: the file.
        trust_remote_code, allow_plugins: as `load_config` takes them.

    Raises:
        UserError: the file is missing, of another kind or version, or asks to run code that is not allowed.
    """
    results = StudyResults.load(path)
    require_allowed(
        results.study.config, where=str(path), trust_remote_code=trust_remote_code, allow_plugins=allow_plugins
    )
    try:
        config = StudyConfig(**results.study.config)
    except ValidationError as error:
        raise ConfigError(f"{path}: study.config: {first_problem(error, StudyConfig)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: study.config: {error}") from None
    return Recorded(path, results, config)


def check_sources(recorded: Recorded) -> None:
    """Compare data files and given checkpoints with their recorded hashes.

    Raises:
        DataError: a data file is missing or has changed; the message names it.
        ModelError: a checkpoint's file is missing or has changed, or its revision on the hub.
    """
    provenance = recorded.results.provenance
    for name, recorded_digest in provenance.data_files.items():
        file = expanded(name)
        if not file.is_file():
            raise DataError(f"{name}: the data file is missing, so nothing can be replayed; put it back ({_WHERE})")
        if (now := file_digest(file)) != recorded_digest:
            raise DataError(
                f"{name}: the data file has changed since the results were made (SHA-256 {recorded_digest[:12]} then, "
                f"{now[:12]} now); put the recorded one back"
            )
    for step in provenance.steps.values():
        if step.path is not None:
            if "hub" not in step.files and not Path(step.path).is_dir():
                raise ModelError(
                    f"{step.path}: the checkpoint is missing, so nothing can be replayed; put it back ({_WHERE})"
                )
            require_same_files(step.path, step.files)


def require_same_files(path: str, recorded: Mapping[str, str]) -> None:
    """Raise ModelError, naming the file, if a checkpoint has changed."""
    now = checkpoint_fingerprint(path, with_base=any(name.startswith(BASE) for name in recorded))
    for name in sorted({*recorded, *now}):
        if recorded.get(name) != now.get(name):
            what = "is missing" if name not in now else "is new" if name not in recorded else "has changed"
            raise ModelError(f"{path}: {name} {what} since the results were made; put the recorded checkpoint back")


def check_questions(recorded: Recorded, benchmark: Benchmark) -> None:
    """Raise DataError if the benchmark's questions have changed."""
    then, now = recorded.results.benchmark.fingerprint, benchmark.fingerprint()
    if then != now:
        raise DataError(
            f"the questions of {benchmark.name} are not those of the results (fingerprint {then[:12]} then, "
            f"{now[:12]} now): the data set, or what this version makes of it, has changed; put the recorded "
            f"data set back, or replay with uwc {recorded.results.uwc_version}"
        )


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
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
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
        trust_remote_code: run Python code that comes with the checkpoints, as the study did.
        allow_plugins: execute the study's plug-ins that lie outside of the current folder.

    Raises:
        UserError: the file holds no results, or what they were made from is missing or has changed.
    """
    if not 0 <= rtol < 1:
        raise ConfigError(f"rtol is {rtol}; set it from 0 to less than 1")
    recorded = read_recorded(Path(results), trust_remote_code=trust_remote_code, allow_plugins=allow_plugins)
    check_sources(recorded)
    plan = make_plan(recorded.config)
    check_questions(recorded, plan.benchmark)
    if (version := recorded.results.provenance.store_version) != STORE_VERSION:
        progress.warn(
            f"this version computes some steps differently (store version {STORE_VERSION}, recorded {version}); "
            "CHANGELOG.md says which numbers changed"
        )
    folder = Path(keep or DEFAULT_RUNS) / _name(recorded, scores_only=models_from is not None)
    models = _models_in(Path(models_from), recorded, plan) if models_from is not None else []
    store = Store(folder / STORE)
    for step, theirs in models:
        store.borrow(step, theirs)
    with _threads_of(recorded):
        recomputed = run_plan(plan, store, folder)
    if keep is None:
        shutil.rmtree(folder)
    found = diff(recorded.results, recomputed, rtol=rtol, names=(str(recorded.path), "recomputed"))
    found = found.without_paths(keep, keep=plan.config.keep_paths)
    return Replay(found, None if keep is None else folder)


def _name(recorded: Recorded, *, scores_only: bool) -> str:
    """The same folder each time, so that an interrupted replay resumes; another one for other results or mode."""
    return f"replay-{digest([recorded.results.to_dict(), scores_only])[:16]}"


def _models_in(runs: Path, recorded: Recorded, plan: Plan) -> list[tuple[Step, Store]]:
    """The steps that make a model, each with the store in a folder of runs that holds the model that was recorded."""
    if not (runs / STORE).is_dir():
        raise UserError(f"{runs}: no results are kept there; name the folder of runs in which the study ran")
    store, found = Store(runs / STORE), []
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
