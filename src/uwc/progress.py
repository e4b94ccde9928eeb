"""Progress on standard error: bars for long work, and one-line notes. Standard output stays free for results.

Of several processes that a launcher started, only the first shows it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

FIRST_PROCESS = os.environ.get("RANK", "0") == "0"

console = Console(stderr=True, highlight=False, quiet=not FIRST_PROCESS)
_live: Progress | None = None


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Move on by `count`; a `note` replaces the words behind the bar."""


def note(text: str) -> None:
    """Print one line to standard error, above the bars."""
    console.print(text, markup=False, soft_wrap=True)


@contextmanager
def bar(description: str, *, total: int) -> Iterator[Advance]:
    """A progress bar for the time of the block; bars nest. Shown only where standard error is a terminal."""
    global _live
    if not console.is_terminal:
        yield lambda count=1, note="": None
        return
    outermost = _live is None
    if _live is None:
        _live = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TaskProgressColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True,
        )  # fmt: skip
        _live.start()
    live = _live
    task = live.add_task(description, total=total, note="")

    def advance(count: int = 1, note: str = "") -> None:
        if note:
            live.update(task, note=note)
        live.advance(task, count)

    try:
        yield advance
    finally:
        live.remove_task(task)
        if outermost:
            live.stop()
            _live = None
