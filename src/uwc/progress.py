"""Progress on standard error: bars on a terminal, elsewhere a line every half minute; one-line notes; a log file.

Standard output stays free for results. Of several processes that a launcher started, only the first shows progress.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Literal, Protocol

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

from uwc.errors import printable

EVERY = 30.0
"""The most seconds between two lines of progress."""

LOGGED = {"bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit"}
"""Logger -> beginning of a line that is suppressed: bitsandbytes reports that it has no kernel for this CPU."""
WARNED = (
    "`is_gradient_checkpointing` is deprecated",  # transformers, of a property that libraries read
    "Setting `save_embedding_layers` to `True`",  # peft, on saving an adapter of the embeddings, which is what we want
)
"""Beginnings of warnings that are suppressed."""


def silence() -> None:
    """Suppress these lines and warnings of libraries."""
    for logger, words in LOGGED.items():
        logging.getLogger(logger).addFilter(_Without(words))
    for words in WARNED:
        warnings.filterwarnings("ignore", message=words)


class _Without(logging.Filter):
    """A filter that removes records that begin with given words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.words)


def first_process() -> bool:
    """Whether this process is alone, or the first of those of a launcher, which prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"


console = Console(stderr=True, highlight=False, quiet=not first_process())
_live: Progress | None = None
_logs: list[Path] = []
Kind = Literal["note", "warning", "line"]
_send: Callable[[Kind, str], None] | None = None


def send_to(function: Callable[[Kind, str], None]) -> None:
    """From now on give this process's notes, warnings and lines of progress to a function, and print nothing."""
    global _send
    _send, console.quiet = function, True


class Advance(Protocol):
    """Advances a bar."""

    def __call__(self, count: int = 1, note: str = "") -> None:
        """Advance by `count` parts; a `note` replaces the text after the bar."""


def note(text: str) -> None:
    """Print one line to standard error, above the bars, and to the log."""
    text = printable(text)
    if _send is not None:
        _send("note", text)
        return
    console.print(text, markup=False, soft_wrap=True)
    _log(text)


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """While open, append notes and lines of progress to a log file, each with its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _logs.append(path)
    try:
        yield
    finally:
        _logs.remove(path)


def _log(text: str) -> None:
    if not first_process():
        return
    for path in _logs:
        with (
            suppress(OSError),
            path.open("a", encoding="utf-8") as file,
        ):
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")


warned: set[str] = set()
"""The warnings that this process has printed."""


def warn(text: str) -> None:
    """Print a warning to standard error; the same text only once in a process, as several models may cause it."""
    if text in warned:
        return
    warned.add(text)
    if _send is not None:
        _send("warning", text)
    else:
        note(f"warning: {text}")


def duration(seconds: float) -> str:
    """Seconds as text: ``31.2 s``, ``2 min 05 s`` or ``1 h 02 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def gigabytes(count: int) -> str:
    """Bytes as text: ``4.6 GB`` (1e9 bytes) or ``310 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 999_500_000 else f"{count / 1e6:.0f} MB"


@dataclass(eq=False)
class _Work:
    """A task and its progress.

    Attributes:
        description: its name.
        total: the number of its parts; None if nothing is counted.
        alike: whether the parts cost about the same, so that the ETA follows from their number.
        started: the time of its start.
        done: the number of finished parts.
        note: text after the numbers.
        first: the time at which the first parts were finished, and their number; resumed parts took no time.
    """

    description: str
    total: int | None
    alike: bool
    started: float
    done: int = 0
    note: str = ""
    first: tuple[float, int] | None = None

    def advance(self, count: int, note: str, now: float) -> None:
        self.done += count
        self.note = note or self.note
        if self.first is None:
            self.first = now, self.done

    def seconds_left(self, now: float) -> float | None:
        """The ETA in seconds; None if it is unknown."""
        if not self.alike or self.total is None or self.first is None or self.done <= self.first[1]:
            return None
        return (now - self.first[0]) / (self.done - self.first[1]) * (self.total - self.done)

    def words(self, now: float) -> str:
        """Description, finished and total parts, and the ETA."""
        if self.total is None:
            return f"{self.description}: {duration(now - self.started)}"
        left = self.seconds_left(now)
        eta = f", ETA {duration(left)}" if left is not None else f", {duration(now - self.started)} so far"
        return f"{self.description}: {self.done} of {self.total}{eta}{f' ({self.note})' if self.note else ''}"


class Lines:
    """One-line progress reports, at least every `EVERY` seconds if `tick` is called often enough.

    Args:
        write: is called with each line.
        clock: the time in seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.write, self.clock = write, clock
        self._works: list[_Work] = []
        self._last = 0.0

    @contextmanager
    def work(self, description: str, *, total: int | None = None, alike: bool = True) -> Iterator[Advance]:
        """A task that lasts as long as the block; blocks may be nested."""
        now = self.clock()
        if not self._works:
            self._last = now
        work = _Work(description, total, alike, now)
        self._works.append(work)

        def advance(count: int = 1, note: str = "") -> None:
            work.advance(count, note, self.clock())
            self.tick()

        try:
            yield advance
        finally:
            self._works.remove(work)

    def tick(self) -> None:
        """Write a line, if it is due: the outermost task with counted parts, and the innermost."""
        now, works = self.clock(), list(self._works)
        if not works or now - self._last < EVERY:
            return
        self._last = now
        counted = [work for work in works if work.total is not None] or works[-1:]
        told = counted if len(counted) == 1 else [counted[0], counted[-1]]
        self.write("; ".join(work.words(now) for work in told))


def line(text: str) -> None:
    """Report progress: print a line to standard error where that is no terminal, which has bars, and to the log."""
    if _send is not None:
        _send("line", text)
        return
    if not console.is_terminal:
        console.print(text, markup=False, soft_wrap=True)
    _log(text)


lines = Lines(line)
_beats = False


@contextmanager
def _beating() -> Iterator[None]:
    """While open, check every second whether a line is due, also while one part of a task takes minutes."""
    global _beats
    if _beats:
        yield
        return
    stopped = Event()

    def beat() -> None:
        while not stopped.wait(1.0):
            lines.tick()

    _beats = True
    Thread(target=beat, daemon=True, name="uwc-progress").start()
    try:
        yield
    finally:
        stopped.set()
        _beats = False


@contextmanager
def watched(description: str) -> Iterator[None]:
    """While open, report the elapsed time if there is no bar."""
    with lines.work(description), _beating():
        yield


@contextmanager
def shown(description: str) -> Iterator[None]:
    """A bar without numbers as long as the block is open, on a terminal."""
    if not console.is_terminal:
        yield
        return
    with _drawn(description, total=None, alike=False):
        yield


class _TimeLeft(TimeRemainingColumn):
    """The ETA, if the parts of a task cost about the same."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["alike"] else Text("")


@contextmanager
def bar(description: str, *, total: int, alike: bool = True) -> Iterator[Advance]:
    """A progress bar as long as the block is open; bars may be nested. Without a terminal lines are printed instead.

    Args:
        description: the name of the task.
        total: the number of its parts.
        alike: whether the parts cost about the same, so that the ETA follows from their number.
    """
    with lines.work(description, total=total, alike=alike) as told, _beating():
        if not console.is_terminal:
            yield told
            return
        with _drawn(description, total=total, alike=alike) as drawn:

            def advance(count: int = 1, note: str = "") -> None:
                told(count, note)
                drawn(count, note)

            yield advance


@contextmanager
def _drawn(description: str, *, total: int | None, alike: bool) -> Iterator[Advance]:
    """The bar on a terminal."""
    global _live
    outermost = _live is None
    if _live is None:
        _live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
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
