"""One comparison of a benchmark: our time and memory against a baseline's."""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Comparison:
    """What was compared, and how it went.

    Attributes:
        name: what was compared.
        ours_seconds: our time.
        baseline_seconds: the baseline's time for the same work.
        ours_peak_bytes: the most memory we took above what was in use before.
        baseline_peak_bytes: the same of the baseline.
        device: where it ran.
        extra: whatever else is worth knowing.
    """

    name: str
    ours_seconds: float
    baseline_seconds: float
    ours_peak_bytes: int
    baseline_peak_bytes: int
    device: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return self.baseline_seconds / self.ours_seconds


@dataclass
class Measured:
    """The result of a call with its time in seconds and peak memory in bytes."""

    value: Any
    seconds: float
    peak_bytes: int


def measure(work: Callable[[], Any], *, device: str, repeats: int = 1) -> Measured:
    """Run `work`, the median time of `repeats` runs, and the greatest peak."""
    seconds, peaks, value = [], [], None
    for _ in range(repeats):
        gc.collect()
        with _peak_memory(device) as peak:
            start = time.perf_counter()
            value = work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peaks.append(peak[0])
    return Measured(value, sorted(seconds)[len(seconds) // 2], max(peaks))


@contextmanager
def _peak_memory(device: str) -> Iterator[list[int]]:
    """While open, follow memory; afterwards the list holds the peak above the start."""
    peak = [0]
    before = start_of_peak(device)
    yield peak
    peak[0] = peak_bytes(device) - before


def start_of_peak(device: str) -> int:
    """Bytes in use, after freed memory was returned to the system; resets the peak."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS:")


def peak_bytes(device: str) -> int:
    """The most bytes in use at once since `start_of_peak`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM:")


def _status(field_name: str) -> int:
    """A line of the process's status; 0 on systems that do not have it."""
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field_name)).split()[1]) * 1024


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """The FLOP/s of a large matrix product, the best of a few."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        best = min(best, measure(lambda: a @ b, device=device).seconds)
    return 2 * size**3 / best
