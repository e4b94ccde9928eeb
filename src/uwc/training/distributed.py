"""Training in one process, as a copy in each of several, or sharded over them (FSDP2, set up by Accelerate)."""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast_object_list, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from uwc.errors import ConfigError, TrainingDiverged
from uwc.models.model import Model
from uwc.models.processes import several
from uwc.objectives.rules import Rule
from uwc.training.settings import TrainingSettings

LAUNCH = "accelerate launch --use_fsdp --fsdp_version 2"

Value = TypeVar("Value")


class Placement:
    """A model in training, wrapped as the launcher asked for.

    With sharding the model that is trained is a sharded copy, made by `start`; the given one keeps whole
    weights in host memory and gets the trained ones in `whole`.

    Args:
        model: the model to train.
        settings: the run's.
        rule: of the method that is trained.

    Raises:
        ConfigError: a setting, or the rule, and sharding do not go together.
    """

    def __init__(self, model: Model, settings: TrainingSettings, rule: Rule | None) -> None:
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        self.accelerator = Accelerator(mixed_precision=settings.precision, cpu=model.device.type == "cpu")
        self.model, self._settings = model, settings
        self._sharding = sharding_asked() and self.accelerator.num_processes > 1
        if settings.gradient_checkpointing:
            model.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self._sharding:
            check_sharding(settings, rule, fsdp_plugin(self.accelerator, settings))
            self.module: Any = model.model.to(self.accelerator.device)
        else:
            model.sharing()  # before passes are rounded to the precision of the training
            self.module = model.model.to(self.accelerator.device)
            if self.accelerator.num_processes > 1:  # for one it would only copy all logits to float32
                self.module = self.accelerator.prepare_model(model.model)
                # buffers stay as they are, and processes may split a step into different numbers of forwards
                self.module.broadcast_buffers = False

    def start(self, *, frozen: Any = None) -> None:
        """Shard the model, and the frozen copy, over the processes; whole weights are not needed afterwards."""
        if self._sharding:  # from host memory, so that a device holds its own part alone
            self.module = shard(copy.deepcopy(self.model.model.to("cpu")), self.accelerator)
            if frozen is not None:
                shard(frozen.to("cpu"), self.accelerator)

    @contextmanager
    def whole(self) -> Iterator[Model]:
        """The model with its current weights, on the device; every process must call it at the same step."""
        if not is_sharded(self.module):
            yield self.model
            return
        gather_weights(self.module, into=self.model.model)
        self.model.model.to(self.accelerator.device)
        yield self.model
        self.model.model.to("cpu")

    def end(self, *, gather: bool) -> None:
        """Unwrap the model and put it into eval mode; `gather` copies sharded weights into it."""
        module = self.model.model
        if is_sharded(self.module):
            if gather:
                gather_weights(self.module, into=module)
            self.module = None
            module.to(self.accelerator.device)
        else:
            self.accelerator.unwrap_model(self.module, keep_fp32_wrapper=False)
        if self._settings.gradient_checkpointing:
            module.gradient_checkpointing_disable()
        module.eval()


@contextmanager
def placed(model: Model, settings: TrainingSettings, rule: Rule | None) -> Iterator[Placement]:
    """A `Placement` for the time of a run; afterwards the model is unwrapped and has trained weights.

    Raises what the run raises; only after an error that all processes meet are sharded weights gathered.
    """
    placement = Placement(model, settings, rule)
    together = False
    try:
        yield placement
        together = True
    except TrainingDiverged:
        together = True
        raise
    finally:
        placement.end(gather=together)


@contextmanager
def main_process_writes() -> Iterator[bool]:
    """Whether this process writes files; the other processes wait at the end until it has."""
    together = several()
    yield not together or torch.distributed.get_rank() == 0
    if together:
        torch.distributed.barrier()


def from_main(make: Callable[[], Value]) -> Value:
    """The result of `make` in the main process, sent to all processes, which must call it at the same step."""
    if not several():
        return make()
    held = [make() if torch.distributed.get_rank() == 0 else None]
    made: Value = broadcast_object_list(held, from_process=0)[0]
    return made


def sharding_asked() -> bool:
    """Whether `accelerate launch` is set to shard (``--use_fsdp``, or its configuration file)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_sharding(settings: TrainingSettings, rule: Rule | None, plugin: FullyShardedDataParallelPlugin) -> None:
    """Raise ConfigError if a setting, or the method's rule, excludes sharding."""
    if plugin.fsdp_version != 2:
        raise ConfigError(f"sharded training is FSDP2, and version {plugin.fsdp_version} was asked for; use: {LAUNCH}")
    if plugin.activation_checkpointing:
        raise ConfigError("set gradient_checkpointing in the training settings, not with FSDP's own flag")
    unfit = {"lora": settings.lora is not None, "precision fp16": settings.precision == "fp16"}
    if rule is not None:
        unfit[f"the rule {rule.name}"] = rule.whole_weights or rule.gradients
    for name, given in unfit.items():
        if given:
            raise ConfigError(f"{name} and sharded training do not go together; leave out --use_fsdp, or {name}")


def fsdp_plugin(accelerator: Accelerator, settings: TrainingSettings) -> FullyShardedDataParallelPlugin:
    """FSDP's settings as the launcher gave them, also on the CPU, where Accelerate ignores them."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        plugin = FullyShardedDataParallelPlugin()
        if settings.precision != "no":
            plugin.set_mixed_precision(settings.precision)
        accelerator.state.fsdp_plugin = plugin
    return plugin


def shard(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Shard the model's parameters over all processes, in place, block by block; a block is gathered while it runs."""
    sharded: nn.Module = fsdp2_prepare_model(accelerator, model)
    return sharded


def is_sharded(model: Any) -> bool:
    """Whether the model's parameters are sharded, so that every process must run its whole forward."""
    return hasattr(model, "set_requires_gradient_sync")


@torch.no_grad()
def gather_weights(sharded: nn.Module, *, into: nn.Module) -> None:
    """Copy the whole parameters into a plain model of the same kind, one at a time; every process must call it."""
    plain = dict(into.named_parameters())
    for name, parameter in sharded.named_parameters():
        plain[name].copy_(whole(parameter.detach()))


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, if it is sharded; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors on the CPU; every process must call it."""

    def gathered(value: Any) -> Any:
        return whole(value).cpu() if isinstance(value, Tensor) else value

    per_parameter = {i: {k: gathered(v) for k, v in s.items()} for i, s in state["state"].items()}
    return {**state, "state": per_parameter}


def shard_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict with whole tensors, sharded as the optimizer's parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def sharded(parameter: Tensor, value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    per_parameter = {i: {k: sharded(parameters[i], v) for k, v in s.items()} for i, s in state["state"].items()}
    return {**state, "state": per_parameter}
