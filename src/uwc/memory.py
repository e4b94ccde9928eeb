"""The most memory that a piece of work takes: resident memory of this process, or memory of the CUDA devices."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import torch

# oneDNN compiles a kernel for each shape of a bfloat16 product, and keeps 1,024 of them by default: 0.8 GB after 20
# training steps of batches of different widths. It reads this once, at the first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_left = 0
"""Resident bytes after freed memory was last given back."""


def start_of_peak(device: str) -> int | None:
    """Give freed memory back to the system, and start a new peak.

    Args:
        device: "cuda" for all CUDA devices together; any other for the process.

    Returns:
        Bytes in use now; None where the system does not say, or does not start a new peak (all but Linux).
    """
    gc.collect()  # models in cycles of references
    if device == "cuda":
        torch.cuda.synchronize()
        for i in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(i)
        return sum(torch.cuda.memory_allocated(i) for i in range(torch.cuda.device_count()))
    give_back()
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    return _status("VmRSS:")


def peak_bytes(device: str) -> int | None:
    """The most bytes in use at once since `start_of_peak`; files that are mapped into memory are counted as far as they
    were read. Of several CUDA devices the sum of the most of each. None where the system does not say."""
    if device == "cuda":
        return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    return _status("VmHWM:")


def give_back(*, growth: int = 0) -> None:
    """Give freed memory that the C library keeps back to the system, where it is glibc.

    Passes of different shapes leave gaps of different sizes between what is in use, and the next pass takes others, so
    that resident memory grows far beyond what any pass needs.

    Args:
        growth: only if resident memory has grown by more bytes than this since the last time.
    """
    global _left
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None or (growth and (_status("VmRSS:") or 0) <= _left + growth):
        return
    trim(0)
    _left = _status("VmRSS:") or 0


def _status(name: str) -> int | None:
    """A line of the process's status in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
