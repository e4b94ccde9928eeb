"""Checkpoints, from which an interrupted run resumes with the same bits."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uwc import progress
from uwc.errors import ConfigError, DiskFull, reporting_full_disk
from uwc.io import file_digest, not_a_file, remove, write_json
from uwc.models.chunks import Pace, folder_of

FILE = "checkpoint.json"
"""Names the file of the state with its hash."""


@dataclass
class TrainingState:
    """The state of a run after a step, besides its arguments.

    Attributes:
        identity: hash of the run's arguments; a checkpoint is only used by the run that wrote it.
        step: the number of finished steps.
        weights: name -> every trainable parameter and every buffer.
        optimizer: the state of the optimizer, per parameter; empty after the last step.
        schedule: the state of the learning-rate schedule.
        scaler: the state of the gradient scaler, in fp16.
        duals: term -> its weight or dual variable.
        samples: (question, number) -> tokens and the ends of the prompt and answer that were sampled.
        log: one entry a step.
        effects: the records of the gradient effect.
        rule: name -> what the method's rule remembers.
    """

    identity: str
    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any] = field(default_factory=dict)
    duals: dict[str, float] = field(default_factory=dict)
    samples: dict[tuple[int, int], tuple[str, tuple[int, ...], int, int]] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    rule: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write a checkpoint atomically: the state to a file of its own, which replaces the previous one once complete.

    Raises:
        DiskFull: no space was left; the previous checkpoint is kept.
    """
    with reporting_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step-{state.step}.pt"
        try:
            remove(path)  # what is left there may be a folder or a pipe
            with path.open("wb") as file:
                torch.save(vars(state), file)
                file.flush()
                os.fsync(file.fileno())
            write_json(folder / FILE, {"file": path.name, "sha256": file_digest(path)})
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        for old in set(folder.glob("step-*.pt")) - {path}:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, identity: str) -> TrainingState | None:
    """The checkpoint in a folder, or None, with a warning if it is damaged.

    Raises:
        ConfigError: it was written by a run with other arguments.
    """
    path = intact_file(folder)
    if path is None:
        return None
    state = TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    if state.identity != identity:
        raise ConfigError(
            f"the checkpoint in {folder} was written by a run with other settings, data or weights; "
            "remove the folder to start again, or use the same ones to resume"
        )
    return state


def intact_file(folder: Path) -> Path | None:
    """The file of a checkpoint; None if there is none, or if it is damaged, in which case the folder is removed with a
    warning."""
    where = folder / FILE
    if not where.exists():
        return None
    try:
        written = json.loads(_regular(where).read_text(encoding="utf-8"))
        path = _regular(folder / Path(written["file"]).name)
        if file_digest(path) != written["sha256"]:
            raise ValueError(f"the content of {path.name} has changed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        progress.warn(f"the checkpoint in {folder} is damaged ({error}); the training starts again")
        shutil.rmtree(folder, ignore_errors=True)  # a folder or pipe in place of a file could not be written to
        return None
    return path


def _regular(path: Path) -> Path:
    """The path of a file; raises ValueError if it is a pipe, which may never end, a folder or missing."""
    if reason := not_a_file(path):
        raise ValueError(f"{path.name}: {reason}")
    return path


def remove_checkpoint(folder: Path) -> None:
    """Remove the folder of a run that has ended."""
    shutil.rmtree(folder, ignore_errors=True)


class Kept:
    """The checkpoints of a training that is a part of an attack, which are kept with the results of passes.

    They are written as `uwc.models.chunks.Pace` says, and once more after the last step if the training was long enough
    for one before. They are removed with all that the step or command has kept.

    Args:
        content: gives what determines the training: models, arrays and plain data. Called only if results are kept.

    Attributes:
        folder: the folder of the checkpoints; None where nothing is kept, see `uwc.models.chunks.folder_of`.
    """

    def __init__(self, content: Callable[[], Sequence[object]]) -> None:
        self.folder = folder_of(content)
        self._pace, self._written = Pace(), False

    def load(self, identity: str = "") -> TrainingState | None:
        """The last checkpoint, or None. Raises as `load_checkpoint`."""
        state = None if self.folder is None else load_checkpoint(self.folder, identity)
        self._written = state is not None
        return state

    def due(self, *, last: bool) -> bool:
        """Whether to write a checkpoint after a step, which may be the last one."""
        return self.folder is not None and (self._pace.due() or (last and self._written))

    def write(self, state: TrainingState) -> None:
        """Write a checkpoint; where the disk is full, a warning says so, and no more are written."""
        if self.folder is None:
            return
        try:
            with self._pace.writing():
                save_checkpoint(self.folder, state)
            self._written = True
        except DiskFull as error:
            progress.warn(f"this training cannot be resumed after step {state.step}: {error}")
            self.folder = None
