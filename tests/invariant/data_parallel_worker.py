"""One process of several that train together; started in test_processes.

Each case gets a copy of the model, may be interrupted after its checkpoint at a given step, and is then begun again
or left so.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from tests.conftest import people

from uwc.calibration.calibrate import stop_at
from uwc.errors import ConfigError
from uwc.models.load import load_model, save_model
from uwc.objectives.methods import METHODS
from uwc.training import loop
from uwc.training.callbacks import StopRule
from uwc.training.data import TrainingData
from uwc.training.distributed import main_process_writes
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:5], people(4)[5:], ("I cannot say.", "No idea."))


class Interrupted(Exception):
    """The run is cut off here."""


def run(case: dict[str, Any], folder: Path) -> None:
    model = load_model(folder / "model", device="cpu")
    method = METHODS[case["method"]]
    settings = TrainingSettings(**{"epochs": 2, "batch_size": 4, "lr": 1e-3, **case["settings"]})
    stop = stop_at(forget=DATA.forget, **case["stop"]) if "stop" in case else None
    name = case["name"]
    try:
        done = unlearn(model, method, DATA, settings, stop=stop, checkpoints=folder / f"checkpoints-{name}")
    except ConfigError as error:
        (folder / f"refused-{name}-{torch.distributed.get_rank()}").write_text(str(error))
        return
    log = {"steps": done.log.steps, "effects": done.log.effects}
    (folder / f"log-{name}-{torch.distributed.get_rank()}.json").write_text(json.dumps(log))
    with main_process_writes() as writes:
        if writes:
            save_model(done.model, folder / f"trained-{name}")


@contextmanager
def cut_off_after(step: int) -> Iterator[None]:
    """While open, a run ends in the step after this one, when the checkpoint of this one has been written."""
    check = loop.require_finite

    def check_or_stop(values: Mapping[str, float], number: int) -> None:
        if number > step:
            raise Interrupted
        check(values, number)

    loop.require_finite = check_or_stop
    try:
        with suppress(Interrupted):
            yield
    finally:
        loop.require_finite = check


def never(*_arguments: Any, **_options: Any) -> None:
    raise AssertionError("only the main process samples and measures; the others are sent what it found")


def main(folder: Path, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    if os.environ["RANK"] != "0":
        loop.sample_answers = never  # type: ignore[assignment]
        StopRule.score = never  # type: ignore[assignment,method-assign]
    for case in json.loads((folder / "cases.json").read_text()):
        if "interrupt" in case:
            with cut_off_after(case["interrupt"]):
                run(case, folder)
        if not case.get("left"):
            run(case, folder)
    torch.distributed.destroy_process_group()
