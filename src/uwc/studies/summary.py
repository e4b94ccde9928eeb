"""A study's summary, results.json, read back: its configuration, and whether what it was made from is still there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uwc import __version__
from uwc.data.benchmark import Benchmark
from uwc.errors import ConfigError, DataError, ModelError, UserError
from uwc.io import file_digest
from uwc.studies.config import StudyConfig
from uwc.studies.plan import SCHEMA
from uwc.studies.problems import first_problem
from uwc.studies.provenance import BASE, checkpoint_fingerprint
from uwc.studies.results import FORMAT

_WHERE = "relative paths count from the current folder"


@dataclass(frozen=True)
class Summary:
    """The content of a results.json.

    Attributes:
        path: the file.
        results: its content.
        config: the configuration of the study, checked.
    """

    path: Path
    results: Mapping[str, Any]
    config: StudyConfig

    @property
    def provenance(self) -> Mapping[str, Any]:
        """See `uwc.studies.origins.origins`."""
        found: Mapping[str, Any] = self.results["provenance"]
        return found

    @property
    def steps(self) -> Mapping[str, Mapping[str, Any]]:
        """Step -> what it was and what came of it."""
        found: Mapping[str, Mapping[str, Any]] = self.provenance["steps"]
        return found

    def warnings(self) -> list[str]:
        """What makes it doubtful that this version of uwc comes to the same numbers."""
        found, made_by = [], str(self.results["study"]["uwc_version"])
        if made_by != __version__:
            found.append(f"the summary was made by uwc {made_by}, and this is uwc {__version__}")
        if self.provenance["schema"] != SCHEMA:
            found.append(
                f"this version computes some steps otherwise (schema {SCHEMA}, recorded {self.provenance['schema']}); "
                "CHANGELOG.md says which numbers moved"
            )
        return found


def read_summary(path: Path) -> Summary:
    """Read a results.json.

    Raises:
        UserError: the file is not a summary, or one that this version cannot replay.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the results.json of a study") from None
    except ValueError:
        raise UserError(f"{path}: not JSON; give the results.json of a study") from None
    if not isinstance(results, dict) or "config" not in (results.get("study") or {}):
        raise UserError(f"{path}: not the summary of a study; give the results.json from the folder of its report")
    if results.get("schema") != FORMAT or "provenance" not in results:
        raise UserError(
            f"{path}: an older layout without provenance cannot be replayed; run the study again with this version"
        )
    try:
        config = StudyConfig(**results["study"]["config"])
    except ValidationError as error:
        raise ConfigError(f"{path}: study.config: {first_problem(error, StudyConfig)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: study.config: {error}") from None
    return Summary(path, results, config)


def check_sources(summary: Summary) -> None:
    """Compare the data files and the checkpoints that the user brought with their recorded hashes.

    Raises:
        DataError: a data file is missing or has changed; the message names it.
        ModelError: a checkpoint's file is missing or has changed, or its revision on the hub.
    """
    for name, recorded in summary.provenance["data_files"].items():
        file = Path(name).expanduser()
        if not file.is_file():
            raise DataError(f"{name}: the data file is missing, so nothing can be replayed; put it back ({_WHERE})")
        if (now := file_digest(file)) != recorded:
            raise DataError(
                f"{name}: the data file has changed since the summary was made (SHA-256 {recorded[:12]} then, "
                f"{now[:12]} now); put the recorded one back"
            )
    for step in summary.steps.values():
        if step["kind"] == "checkpoint":
            path, files = step["path"], step["files"]
            if "hub" not in files and not Path(path).is_dir():
                raise ModelError(
                    f"{path}: the checkpoint is missing, so nothing can be replayed; put it back ({_WHERE})"
                )
            require_same_files(path, files)


def require_same_files(path: str, recorded: Mapping[str, str]) -> None:
    """Raise ModelError, naming the file, if a checkpoint is not what it was."""
    now = checkpoint_fingerprint(path, with_base=any(name.startswith(BASE) for name in recorded))
    for name in sorted({*recorded, *now}):
        if recorded.get(name) != now.get(name):
            what = "is missing" if name not in now else "is new" if name not in recorded else "has changed"
            raise ModelError(f"{path}: {name} {what} since the summary was made; put the recorded checkpoint back")


def check_questions(summary: Summary, benchmark: Benchmark) -> None:
    """Raise DataError if the benchmark's questions are no longer those of the summary."""
    recorded, now = summary.results["benchmark"]["fingerprint"], benchmark.fingerprint()
    if recorded != now:
        raise DataError(
            f"the questions of {benchmark.name} are not those of the summary (fingerprint {recorded[:12]} then, "
            f"{now[:12]} now): the data set, or what this version makes of it, has changed"
        )
