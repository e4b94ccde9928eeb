"""Optimizers and learning-rate schedules by name."""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import torch
from transformers import get_scheduler

from uwc.errors import ConfigError, ModelError
from uwc.registry import unknown_name
from uwc.training.settings import TrainingSettings

FUSED = ("adam", "adamw", "sgd", "adagrad")
OF_BITSANDBYTES = ("8bit", "32bit", "paged")
"""Parts of a name by which an optimizer is one of bitsandbytes: with small or paged states."""


def make_optimizer(parameters: Iterable[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name; it decays matrices only, as biases and norms have no scale to keep small.

    Raises:
        ConfigError: there is no such optimizer, or it does not take one of the settings.
        ModelError: an 8-bit or paged optimizer is asked for and bitsandbytes is not installed.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind = _optimizer_class(settings.optimizer)
    fused = {"fused": True} if _plain(settings.optimizer) in FUSED else {}
    try:
        optimizer: torch.optim.Optimizer = kind(groups, **{"lr": settings.lr, **fused, **settings.optimizer_settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optimizer {settings.optimizer!r}: {error}") from None
    return optimizer


def make_schedule(optimizer: Any, settings: TrainingSettings, *, steps: int) -> Any:
    """The learning rate over the run: a linear warm-up, then constant or falling to 0."""
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    warmup = math.ceil(settings.warmup_ratio * steps) if settings.warmup_ratio else 0
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)


def _optimizer_class(name: str) -> Any:
    module: Any = torch.optim
    if any(part in _plain(name) for part in OF_BITSANDBYTES):
        try:
            module = import_module("bitsandbytes.optim")
        except ImportError:
            raise ModelError(
                f"the optimizer {name!r} needs bitsandbytes; install it with: pip install bitsandbytes"
            ) from None
    classes = {
        key.lower(): value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, torch.optim.Optimizer)
        and value is not torch.optim.Optimizer
        and key not in ("LBFGS", "SparseAdam")  # the one needs a closure, the other sparse gradients
    }
    if _plain(name) not in classes:
        raise ConfigError(unknown_name("optimizer", name, sorted(classes)))
    return classes[_plain(name)]


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
