"""Models that accelerate places over several devices, main memory and files (``device: map``)."""

import logging
import os
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset
from torch import Tensor, nn

from uwc.errors import ModelError
from uwc.models.model import MAP, MaxMemory, cuda_index

ADAPTED = "lora_"
"""A part of the names of the matrices of LoRA in a model."""

logging.getLogger("accelerate.big_modeling").setLevel(logging.ERROR)  # it warns of weights on no device


@contextmanager
def placing(max_memory: MaxMemory) -> Iterator[tuple[dict[str, Any], Callable[[Any], None]]]:
    """The arguments with which transformers places a model, and a function to be called with the model.

    Weights that are stored in the layout of the model stay in the files of the checkpoint; others are written to a
    temporary folder, which is removed with the model.

    Args:
        max_memory: device -> the most bytes of weights; by default the free memory of all devices and main memory.

    Raises:
        ModelError: several processes were launched, each of which would place the model on all devices.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ModelError(
            f"device = {MAP} places one model over all devices, and a launcher has started "
            f"{os.environ['WORLD_SIZE']} processes; start one, or use device = auto"
        )
    folder = tempfile.TemporaryDirectory(prefix="uwc-weights-", ignore_cleanup_errors=True)
    kept = False

    def keep(model: Any) -> None:
        nonlocal kept
        kept = bool(os.listdir(folder.name))
        if kept:
            weakref.finalize(model, folder.cleanup)

    most = {cuda_index(name) if name.startswith("cuda:") else name: size for name, size in max_memory.items()}
    try:
        yield {"device_map": "auto", "max_memory": most or None, "offload_folder": folder.name}, keep
    finally:
        if not kept:
            folder.cleanup()


def device_of(model: Any) -> torch.device:
    """The device of a model's input: that of its first weight, or the one that computes with it."""
    device: torch.device = model.device
    if device.type == "meta" and isinstance(model, nn.Module):
        for module in model.modules():
            for hook in _hooks(module):
                if hook.execution_device is not None:
                    return torch.device(hook.execution_device)
    return device


def shares(model: Any) -> dict[str, float]:
    """Device -> its share of the model's bytes, "disk" for weights that each pass reads from files; empty for a model
    that is on one device. An adapter is not counted."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    placed: Mapping[str, Any] = getattr(model, "hf_device_map", None) or {}
    devices = {str(device) for device in placed.values()}
    if len(devices) < 2 and devices != {"disk"}:
        return {}
    sizes: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        if ADAPTED in name:
            continue
        part = max((p for p in placed if not p or f"{name}.".startswith(f"{p}.")), key=len)
        sizes[str(placed[part])] += weight.numel() * weight.element_size()
    return {device: size / sizes.total() for device, size in sizes.items()}


def require_on_one_device(model: Any, name: str, what: str) -> None:
    """Raise ModelError if a model is placed over several devices, or partly in files.

    Args:
        model: the model, or a wrapper of an attack.
        name: its name.
        what: what needs all weights at once, such as "training".
    """
    while hasattr(model, "inner"):
        model = model.inner
    if found := shares(model):
        listed = ", ".join(f"{share:.0%} on {device}" for device, share in found.items())
        raise ModelError(
            f"{what} needs all weights on one device, and {name} is placed over several ({listed}); use a device that "
            "holds it, more model.max_memory, or a lower precision (model.dtype=bfloat16)"
        )


def value_of(module: Any, name: str = "weight") -> Tensor | None:
    """A parameter of a module on the device that computes with it, read if it lies elsewhere; None if it has none.

    Of a module with an adapter it is that of its base.
    """
    value: Tensor | None = getattr(module, name, None)
    if value is None or not value.is_meta:
        return value
    while hasattr(module, "base_layer"):
        module = module.base_layer
    for hook in _hooks(module):
        if hook.offload:
            stored: Tensor = hook.weights_map[name]
            return stored.to(hook.execution_device)
    return value


def tensor_of(model: Any, name: str) -> Tensor:
    """A tensor of the model's state on the device that computes with it, read if it lies elsewhere."""
    prefix, _, own = name.rpartition(".")
    value = value_of(model.get_submodule(prefix), own)
    assert value is not None
    return value


