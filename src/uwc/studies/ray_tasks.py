"""The steps of a study as tasks of Ray, on a cluster or on this machine."""

import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from uwc import __version__, progress
from uwc.errors import UserError
from uwc.plugins import load_plugins, loaded_plugins
from uwc.studies.compute import wait_for
from uwc.studies.parallel import Parallel, answer
from uwc.studies.sections import ResourcesConfig, StepResources
from uwc.studies.steps import Checkpoint, Step
from uwc.studies.store import Store, code_fingerprint
from uwc.tracking import Trackers

if TYPE_CHECKING:
    from uwc.studies.context import Context

OBJECTS = 100_000_000
"""Bytes of shared memory of a Ray that is started here: results go through the store, and not through Ray."""
LOCAL = {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of a Ray that is started here: its workers have the priority of this process, where Ray's default is the
lowest but four, with which they hardly run beside other work; and nothing is reported to Ray's makers."""
EVERY = 0.5
"""Seconds between two looks at what the tasks say."""


@dataclass(frozen=True)
class _Job:
    """What each task of a run gets.

    Attributes:
        content: the pickled steps, store and trackers.
        run: a number of the run.
        folder: the current folder.
        code: the version of this package, with its hash.
    """

    content: bytes
    run: str
    folder: str
    plugins: Sequence[Path]
    argv: Sequence[str]
    code: str


class RayTasks(Parallel):
    """Computes each step in a task of Ray, which reserves what the study's `resources` say of its kind.

    All machines see the store, the current folder and the models of the study under the same paths, and have the same
    version of this package. A task has as many threads as its ``cpus``, and the GPUs that it asks for.

    Args:
        steps, store, trackers: as `Parallel` takes them.
        resources: what a task takes, by its kind.
        address: of a cluster, such as ``auto``, ``host:6379`` or ``ray://host:10001``; by default that of
            ``RAY_ADDRESS``. With neither, Ray is started on this machine, and ended afterwards.

    Raises:
        UserError: Ray is not installed or cannot be reached, a function of the study cannot be sent, or this machine
            has not what a step takes.
    """

    advice = "give it more memory (resources: memory_gb), so that fewer steps share a machine"

    def __init__(
        self,
        steps: Sequence[Step],
        store: Store,
        trackers: Trackers,
        *,
        resources: ResourcesConfig,
        address: str | None = None,
    ) -> None:
        super().__init__(steps, store, trackers)
        self._resources = resources
        address = address or os.environ.get("RAY_ADDRESS") or None
        self._ray, self._ours = _connected(address)
        self._tasks: dict[Any, Step] = {}
        self._shown: dict[str, ExitStack] = {}
        try:
            self._nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._has_gpus = any(node.get("GPU") for node in self._nodes)
            self._require_room(local=self._ours and address is None)
            self._job = self._ray.put(self._sent())
            from ray.util.queue import Queue

            self._said = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        except BaseException:
            self._disconnect()
            raise

    @property
    def width(self) -> int:
        """The number of steps with the study's resources that the cluster has room for, at least 1."""
        asked = _asked(self._resources)
        return max(1, sum(min(int(node.get(what, 0) / much) for what, much in asked.items()) for node in self._nodes))

    def _sent(self) -> _Job:
        try:
            content = self._ray.cloudpickle.dumps((self._steps, self._store, self._trackers))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"a function of the study cannot be sent to tasks of Ray ({error}); define it at the top of a module"
            ) from None
        plugins = [path.resolve() for path in loaded_plugins()]
        return _Job(content, os.urandom(8).hex(), os.getcwd(), plugins, list(sys.argv), _code())

    def _require_room(self, *, local: bool) -> None:
        """Refuse what this machine has not; a cluster may still grow."""
        for kind in dict.fromkeys(step.kind for step in self._steps):
            asked = _asked(self._resources.of(kind))
            if any(all(node.get(what, 0) >= much for what, much in asked.items()) for node in self._nodes):
                continue
            wanted = ", ".join(_words(what, much) for what, much in asked.items())
            if local:
                (node,) = self._nodes
                there = ", ".join(_words(what, node.get(what, 0)) for what in asked)
                raise UserError(
                    f"a step of kind {kind} asks for {wanted} (resources), and this machine has {there}; lower "
                    "them (resources), or give a cluster with --address"
                )
            progress.note(f"warning: no node of the cluster has what a step of kind {kind} asks for ({wanted}) yet")
        if self._has_gpus and not any(self._resources.of(step.kind).gpus for step in self._steps):
            progress.note("the cluster has GPUs, and no step asks for one; to use them: --set resources.gpus=1")

    def _give_out(self) -> None:
        for step in self._pending.ready():
            number, asked = self._steps.index(self._pending.take(step)), self._resources.of(step.kind)
            task = self._ray.remote(**options(asked, gpus=self._has_gpus))(_compute).options(name=step.name)
            self._tasks[task.remote(self._job, number, asked.cpus, self._said)] = step

    def _under_way(self) -> list[Step]:
        return list(self._tasks.values())

    def _answers(self) -> Iterator[tuple[Step, bool]]:
        ready, _ = self._ray.wait(list(self._tasks), timeout=EVERY)
        self._hear()
        for task in ready:
            step = self._tasks.pop(task)
            if (shown := self._shown.pop(step.key, None)) is not None:
                shown.close()
            try:
                kind, content = self._ray.get(task)
            except self._ray.exceptions.RayTaskError as error:
                self._fail(
                    UserError(
                        f"'{step.name}' could not be run by Ray: {_last_line(error)}; run the same command again to "
                        "resume, or without --runner ray"
                    )
                )
            except self._ray.exceptions.RayError as error:
                self._replace(step, "a worker of Ray", type(error).__name__)
            else:
                if kind == "failed":
                    self._fail(content)
                else:
                    wait_for(step, self._store)
                    yield step, content

    def _hear(self) -> None:
        """Print what the tasks have said since the last time."""
        with suppress(self._ray.exceptions.RayError):
            while count := self._said.size():
                for worker, kind, text, key in self._said.get_nowait_batch(count):
                    if kind != "started":
                        self._tell(worker, kind, text)
                    elif any(step.key == key for step in self._under_way()):
                        shown = self._shown.setdefault(key, ExitStack())
                        shown.enter_context(progress.shown(f"{worker}: {text}"))

    def _stop(self) -> None:
        for shown in self._shown.values():
            shown.close()
        with suppress(self._ray.exceptions.RayError):
            for task in self._tasks:
                self._ray.cancel(task)  # raises KeyboardInterrupt there, so that what is half written is removed
            if self._tasks:
                _, left = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=20)
                for task in left:
                    self._ray.cancel(task, force=True)
            self._said.shutdown(force=True)
        self._tasks.clear()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._ours:
            self._ray.shutdown()


