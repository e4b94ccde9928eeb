"""Checkpoints, from which an interrupted run resumes with the same bits."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uwc.errors import ConfigError, reporting_full_disk

FILE = "checkpoint.pt"


@dataclass
class TrainingState:
    """The state of a run after a step, besides its arguments.

    Attributes:
        identity: hash of the run's arguments; a checkpoint is only used by the run that wrote it.
        step: the number of finished steps.
        weights: name -> every trainable parameter and every buffer.
        optimizer: the state of the optimizer, per parameter.
        schedule: the state of the learning-rate schedule.
        scaler: the state of the gradient scaler, in fp16.
        duals: term -> its weight or dual variable.
        samples: (question, number) -> tokens and the ends of the prompt and answer that were sampled.
        log: one entry a step.
        effects: the records of the gradient effect.
        masks: name -> the weights that pruning kept.
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
    masks: dict[str, Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write a checkpoint atomically: to a temporary file, which replaces the previous checkpoint.

    Raises:
        DiskFull: no space was left.
    """
    with reporting_full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{FILE}.{os.getpid()}"
        with beside.open("wb") as file:
            torch.save(vars(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, folder / FILE)


def load_checkpoint(folder: Path, identity: str) -> TrainingState | None:
    """The checkpoint in a folder, or None where there is none.

    Raises:
        ConfigError: it was written by a run with other arguments, or cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state = TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ConfigError(f"the checkpoint {path} cannot be read ({error}); remove it to start again") from None
    if state.identity != identity:
        raise ConfigError(
            f"the checkpoint {path} was written by a run with other settings, data or weights; "
            "remove it to start again, or use the same ones to resume"
        )
    return state


def remove_checkpoint(folder: Path) -> None:
    """Remove the folder of a run that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