@contextmanager
def unplaced(model: Any) -> Iterator[None]:
    """While open, a model does not say where its weights are, so that peft leaves them there."""
    placed = vars(model).pop("hf_device_map", None)
    try:
        yield
    finally:
        if placed is not None:
            model.hf_device_map = placed


def set_adapter(model: Any, read: Callable[[str], Tensor]) -> None:
    """Give the low-rank matrices that peft made for offloaded weights their values, on the devices that compute.

    Args:
        model: a peft model.
        read: from the name of a matrix in the model to its value.
    """
    for prefix, module in model.named_modules():
        for hook in _hooks(getattr(module, "base_layer", None)):
            for own, matrix in list(module.named_parameters()):
                if ADAPTED in own and matrix.is_meta:
                    inner, _, last = own.rpartition(".")
                    value = read(f"{prefix}.{own}").to(hook.execution_device, matrix.dtype)
                    owner = module.get_submodule(inner)
                    owner._parameters[last] = nn.Parameter(value, requires_grad=matrix.requires_grad)


def add_to_weight(module: Any, update: Callable[[], Tensor]) -> None:
    """Add a tensor to a module's weight: in place, or whenever the weight is read if it lies elsewhere."""
    if not module.weight.is_meta:
        module.weight.data += update()
        return
    for hook in _hooks(module):
        if hook.offload:
            hook.weights_map = _Added(hook.weights_map, update)


class _Added(Mapping[str, Tensor]):
    """The weights of a module, with a tensor that is added to "weight"."""

    def __init__(self, own: Mapping[str, Tensor], update: Callable[[], Tensor]) -> None:
        self._own, self._update = own, update

    @torch.no_grad()
    def __getitem__(self, name: str) -> Tensor:
        value = self._own[name]
        return value.clone().add_(self._update().to(value.device)) if name == "weight" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def held(model: Any) -> dict[str, Tensor]:
    """The tensors of the model's state in memory by name, with those that are moved to a device to compute."""
    found: dict[str, Tensor] = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    for name, own, hook in _offloaded(model):
        loader = getattr(hook.weights_map, "dataset", None)
        if not isinstance(loader, OffloadedWeightsLoader):
            found[name] = hook.weights_map[own]
        elif name in loader.state_dict:
            found[name] = loader.state_dict[name]
    return found


def read_otherwise(model: Any, read: Callable[[str], Tensor]) -> None:
    """Let the weights that are in files be read by a function of their name in place of those files."""
    kept = held(model)
    for name, own, hook in _offloaded(model):
        if name not in kept:
            hook.weights_map = PrefixedDataset(_Read(read, name), name.removesuffix(own))


class _Read(Mapping[str, Tensor]):
    """Weights that a function reads; accelerate asks for them by name."""

    def __init__(self, read: Callable[[str], Tensor], *names: str) -> None:
        self._read, self._names = read, names

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _hooks(module: Any) -> list[AlignDevicesHook]:
    """The hooks that move a module's weights and inputs."""
    hook = getattr(module, "_hf_hook", None)
    return [h for h in (hook.hooks if isinstance(hook, SequentialHook) else (hook,)) if isinstance(h, AlignDevicesHook)]


def _offloaded(model: Any) -> Iterator[tuple[str, str, AlignDevicesHook]]:
    """The parameters that lie elsewhere than on the device that computes: name in the model, in the module, hook."""
    for prefix, module in model.named_modules():
        for hook in _hooks(module):
            if hook.offload and hook.weights_map is not None:
                for own, parameter in module.named_parameters(recurse=hook.place_submodules):
                    if parameter.is_meta:
                        yield f"{prefix}.{own}" if prefix else own, own, hook
