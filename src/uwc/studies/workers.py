"""Processes that compute independent steps of a study at the same time."""

import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from uwc import progress
from uwc.errors import UserError
from uwc.plugins import load_plugins, loaded_plugins
from uwc.studies.parallel import Parallel, answer
from uwc.studies.steps import Step
from uwc.studies.store import Store
from uwc.tracking import Trackers


@dataclass(eq=False)
class _Worker:
    """A process.

    Attributes:
        number: from 1.
        process: the process.
        connection: for messages to and from it.
        step: the step that it computes; None if it is idle.
        near: keys of the inputs of its last step, whose models it may still have in memory.
    """

    number: int
    process: SpawnProcess
    connection: "Connection[Any, Any]"
    step: Step | None = None
    near: frozenset[str] = frozenset()
    shown: ExitStack = field(default_factory=ExitStack)

    def start(self, step: Step, number: int) -> None:
        """Give it a step, by its number in the plan."""
        self.step, self.near = step, _near(step)
        self.shown.enter_context(progress.shown(f"worker {self.number}: {step.name}"))
        with suppress(OSError):  # it is lost, which is found when its answer is waited for
            self.connection.send(number)

    def end(self) -> Step | None:
        """The step that it had; it is idle now."""
        self.shown.close()
        step, self.step = self.step, None
        return step


class Workers(Parallel):
    """Processes that compute the steps of a study.

    Each worker has the threads that ``OMP_NUM_THREADS`` sets, or its share of the cores, and one of the CUDA devices if
    there are several.

    Args:
        steps, store, trackers: as `Parallel` takes them.
        count: the most processes.

    Raises:
        UserError: a function of the study, such as a measure of retention, cannot be sent to another process.
    """

    advice = "run it with fewer workers (--workers)"

    def __init__(self, steps: Sequence[Step], store: Store, trackers: Trackers, *, count: int) -> None:
        super().__init__(steps, store, trackers)
        self._count = count
        try:
            self._content = pickle.dumps((steps, store, trackers))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"a function of the study cannot be sent to workers ({error}); define it at the top of a module, or "
                "run with one worker"
            ) from None
        self._workers: list[_Worker] = []

    @property
    def width(self) -> int:
        """The number of processes."""
        return self._count

    def _under_way(self) -> list[Step]:
        return [worker.step for worker in self._workers if worker.step is not None]

    def _give_out(self) -> None:
        """Give each idle worker a step, the next one that reads the models of its last step if there is one."""
        ready = self._pending.ready()
        while ready:
            idle = next((worker for worker in self._workers if worker.step is None), None)
            if idle is None and len(self._workers) == self._count:
                return
            worker = idle or self._new_worker()
            step = max(ready, key=lambda s: len(worker.near & _near(s)))
            ready.remove(step)
            worker.start(self._pending.take(step), self._steps.index(step))

    def _new_worker(self) -> _Worker:
        number = min(set(range(1, self._count + 1)) - {worker.number for worker in self._workers})
        ours, theirs = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=work,
            args=(theirs, self._content, loaded_plugins(), number, self._count, sys.argv),
            name=f"uwc-worker-{number}",
            daemon=True,
        )
        process.start()
        theirs.close()
        worker = _Worker(number, process, ours)
        self._workers.append(worker)
        return worker

    def _answers(self) -> Iterator[tuple[Step, bool]]:
        """Wait for messages, and yield the steps that are complete."""
        ready = wait([worker.connection for worker in self._workers])
        for worker in [w for w in self._workers if w.connection in ready]:
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                self._remove(worker)
                continue
            if kind not in ("done", "failed"):
                self._tell(f"worker {worker.number}", kind, content)
            elif (step := worker.end()) is not None:
                if kind == "failed":
                    self._fail(content)
                else:
                    yield step, content

    def _remove(self, worker: _Worker) -> None:
        """Note that a worker was lost."""
        self._workers.remove(worker)
        worker.process.join()
        status, step = worker.process.exitcode or 0, worker.end()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        if step is not None:
            self._replace(step, f"worker {worker.number}", how)

    def _stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.end()
            worker.process.join(timeout=20)
            if worker.process.is_alive():
                worker.process.kill()
            worker.connection.close()
        self._workers.clear()


def _near(step: Step) -> frozenset[str]:
    return frozenset(s.key for s in step.inputs.values())


def work(
    connection: "Connection[Any, Any]",
    content: bytes,
    plugins: Sequence[Path],
    number: int,
    count: int,
    argv: list[str],
) -> None:
    """The main function of a worker: computes each step whose number it is sent."""
    sys.argv = argv
    _divide(number, count)
    Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
    for name in ("SIGINT", "SIGHUP"):  # a terminal sends them to all processes; the parent ends its workers
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sending = Lock()

    def send(kind: str, content: Any) -> None:
        with sending:
            connection.send((kind, content))

    progress.silence()
    progress.send_to(send)
    load_plugins(plugins)
    steps, store, trackers = pickle.loads(content)

    from uwc.studies.context import Context

    context = Context(store, trackers=trackers)
    while True:
        send(*answer(steps[connection.recv()], context))


def _divide(number: int, count: int) -> None:
    """Take this worker's share of the cores and of the CUDA devices."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[(number - 1) % len(devices)]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _leave(_number: int, _frame: object) -> None:
    sys.exit(128 + signal.SIGTERM)
