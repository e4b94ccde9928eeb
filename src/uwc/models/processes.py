"""Several processes of `accelerate launch` that score together: each computes a part of the batches, all get all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
_dividing: ContextVar[bool] = ContextVar("dividing", default=False)
_ROUND = 16
"""Results of each process that are sent at once."""


@contextmanager
def dividing() -> Iterator[None]:
    """While open, passes in batches are divided between the processes that a launcher started, if there are several.

    Every process has to run the same passes in the same order, and gets the results of all batches.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and not several():
        from accelerate import PartialState

        PartialState()
    token = _dividing.set(launched)
    try:
        yield
    finally:
        _dividing.reset(token)


def several() -> bool:
    """Whether there are several processes that may exchange data."""
    import torch  # heavy, and not needed by commands that only plan

    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_first() -> bool:
    """Whether this is the process that writes."""
    return not _dividing.get() or share()[0] == 0


def share() -> tuple[int, int]:
    """The number of this process and that of all which divide a pass; (0, 1) if none is divided."""
    if not _dividing.get():
        return 0, 1
    from torch import distributed

    return distributed.get_rank(), distributed.get_world_size()


def together(own: Iterator[Item]) -> Iterator[Item]:
    """The items of all processes, from those of this one; the same in every process, in rounds."""
    if not _dividing.get():
        yield from own
        return
    from torch import distributed

    more = True
    while more:
        sent = list(islice(own, _ROUND))
        received: list[list[Item]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(received, sent)
        for items in received:
            yield from items
        more = any(len(items) == _ROUND for items in received)


def of_first(items: Iterator[Item]) -> Iterator[Item]:
    """The items of the first process, in every process that divides a pass."""
    if not _dividing.get():
        yield from items
        return
    from torch import distributed

    sent = [list(items) if is_first() else []]
    distributed.broadcast_object_list(sent, src=0)
    yield from sent[0]
