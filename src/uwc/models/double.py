"""Double precision where a device has none, as Apple GPUs: it is computed on the CPU."""

import torch
from torch import Tensor

_HAVE_DOUBLE = ("cpu", "cuda")


def device_of_double(device: torch.device) -> torch.device:
    """Where numbers of double precision are that belong to tensors on a device: the device, or else the CPU."""
    return device if device.type in _HAVE_DOUBLE else torch.device("cpu")


def in_double(tensor: Tensor) -> Tensor:
    """The tensor in double precision, on `device_of_double`."""
    return tensor.to(device_of_double(tensor.device)).double()
