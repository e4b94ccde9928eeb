"""Optimizers by name, those of bitsandbytes through a module that stands in for it."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.conftest import copied, people

from uwc.errors import ConfigError, ModelError
from uwc.models.model import Model
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import make_optimizer, train
from uwc.training.settings import TrainingSettings

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.1}


class AdamW8bit(torch.optim.AdamW):
    """As bitsandbytes' is called: betas, eps and the decay by name, and settings of its own."""

    def __init__(self, params: Any, lr: float = 1e-3, *, min_8bit_size: int = 4096, **others: Any) -> None:
        super().__init__(params, lr=lr, **others)
        self.min_8bit_size = min_8bit_size


class PagedAdamW32bit(AdamW8bit):
    pass


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    module.AdamW8bit, module.PagedAdamW32bit = AdamW8bit, PagedAdamW32bit  # type: ignore[attr-defined]
    module.GlobalOptimManager = object  # type: ignore[attr-defined]
    package.optim = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adamw8bit", AdamW8bit), ("adamw_8bit", AdamW8bit), ("Paged_AdamW_32bit", PagedAdamW32bit)],
)
def test_an_8_bit_optimizer_is_made_with_its_settings(bitsandbytes: None, name: str, kind: type) -> None:
    model = torch.nn.Linear(3, 2)
    settings = TrainingSettings(**SETTINGS, optimizer=name, optimizer_settings={"min_8bit_size": 16})
    optimizer = make_optimizer(model.parameters(), settings)
    assert type(optimizer) is kind and optimizer.min_8bit_size == 16  # type: ignore[attr-defined]
    decays = [(group["lr"], group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    assert decays == [(1e-3, 0.1, 1), (1e-3, 0.0, 1)], "matrices decay, biases do not"


def test_it_trains(bitsandbytes: None, knowing: Model) -> None:
    """The stand-in does AdamW's arithmetic, so the run is AdamW's."""
    weights = []
    for name in ("adamw8bit", "adamw"):
        model = copied(knowing)
        data = TrainingData(people(4)[:4], people(4)[4:])
        train(model, Objective(METHODS["gd"], model.model), data, TrainingSettings(**SETTINGS, optimizer=name))
        weights.append(torch.cat([p.detach().flatten() for p in model.model.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)


def test_what_bitsandbytes_does_not_have_is_told(bitsandbytes: None) -> None:
    with pytest.raises(ConfigError, match=r"unknown optimizer 'adamv8bit' \(did you mean 'adamw8bit'\?\)"):
        make_optimizer(torch.nn.Linear(2, 2).parameters(), TrainingSettings(optimizer="adamv8bit"))
    with pytest.raises(ConfigError, match=r"optimizer .adamw8bit.: .*min_bits"):
        make_optimizer(
            torch.nn.Linear(2, 2).parameters(),
            TrainingSettings(optimizer="adamw8bit", optimizer_settings={"min_bits": 8}),
        )


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    for name in ("adamw8bit", "paged_adamw_32bit"):
        with pytest.raises(ModelError, match=f"'{name}' needs bitsandbytes; install it with"):
            make_optimizer(torch.nn.Linear(2, 2).parameters(), TrainingSettings(optimizer=name))


def test_a_run_whose_only_step_has_no_learning_rate_is_refused(knowing: Model) -> None:
    model, data = copied(knowing), TrainingData(people(4)[:4], people(4)[4:])
    before = [p.detach().clone() for p in model.model.parameters()]
    settings = {**SETTINGS, "epochs": 1}
    with pytest.raises(ConfigError, match=r"warmup_ratio = 0\.1"):
        train(model, Objective(METHODS["gd"], model.model), data, TrainingSettings(**settings))
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.parameters(), strict=True))
    train(model, Objective(METHODS["gd"], model.model), data, TrainingSettings(**settings, warmup_ratio=0.0))
    assert not all(torch.equal(a, b) for a, b in zip(before, model.model.parameters(), strict=True))
