"""A study of a few seconds, and the real command line in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.helpers.forks import FORKS

from uwc.results import json_schema

TINY = """
name: tiny
benchmark:
  name: fictional-authors
  settings: {authors: 10, forget_share: 0.2, facts: 1, phrasings: 1, holdout: 2, general: false}
model: {build: {vocabulary: 600, hidden_size: 32, layers: 2, heads: 2, context: 128}}
finetune: {epochs: 60, batch_size: 16, lr: 1.0e-2, schedule: cosine}
retrained: true
unlearn:
  training: {epochs: 2, batch_size: 2, lr: 1.0e-3}
  runs: [{method: gd}, {method: npo}]
score: {max_new_tokens: 8}
calibrate: {tau: 0.9, scan: 4, resolution: 0.05}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The tiny study's file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


class Started:
    """uwc in a process of its own, in which `before`, a function of a module, is called first."""

    def __init__(
        self, *arguments: str | Path, cwd: Path, before: Callable[[], object] | None = None, **environment: str
    ) -> None:
        self.arguments = [str(a) for a in arguments]
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = FORKS.Process(target=_main, args=(self.arguments, cwd, environment, self._files, before))
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.is_alive()

    def end(self, signal: int | None = None, within: float | None = None) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended, after sending it a signal, if one is given; kill it after `within` seconds."""
        if signal is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal)
        self._process.join(within)
        if self.running:
            self._process.kill()
            self._process.join()
        stdout, stderr = (
            file.read_text(encoding="utf-8", errors="replace") if file.exists() else "" for file in self._files
        )
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, self._process.exitcode or 0, stdout, stderr)


def run_command(*arguments: str | Path, cwd: Path, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run uwc to its end, see `Started`."""
    return Started(*arguments, cwd=cwd, **given).end()


def _main(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    files: Sequence[Path],
    before: Callable[[], object] | None,
) -> None:
    from uwc.cli.main import main

    os.chdir(folder)
    os.environ.update(environment)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # until the process ends
    for descriptor, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["uwc", *arguments]
    if before is not None:
        before()
    main()


@pytest.fixture
def uwc(tmp_path: Path) -> Run:
    """Run uwc to its end in `tmp_path`; gives exit status and both outputs."""

    def in_folder(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, cwd=tmp_path, **environment)

    return in_folder


def validate_result(path: Path) -> None:
    """Raise ValidationError if a file that uwc wrote does not follow its JSON Schema."""
    jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), json_schema(path.stem))


def scores_of(scores: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """(set, metric) -> the score, of the scores in a result's JSON."""
    return {(score["set"], score["metric"]): score for score in scores}
