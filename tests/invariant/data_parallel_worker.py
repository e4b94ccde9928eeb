"""One process of a data-parallel run; started by `accelerate launch` in test_accumulation."""

import json
import sys
from pathlib import Path

import torch
from tests.conftest import people

from uwc.models.loading import load_target, save_target
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.loading import TrainingData
from uwc.training.loop import train
from uwc.training.processes import main_process_writes
from uwc.training.settings import TrainingSettings


def main(method: str, folder: Path) -> None:
    target = load_target(folder / "model", device="cpu")
    data = TrainingData(people(4)[:5], people(4)[5:], ("I cannot say.", "No idea."))
    log = train(
        target, Objective(METHODS[method], target.model), data, TrainingSettings(epochs=2, batch_size=4, lr=1e-3)
    )
    (folder / f"log-{torch.distributed.get_rank()}.json").write_text(json.dumps(log.steps))
    with main_process_writes() as writes:
        if writes:
            save_target(target, folder / "trained")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
