"""Steps in several processes: the results of one process, the order, lost workers, failures, interruptions."""

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import ClassVar

import pytest
import torch
from tests.helpers.forks import FORKS
from tests.helpers.small_study import STUDY, run_plan

from uwc import progress
from uwc.errors import ConfigError, UserError
from uwc.models.model import Loading
from uwc.studies import parallel
from uwc.studies.context import Context
from uwc.studies.plan import make_plan
from uwc.studies.run import Runner
from uwc.studies.steps import Outcome, Step
from uwc.studies.store import Store
from uwc.studies.workers import Workers
from uwc.tracking import Trackers


@dataclass(frozen=True)
class Small(Step):
    """A step that writes the number of its process, and may fail, or end its process."""

    kind: ClassVar[str] = "small"

    label: str  # in the key, as the name is not
    first: Step | None = None
    second: Step | None = None
    does: str = ""
    seconds: float = 0.0
    loading: Loading = field(default_factory=lambda: Loading(device="cpu"))

    def run(self, context: Context, out: Path) -> Outcome:
        (out / "process.txt").write_text(str(os.getpid()))
        (out / "threads.txt").write_text(str(torch.get_num_threads()))
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(0.05)
        if self.does == "say":
            progress.note(f"a note of {self.name}")
        if self.does == "fail":
            raise UserError("it cannot be computed")
        marker = context.store.root / f"{self.name}-was-here"
        if self.does == "end" or (self.does == "end once" and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome()


def small(name: str, *inputs: Step, does: str = "", seconds: float = 0.0) -> Small:
    first, second = (*inputs, None, None)[:2]
    return Small((name,), name, name, first, second, does=does, seconds=seconds)


def names(steps: list[Small], store: Store, count: int = 2) -> list[str]:
    return [step.name for step, _ in Workers(steps, store, Trackers(), count=count).completed()]


def process_of(step: Step, store: Store) -> str:
    return (store.folder(step) / "process.txt").read_text()


def test_results_are_those_of_one_process(forked_workers: None, tmp_path: Path) -> None:
    unlearn = STUDY.unlearn.model_copy(update={"runs": STUDY.unlearn.runs[:2]})
    study = STUDY.model_copy(update={"unlearn": unlearn})
    serial, _ = run_plan(make_plan(study), Store(tmp_path / "serial"))
    several, times = run_plan(make_plan(study), Store(tmp_path / "several"), runner=Runner(2))
    assert serial.to_json() == several.to_json()
    assert list(times) == [step.name for step in make_plan(study).steps]  # in the order of the plan
    assert not any(step.reused for step in times.values())


def test_the_order_of_steps_and_a_lost_worker(
    forked_workers: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A step waits for its inputs; one that reads the models of the worker's last step comes before others."""
    lost, a, b = small("lost", does="end once"), small("a"), small("b")
    reading = [small("b1", b), small("a1", a), small("b2", b), small("a2", a)]
    steps, store = [lost, a, small("both", a, b), b, *reading], Store(tmp_path)
    assert names(steps, store, count=1) == ["lost", "a", "b", "both", "b1", "b2", "a1", "a2"]
    assert str(os.getpid()) not in {process_of(step, store) for step in steps}
    assert "worker 1 ended (signal SIGKILL); 'lost' is run again" in capfd.readouterr().err.replace("\n", " ")
    assert names(steps, store) == [step.name for step in steps]  # from the store
    assert not multiprocessing.active_children()


def test_a_step_that_ends_each_worker_is_an_error_and_the_others_are_kept(
    forked_workers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, good = Store(tmp_path), small("good", seconds=0.5)
    monkeypatch.setattr(parallel, "MOST_TRIES", 1)
    with pytest.raises(UserError, match=r"the worker of 'bad' ended 1 times \(signal SIGKILL.*--workers"):
        names([small("bad", does="end"), good], store)
    assert store.manifest(good) is not None


def test_after_a_failure_steps_under_way_are_completed(forked_workers: None, tmp_path: Path) -> None:
    store, slow = Store(tmp_path), small("slow", seconds=1.0)
    bad = small("bad", does="fail")
    with pytest.raises(UserError, match="it cannot be computed"):
        names([slow, bad, small("after", slow)], store)
    assert store.manifest(slow) is not None
    assert not multiprocessing.active_children()


def test_no_workers_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="workers = 0 is not a number of processes"):
        Runner(workers=0)


def test_a_function_that_cannot_be_sent_is_an_error(tmp_path: Path) -> None:
    step = dataclasses.replace(small("local"), does=lambda: None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot be sent to workers .*top of a module"):
        names([step], Store(tmp_path))


def interrupted(run: Callable[[], object], store: Store) -> None:
    """Run something that begins a step, and send SIGINT once it has."""
    ended = Event()

    def interrupt() -> None:
        while not list((store.root / "tmp").glob("*/process.txt")) and not ended.wait(0.1):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        ended.set()
    assert not list((store.root / "tmp").iterdir())  # what was half written is removed


def test_an_interruption_ends_the_workers(forked_workers: None, tmp_path: Path) -> None:
    store, slow = Store(tmp_path), small("slow", seconds=600.0)
    interrupted(lambda: names([slow], store), store)
    assert not multiprocessing.active_children()


def _endless(root: Path) -> None:
    names([small("slow", seconds=600.0)], Store(root))


def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    """The workers of this run are spawned, as those of every run outside the tests."""
    run = FORKS.Process(target=_endless, args=(tmp_path,))
    run.start()
    try:
        until = time.monotonic() + 120
        while not (found := list((tmp_path / "tmp").glob("*/process.txt"))) or not found[0].read_text():
            assert run.is_alive()
            assert time.monotonic() < until
            time.sleep(0.1)
        worker = int(found[0].read_text())
    finally:
        run.kill()
        run.join()
    until = time.monotonic() + 20
    while _exists(worker):
        assert time.monotonic() < until
        time.sleep(0.1)


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/status")
    return not (status.exists() and "State:\tZ" in status.read_text())
