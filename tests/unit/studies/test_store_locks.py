"""Locks of a store that several machines share: their clocks differ, and one may be lost."""

import os
import socket
import time
from pathlib import Path
from threading import Event, Thread

import pytest
from tests.unit.studies.test_workers import small

from uwc.errors import UserError
from uwc.studies import store as stores
from uwc.studies.compute import run_step
from uwc.studies.context import Context
from uwc.studies.store import Store

LEASE = 0.6


@pytest.fixture(autouse=True)
def _short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LEASE", LEASE)


def held_elsewhere(store: Store, *, host: str = "another-machine", process: int = 1) -> Path:
    """The lock's file, as another machine writes it."""
    step = small("shared")
    with store.lock(step) as lock:
        path = Path(lock.lock_file)
    lines = ["filelock/2", f"pid={process}", f"host={host}", "mode=lease", "token=theirs", f"duration={LEASE!r}"]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("ahead", [-86_400.0, 0.0, 86_400.0])
def test_a_lock_is_held_as_long_as_it_is_refreshed_whatever_the_clock_says(tmp_path: Path, ahead: float) -> None:
    """The other machine's clock is a day behind or ahead; it refreshes five times, and is then lost."""
    store = Store(tmp_path)
    path, began, lost = held_elsewhere(store), time.monotonic(), Event()

    def refresh() -> None:
        for _ in range(5):
            now = time.time() + ahead
            os.utime(path, (now, now))
            time.sleep(LEASE / 3)
        lost.set()

    other = Thread(target=refresh)
    other.start()
    with store.lock(small("shared")):
        waited = time.monotonic() - began
        assert lost.is_set()
    other.join()
    assert waited > LEASE * 4 / 3 + LEASE * 0.9  # its last refresh, and a lease after it


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LEASE", 600.0)
    store = Store(tmp_path)
    with store.lock(small("shared")) as lock:
        (host,) = [line for line in Path(lock.lock_file).read_text().splitlines() if line.startswith("host=")]
        assert socket.gethostname() in host
    held_elsewhere(store, host=host.removeprefix("host="), process=2**22 + 1)  # above the most of Linux
    with store.lock(small("shared")) as lock:  # or it would wait for ten minutes
        assert lock.token != "theirs"


def test_the_lock_is_refreshed_while_a_step_is_computed(tmp_path: Path) -> None:
    """A second run waits for it, and computes nothing."""
    step, reused = small("shared", seconds=3 * LEASE), []

    def run() -> None:
        reused.append(run_step(step, Context(Store(tmp_path))))

    runs = [Thread(target=run) for _ in range(2)]
    for started in runs:
        started.start()
    for ended in runs:
        ended.join()
    assert sorted(reused) == [False, True]


def test_a_run_whose_lock_was_taken_over_leaves_the_other_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was suspended for longer than the lease: what it has computed is dropped, with an error that says so."""
    store, step = Store(tmp_path), small("shared")

    def suspended() -> None:
        with store.lock(step) as lock, store.writing(step, lock) as writing:
            (writing.folder / "process.txt").write_text("mine")
            theirs = Path(lock.lock_file).read_text().replace(str(lock.token), "theirs")
            Path(lock.lock_file).unlink()
            Path(lock.lock_file).write_text(theirs)

    with pytest.raises(UserError, match="another run has taken over 'shared'"):
        suspended()
    assert store.manifest(step) is None and not list((tmp_path / "tmp").iterdir())
