"""Memory of training on a CPU: large blocks go back to the system when they are freed."""

import ctypes
import sys

import torch

LARGE_MODEL = 64 << 20
"""Bytes of weights from which the memory saved is worth the time."""
_THRESHOLD = 1 << 20
_M_MMAP_THRESHOLD = -3


def return_large_blocks(model: torch.nn.Module) -> bool:
    """Have the C library give blocks of 1 MiB and more back at once; returns whether it now does.

    glibc by itself keeps ever larger freed blocks in its heap, where activations and gradients that take turns leave
    holes: a fifth more memory than was ever in use at once. Taking fresh pages costs time, which only a large model
    makes up for. Nothing happens on a GPU, with a small model, or with another C library.
    """
    weights = sum(p.numel() * p.element_size() for p in model.parameters() if p.device.type == "cpu")
    if sys.platform != "linux" or weights < LARGE_MODEL:
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(_M_MMAP_THRESHOLD, _THRESHOLD))
    except (OSError, AttributeError):
        return False
