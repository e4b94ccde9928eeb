"""Low-rank adapters through peft (arXiv:2106.09685)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from uwc.errors import ConfigError, ModelError
from uwc.models.target import Target


def add_adapter(
    target: Target,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    targets: str = "all-linear",
    seed: int = 0,
) -> Target:
    """The same model with a low-rank adapter ``W + (alpha / rank) B A`` on its linear maps; only A and B are trainable.

    B is zero, so that nothing changes before training. The target's own model is the adapter's base and shares its
    weights; `merge_adapter` gives it back.

    Args:
        target: the model.
        rank: rows of A and columns of B.
        alpha: scale of the update.
        dropout: on the adapter's input.
        targets: names of modules, comma-separated, or "all-linear".
        seed: of A.

    Raises:
        ModelError: peft is not installed.
        ConfigError: no module has such a name.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ModelError("an adapter needs peft; install it with: pip install peft") from None
    names = targets if targets == "all-linear" else [name.strip() for name in targets.split(",")]
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names, task_type="CAUSAL_LM", bias="none"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = get_peft_model(target.model, config)
        except ValueError as error:
            raise ConfigError(f"lora: targets = {targets!r}: {str(error).splitlines()[0]}") from None
    return replace(target, model=model.eval())


def merge_adapter(target: Target) -> Target:
    """The plain model with the adapter's update added to its weights."""
    return replace(target, model=target.model.merge_and_unload().eval()) if has_adapter(target.model) else target


def has_adapter(model: Any) -> bool:
    """Whether the model is one with an adapter that can be switched off."""
    return hasattr(model, "disable_adapter") and hasattr(model, "merge_and_unload")


@contextmanager
def adapter_off(model: Any) -> Iterator[Any]:
    """The model without its adapter's update, for the time of the block; a plain model as it is."""
    if not has_adapter(model):
        yield model
        return
    with model.disable_adapter():
        yield model
