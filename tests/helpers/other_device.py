"""An emulated device without double precision, on the CPU.

Its tensors say that they are on the device "meta", and have values, which another tensor on the CPU holds. As on a
real device, an operation takes tensors of this device alone, besides numbers and indices; and, as on an Apple GPU, one
that takes or makes a tensor of double precision there raises an error.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
DOUBLE = (torch.float64, torch.complex128)
_INDEXING = ("index", "index_put", "index_put_")
_COPIES = ("to", "_to_copy", "copy_")


class DoublePrecision(TypeError):
    """A tensor of double precision on the device."""


class OnDevice(Tensor):
    """A tensor of the emulated device; `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> "OnDevice":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
            requires_grad=requires_grad,
        )

    def __init__(self, held: Tensor, requires_grad: bool = False) -> None:
        self.held = held

    def __repr__(self, **_: object) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Emulated(TorchDispatchMode):
    """While open, ``device="meta"`` is the emulated device.

    Attributes:
        operations: the number of operations on it.
    """

    operations = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        self.operations += any(isinstance(x, OnDevice) for x in tree_leaves((args, kwargs)))
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the held tensors; the result is on the device that is asked for, or that of the operands."""
    name, leaves = func.overloadpacket.__name__, tree_leaves((args, kwargs))
    given = [x for x in leaves if isinstance(x, Tensor)]
    ours = [x for x in given if isinstance(x, OnDevice)]
    for x in given:
        if isinstance(x, OnDevice):
            _require_single(name, x)
        elif x.device == DEVICE:
            raise RuntimeError(f"{name}: a tensor on the device that has no values")
        elif ours and x.ndim and name not in (*_INDEXING, *_COPIES):
            raise RuntimeError(f"{name}: tensors on the device and on the CPU")
    asked = [x for x in leaves if isinstance(x, torch.device)]
    args_held, kwargs_held = tree_map(_held, (args, kwargs))
    with torch.inference_mode(mode=False), torch.no_grad():
        found = func(*args_held, **kwargs_held)
    if name == "copy_":
        return args[0]
    if not (asked[0] == DEVICE if asked else ours):
        return found
    known = {id(x.held): x for x in ours}

    def wrapped(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        with torch.inference_mode(mode=False):  # views of weights, which are no inference tensors, have to be none
            made = known[id(x)] if id(x) in known else OnDevice(x)
        _require_single(name, made)
        return made

    return tree_map(wrapped, found)


def _held(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.held if isinstance(value, OnDevice) else value


def _require_single(name: str, tensor: Tensor) -> None:
    if tensor.dtype in DOUBLE:
        raise DoublePrecision(f"{name}: {tensor.dtype} on a device without double precision")


class _Copies(TorchFunctionMode):
    """Copies to and from the device in functions that ask neither the tensor nor the mode."""

    def __torch_function__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        if func is Tensor.tolist:
            return func(args[0].cpu())
        return func(*args, **kwargs)


@contextmanager
def emulated_device(patch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    """While open, the emulated device computes, with fused optimizers, and Accelerate places models there."""
    patch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
    fused = "_get_fused_kernels_supported_devices"
    patch.setattr(sys.modules["torch.optim.optimizer"], fused, lambda: [str(DEVICE), "cpu"])
    with Emulated() as mode, _Copies():
        yield mode
