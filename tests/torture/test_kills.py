"""Commands that are killed, interrupted or left without memory at random moments, and run again."""

import re
import resource
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from tests.pipeline.conftest import Started
from tests.torture.conftest import WHOLE, Tried
from tests.torture.trials import COMMANDS, Place, finish, limited, require_one_line, seeded, share, signal_at

SAME = "run again, it ends with the same bits and leaves nothing"
TIMED = ("study", "compare", "calibrate", "unlearn")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("command", TIMED)
@pytest.mark.parametrize(("first", "count"), share(50, sample=0))
def test_killed_at_random_moments(
    command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried
) -> None:
    """Up to three times in a row, each at a moment of its own."""
    tried(f"kill of {command} at a random moment", count, SAME)
    for number in range(count):
        moments, case = seeded(f"kill of {command}", first, number)
        folder = place.new(tmp_path / str(number))
        for _ in range(moments.randint(1, 3)):
            started = Started(*COMMANDS[command], cwd=folder)
            until = time.monotonic() + moments.uniform(0.0, 1.5 * place.seconds[command])
            while started.running and time.monotonic() < until:
                time.sleep(0.005)
            started.end(signal.SIGKILL)
        place.require_same(command, folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", COMMANDS if WHOLE else ["study", "calibrate"])
@pytest.mark.parametrize(("first", "count"), share(50))
def test_killed_at_a_change_of_a_file(
    command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried
) -> None:
    """Before it opens, renames or removes a file, at random numbers of such changes, once or twice in a row."""
    tried(f"kill of {command} at a change of a file", count, SAME)
    for number in range(count):
        moments, case = seeded(f"kill at a change of {command}", first, number)
        folder = place.new(tmp_path / str(number))
        for _ in range(moments.randint(1, 2)):
            kill = partial(signal_at, [moments.randint(1, place.changes[command])], signal.SIGKILL)
            finish(Started(*COMMANDS[command], cwd=folder, before=kill))
        place.require_same(command, folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", ["study", "unlearn"])
@pytest.mark.parametrize(("first", "count"), share(45, sample=1))
def test_interrupted_by_signals(
    command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried
) -> None:
    """SIGINT, SIGTERM or SIGHUP, also twice."""
    tried(f"signals to {command}", count, f"one line, status 128 + signal; {SAME}")
    for number in range(count):
        moments, case = seeded(f"signals to {command}", first, number)
        folder, sent = place.new(tmp_path / str(number)), SIGNALS[(first + number) % 3]
        at = moments.randint(1, place.changes[command])
        also = [at + moments.randint(0, 3)] if moments.random() < 0.5 else []
        done = finish(Started(*COMMANDS[command], cwd=folder, before=partial(signal_at, [at, *also], sent)))
        if done.returncode:  # it may end before the first signal, as a training may be shorter
            require_one_line(done, f"interrupted by {sent.name}", case)
            assert done.returncode == 128 + sent, case
        place.require_same(command, folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", ["study", "unlearn"] if WHOLE else ["unlearn"])
@pytest.mark.parametrize(("first", "count"), share(30))
def test_without_enough_memory(
    command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried
) -> None:
    """With limits of address space or data, of 0 to 400 MB above what the imports need."""
    tried(f"{command} without enough memory", count, f"one line, or the system ends it; {SAME}")
    for number in range(count):
        sizes, case = seeded(f"memory of {command}", first, number)
        folder = place.new(tmp_path / str(number))
        kind = sizes.choice((resource.RLIMIT_AS, resource.RLIMIT_DATA))
        limit = partial(limited, kind, int(2 ** sizes.uniform(20, 28.6)), added=True)
        done = finish(Started(*COMMANDS[command], cwd=folder, before=limit))
        by_libc = done.stderr.rstrip().endswith("ABORT")  # the C library has no memory for a thread, and exits
        if done.returncode > 0 and not by_libc:
            require_one_line(done, "error", case)
        elif done.returncode < 0:
            assert not re.search("Traceback", done.stderr), f"{case}: {done.stderr}"
        place.require_same(command, folder, case)
        shutil.rmtree(folder)