def _connected(address: str | None) -> tuple[Any, bool]:
    """Ray, and whether it was connected here."""
    try:
        import ray
    except ImportError:
        raise UserError("--runner ray needs Ray; install it with: pip install 'uwc[ray]'") from None
    if ray.is_initialized():
        if address is not None and address != os.environ.get("RAY_ADDRESS"):
            raise UserError(f"this process is connected to a cluster already; leave out the address {address!r}")
        return ray, False
    if address is not None:
        _require_open(address)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECTS}
        for name, value in LOCAL.items():
            os.environ.setdefault(name, value)
    main = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        where = "cannot be started on this machine" if address is None else f"cannot be reached at {address!r}"
        raise UserError(f"Ray {where}: {_last_line(error)}; correct --address, or leave --runner ray out") from None
    finally:
        if main:  # ray.init replaces the handler by one that ends the process without a word
            signal.signal(signal.SIGTERM, terminated)
    return ray, True


def _require_open(address: str) -> None:
    """Raise UserError if nothing listens at an address; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():  # auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Ray cannot be reached at {address!r} ({error}); `ray status` on a node says where it is"
        ) from None


def options(asked: StepResources, *, gpus: bool) -> dict[str, Any]:
    """The options of Ray for a task.

    Args:
        asked: what it takes.
        gpus: whether the cluster has GPUs, of which a task that asks for none sees none.
    """
    found: dict[str, Any] = {"num_cpus": asked.cpus, "num_gpus": asked.gpus}
    found["max_retries"] = 0  # a lost step is put back, which also counts its tries
    if asked.gpus:
        found["max_calls"] = 1  # a process cannot change its GPU, nor give back all of its memory
    elif gpus:
        found["runtime_env"] = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
    if asked.memory_gb is not None:
        found["memory"] = _asked(asked)["memory"]
    return found


def _asked(resources: StepResources) -> dict[str, float]:
    """The resources, as Ray names them."""
    found: dict[str, float] = {"CPU": resources.cpus}
    if resources.gpus:
        found["GPU"] = resources.gpus
    if resources.memory_gb is not None:
        found["memory"] = int(resources.memory_gb * 1e9)
    return found


def _words(what: str, much: float) -> str:
    return f"{much / 1e9:.1f} GB of memory" if what == "memory" else f"{much:g} {what}"


def _code() -> str:
    return f"{__version__} ({code_fingerprint()[:16]})"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


_known: dict[str, tuple[Sequence[Step], "Context"]] = {}
"""Of a process of Ray: run -> its steps, and what they share."""


def _compute(
    job: _Job, number: int, cpus: int, said: Any
) -> tuple[Literal["done"], bool] | tuple[Literal["failed"], Exception]:
    """Compute a step, in a process of Ray; the process is used again, which saves its imports."""
    worker = f"{socket.gethostname()}, process {os.getpid()}"

    def send(kind: progress.Kind | Literal["started"], text: str, key: str = "") -> None:
        with suppress(Exception):  # no step fails since what it says is lost
            said.put((worker, kind, text, key))

    progress.silence()
    progress.send_to(send)
    try:
        steps, context = _joined(job, worker)
        step = steps[number]
        for needed in step.inputs.values():
            if not isinstance(needed, Checkpoint):
                wait_for(needed, context.store)
    except UserError as error:
        return "failed", error

    import torch

    torch.set_num_threads(cpus)
    send("started", step.name, step.key)
    try:
        return answer(step, context)
    finally:
        context.cache.keep()  # the memory of its models is another task's now


def _joined(job: _Job, worker: str) -> tuple[Sequence[Step], "Context"]:
    """The steps of a run, and what they share in this process."""
    if job.run not in _known:
        from uwc.studies.context import Context

        _known.clear()
        if (ours := _code()) != job.code:
            raise UserError(f"{worker} has uwc {ours}, and the study is run by {job.code}; install the same")
        try:
            os.chdir(job.folder)
        except OSError as error:
            raise UserError(
                f"{worker} cannot use the folder {job.folder} ({error.strerror}); all machines of the cluster have to "
                "share it"
            ) from None
        sys.argv = list(job.argv)
        load_plugins(job.plugins)
        steps, store, trackers = pickle.loads(job.content)
        _known[job.run] = steps, Context(store, trackers=trackers)
    return _known[job.run]
