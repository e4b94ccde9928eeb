"""Gradients with the same bits on every run: deterministic CUDA kernels, where there are some."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from uwc import progress

T = TypeVar("T")
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def deterministic(device: torch.device, work: Callable[[], T]) -> T:
    """The result of `work`, a function that computes gradients, the same on every run on one machine.

    By default CUDA adds the gradients of embeddings and of attention in an order that varies. On the CPU nothing is
    changed. If a kernel has no deterministic form, a warning says so, and `work` runs again without; it therefore has
    to leave everything as it was if its first gradient fails.

    Args:
        device: where it computes.
        work: the function.
    """
    if device.type != "cuda":
        return work()
    try:
        with _deterministic_kernels():
            return work()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        operation = str(error).split(" does not have")[0]
        progress.warn(f"{operation} has no deterministic kernel on CUDA: the same seed does not give the same bits")
    return work()


@contextmanager
def _deterministic_kernels() -> Iterator[None]:
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
