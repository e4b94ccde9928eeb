"""Limits of time for code that comes with data, such as chat templates."""

import ctypes
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the current thread if the block takes longer.

    The exception is raised between two instructions of Python: a loop is interrupted, a single call of a C function is
    not.
    """
    watched = _watchdog.watch(seconds)
    try:
        yield
    finally:
        _watchdog.forget(watched)


class _Watchdog:
    """One thread that interrupts blocks at their deadlines; it wakes only then, however many blocks end in time."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._watched: dict[object, tuple[float, int]] = {}
        """Block -> its deadline, and its thread."""
        self._wakes = math.inf
        self._running = False

    def watch(self, seconds: float) -> object:
        """Begin a block of the current thread."""
        block, deadline = object(), time.monotonic() + seconds
        with self._condition:
            self._watched[block] = (deadline, threading.get_ident())
            if not self._running:
                threading.Thread(target=self._run, name="time limit", daemon=True).start()
                self._running = True
            elif deadline < self._wakes:
                self._condition.notify()
        return block

    def forget(self, block: object) -> None:
        """End a block."""
        with self._condition:
            self._watched.pop(block, None)

    def _run(self) -> None:
        with self._condition:
            while True:
                now = time.monotonic()
                for block, (deadline, thread) in list(self._watched.items()):
                    if deadline <= now:
                        del self._watched[block]
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(
                            ctypes.c_ulong(thread), ctypes.py_object(TimeoutError)
                        )
                self._wakes = min((deadline for deadline, _ in self._watched.values()), default=math.inf)
                self._condition.wait(None if self._wakes == math.inf else self._wakes - now)


_watchdog = _Watchdog()


def _after_fork() -> None:
    global _watchdog
    _watchdog = _Watchdog()  # a forked process has none of the threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
