"""One comparison of a benchmark: our time and memory against a baseline's."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from uwc.memory import peak_bytes, start_of_peak


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
    peak[0] = (peak_bytes(device) or 0) - (before or 0)


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """The FLOP/s of a large matrix product, the best of a few."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        best = min(best, measure(lambda: a @ b, device=device).seconds)
    return 2 * size**3 / best
