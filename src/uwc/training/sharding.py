"""Weights, gradients and optimizer states cut over processes: FSDP2 through torch, set up by Accelerate's own flags."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from uwc.errors import ConfigError
from uwc.training.settings import TrainingSettings

LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2"


def sharding_asked() -> bool:
    """Whether `accelerate launch` was told to shard (``--use_fsdp``, or its configuration file)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_sharding(settings: TrainingSettings, plugin: FullyShardedDataParallelPlugin) -> None:
    """Raise ConfigError, in one line, where a setting and sharding do not go together."""
    if plugin.fsdp_version != 2:
        raise ConfigError(f"sharded training is FSDP2, and version {plugin.fsdp_version} was asked for; use: {LAUNCH}")
    if plugin.activation_checkpointing:
        raise ConfigError("set gradient_checkpointing in the training settings, not with FSDP's own flag")
    unfit = {
        "lora": settings.lora is not None, "prune": settings.prune is not None, "l1": settings.l1 > 0,
        "precision fp16": settings.precision == "fp16",
    }  # fmt: skip
    for name, given in unfit.items():
        if given:
            raise ConfigError(f"{name} and sharded training do not go together; leave out --use_fsdp, or {name}")


def fsdp_plugin(accelerator: Accelerator, settings: TrainingSettings) -> FullyShardedDataParallelPlugin:
    """FSDP's settings as the launcher gave them. Accelerate ignores them on the CPU; here they hold there too."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        plugin = FullyShardedDataParallelPlugin()
        if settings.precision != "no":
            plugin.set_mixed_precision(settings.precision)
        accelerator.state.fsdp_plugin = plugin
    return plugin


def shard(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Cut the model's parameters over all processes, in place, block by block; each is whole only while it computes."""
    sharded: nn.Module = fsdp2_prepare_model(accelerator, model)
    return sharded


def is_sharded(model: Any) -> bool:
    """Whether the model's parameters are cut over processes, so that every process must run its whole forward."""
    return hasattr(model, "set_requires_gradient_sync")


@torch.no_grad()
def gather_weights(sharded: nn.Module, *, into: nn.Module) -> None:
    """Copy the whole parameters into a plain model of the same kind, one at a time; every process must call it."""
    plain = dict(into.named_parameters())
    for name, parameter in sharded.named_parameters():
        plain[name].copy_(whole(parameter.detach()))


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be cut over processes; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors on the CPU; every process must call it."""

    def gathered(value: Any) -> Any:
        return whole(value).cpu() if isinstance(value, Tensor) else value

    per_parameter = {i: {k: gathered(v) for k, v in s.items()} for i, s in state["state"].items()}
    return {**state, "state": per_parameter}


def cut_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors, cut as the optimizer's parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def cut(parameter: Tensor, value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    per_parameter = {i: {k: cut(parameters[i], v) for k, v in s.items()} for i, s in state["state"].items()}
    return {**state, "state": per_parameter}
