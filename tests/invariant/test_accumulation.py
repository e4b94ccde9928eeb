"""The same step cut into micro-batches, or shared between processes, is the same step."""

import pytest
import torch
from tests.conftest import copied, people

from uwc.models.model import Model
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import Loader, TrainingData
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:5], people(4)[5:], ("I cannot say.", "No idea."))


TRICKS = {"temperature": 1.5, "loss_selection": 0.4, "likelihood_cap": 0.02}


def losses(
    knowing: Model, method: str, tricks: dict[str, float] | None = None, **settings: int
) -> tuple[list[dict[str, float]], torch.Tensor]:
    chosen = TrainingSettings(epochs=1, batch_size=4, lr=1e-3, warmup_ratio=0.0, **settings)  # type: ignore[arg-type]
    done = unlearn(copied(knowing), METHODS[method], DATA, chosen, tricks=tricks)
    return done.log.steps, torch.cat([p.detach().flatten() for p in done.model.model.parameters()])


@pytest.mark.parametrize(
    ("method", "tricks"),
    [
        *((method, None) for method in METHODS),
        *((method, TRICKS) for method in ("ga", "npo", "simnpo", "ce-u", "me-gd")),
    ],
)
def test_micro_batches_change_no_loss(method: str, tricks: dict[str, float] | None, knowing: Model) -> None:
    """Five examples in steps of four and one; cut into ones, and into threes."""
    whole, weights = losses(knowing, method, tricks)
    for size in (1, 3):
        cut, again = losses(knowing, method, tricks, micro_batch_size=size)
        for a, b in zip(whole, cut, strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3, abs=1e-4)
        torch.testing.assert_close(again, weights, rtol=0, atol=2e-4)


def test_processes_share_each_step_completely(knowing: Model) -> None:
    """Every example is read by one process; each makes equally many forwards; fillers count nothing."""
    loader = Loader(knowing, Objective(METHODS["gd"], knowing.model), DATA, TrainingSettings(epochs=2, batch_size=4))
    for step in loader.plan:
        parts = [loader.micro_batches(step, 1, rank=rank, of=3) for rank in range(3)]
        assert len({len(p) for p in parts}) == 1
        read = [m.roles["forget"].keys[0][0] for p in parts for m in p if m.live]
        assert sorted(read) == sorted(step.anchors)
