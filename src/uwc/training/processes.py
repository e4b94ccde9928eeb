"""One process or several: who writes, and who waits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def main_process_writes() -> Iterator[bool]:
    """Yields whether this process is the one that writes files; the others wait at the end until it has."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    yield not several or torch.distributed.get_rank() == 0
    if several:
        torch.distributed.barrier()
