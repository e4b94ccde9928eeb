"""One process or several: who writes, and who waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate.utils import broadcast_object_list

Value = TypeVar("Value")


@contextmanager
def main_process_writes() -> Iterator[bool]:
    """Yields whether this process is the one that writes files; the others wait at the end until it has."""
    several = _several()
    yield not several or torch.distributed.get_rank() == 0
    if several:
        torch.distributed.barrier()


def from_main(make: Callable[[], Value]) -> Value:
    """What the main process makes, in every process; the others wait for it. All must call it at the same step."""
    if not _several():
        return make()
    held = [make() if torch.distributed.get_rank() == 0 else None]
    made: Value = broadcast_object_list(held, from_process=0)[0]
    return made


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
