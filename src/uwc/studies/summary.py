"""Recorded results of a study: their configuration, and checks that data and checkpoints are unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from uwc.data.benchmark import Benchmark
from uwc.errors import ConfigError, DataError, ModelError
from uwc.io import file_digest
from uwc.results import StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.provenance import BASE, checkpoint_fingerprint
from uwc.studies.sections import first_problem

_WHERE = "relative paths count from the current folder"


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


def read_recorded(path: Path) -> Recorded:
    """Read a results.json.

    Raises:
        UserError: the file is missing, or of another kind or version.
    """
    results = StudyResults.load(path)
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
    for name, digest in provenance.data_files.items():
        file = Path(name).expanduser()
        if not file.is_file():
            raise DataError(f"{name}: the data file is missing, so nothing can be replayed; put it back ({_WHERE})")
        if (now := file_digest(file)) != digest:
            raise DataError(
                f"{name}: the data file has changed since the results were made (SHA-256 {digest[:12]} then, "
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
            f"{now[:12]} now): the data set, or what this version makes of it, has changed"
        )
