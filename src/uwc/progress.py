"""Progress on standard error: bars for long work, and one-line notes. Standard output stays free for results.

Of several processes that a launcher started, only the first shows it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

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


_warned: set[str] = set()


def warn(text: str) -> None:
    """Print a warning to standard error; the same text once in a process, for many models may give rise to it."""
    if text not in _warned:
        _warned.add(text)
        note(f"warning: {text}")


def duration(seconds: float) -> str:
    """Seconds as text: ``31.2 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


class _TimeLeft(TimeRemainingColumn):
    """The time left where the parts of a task cost about the same."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["alike"] else Text("")


@contextmanager
def bar(description: str, *, total: int, alike: bool = True) -> Iterator[Advance]:
    """A progress bar for the time of the block; bars nest. Shown only where standard error is a terminal.

    Args:
        description: what is done.
        total: how many parts it has.
        alike: whether the parts cost about the same, so that the time left follows from their number.
    """
    global _live
    if not console.is_terminal:
        yield lambda count=1, note="": None
        return
    outermost = _live is None
    if _live is None:
        _live = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TaskProgressColumn(),
            _TimeLeft(), TextColumn("{task.fields[note]}"), console=console, transient=True,
        )  # fmt: skip
        _live.start()
    live = _live
    task = live.add_task(description, total=total, note="", alike=alike)

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
