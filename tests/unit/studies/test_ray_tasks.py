"""Steps in tasks of Ray, which is started once: equal bits, lost workers, failures, resources, messages."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.studies.test_slurm import CONTENT as WHOLE
from tests.unit.studies.test_workers import Small, interrupted, process_of, small

from uwc.errors import ConfigError, UserError
from uwc.studies import parallel, ray_tasks
from uwc.studies.ray_tasks import RayTasks
from uwc.studies.run import Runner
from uwc.studies.sections import ResourcesConfig
from uwc.studies.store import Store
from uwc.tracking import Trackers
from uwc.workflows.studies import run_study

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'uwc[ray]'")

pytestmark = pytest.mark.slow

CONTENT = {**WHOLE, "attack": None, "calibrate": None, "unlearn": {**WHOLE["unlearn"], "runs": [{"method": "ga"}]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray on this machine with 2 CPUs."""
    before = dict(os.environ)
    os.environ.update(ray_tasks.LOCAL)
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": ray_tasks.OBJECTS}
    found = ray.init(address="local", num_cpus=2, log_to_driver=False, **options)
    yield found.address_info["address"]
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


def names(steps: list[Small], store: Store, **resources: Any) -> list[str]:
    tasks = RayTasks(steps, store, Trackers(), resources=ResourcesConfig(**resources))
    return [step.name for step, _ in tasks.completed()]


def test_results_are_those_of_one_process(cluster: str, tmp_path: Path) -> None:
    serial = run_study(CONTENT, runs=tmp_path / "serial")
    assert run_study(CONTENT, runs=tmp_path / "ray", runner=Runner(name="ray")).to_json() == serial.to_json()
    log = (tmp_path / "ray" / "shared" / "run.log").read_text()
    assert "done  score ga" in log and "steps left" in log


def test_after_a_failure_steps_under_way_are_completed(cluster: str, tmp_path: Path) -> None:
    store, slow, bad = Store(tmp_path), small("slow", seconds=1.0), small("bad", does="fail")
    with pytest.raises(UserError, match="it cannot be computed"):
        names([slow, bad, small("after", slow)], store)
    assert store.manifest(slow) is not None


def test_a_task_has_the_resources_of_its_kind(cluster: str, tmp_path: Path) -> None:
    store, step = Store(tmp_path), small("two")
    assert names([step], store, cpus=2) == ["two"]
    assert (store.folder(step) / "threads.txt").read_text() == "2"
    for resources, width in (({"cpus": 1}, 2), ({"cpus": 2}, 1), ({"memory_gb": 0.1}, 2)):
        assert RayTasks([], store, Trackers(), resources=ResourcesConfig(**resources)).width == width


def test_options_of_a_task() -> None:
    """A task that asks for no GPU sees none, where there are any; one that asks for some has a process of its own."""
    given = ResourcesConfig(gpus=1, cpus=4, memory_gb=24, kinds={"build": {"gpus": 0}})  # type: ignore[dict-item]
    asked = {"num_cpus": 4, "max_retries": 0, "memory": 24_000_000_000}
    none = {"num_gpus": 0, "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}}
    assert ray_tasks.options(given.of("score"), gpus=True) == {**asked, "num_gpus": 1, "max_calls": 1}
    assert ray_tasks.options(given.of("build"), gpus=True) == {**asked, **none}
    assert ray_tasks.options(given.of("build"), gpus=False) == {**asked, "num_gpus": 0}


def test_what_a_task_says_is_printed(cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names([small("chatty", does="say")], Store(tmp_path))
    assert "a note of chatty" in capfd.readouterr().err


def test_an_address_of_no_use(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    for address, words in (("auto", "connected to a cluster already"), (nobody, "cannot be reached at .*refused")):
        monkeypatch.setattr(ray, "is_initialized", lambda address=address: address == "auto")
        with pytest.raises(UserError, match=words):
            RayTasks([], Store(tmp_path), Trackers(), resources=ResourcesConfig(), address=address)


def test_what_this_machine_has_not_is_refused(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a cluster, which may grow, it is a warning."""
    monkeypatch.setattr(ray_tasks, "_connected", lambda _address: (ray, True))
    monkeypatch.setattr(RayTasks, "_disconnect", lambda _self: None)
    with pytest.raises(UserError, match=r"kind small asks for 1 CPU, 3 GPU \(resources\).* has 2 CPU, 0 GPU"):
        names([small("other")], Store(tmp_path), gpus=3)


def test_runners() -> None:
    for settings, words in (
        ({"workers": 0}, "is not a number of processes"),
        ({"name": "slurm"}, "unknown runner 'slurm'"),
        ({"name": "ray", "workers": 2}, "has no effect with Ray"),
        ({"address": "auto"}, "--runner ray"),
    ):
        with pytest.raises(ConfigError, match=words):
            Runner(**settings)  # type: ignore[arg-type]


def test_an_interruption_ends_the_tasks(cluster: str, tmp_path: Path) -> None:
    """A signal is handled as it was without Ray."""
    store, slow = Store(tmp_path), small("slow", seconds=600.0)
    interrupted(lambda: names([slow], store), store)
    assert not list((store.root / "locks").iterdir())


def test_a_lost_worker_and_processes_used_again(
    cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A step waits for its inputs; the processes are as few as the CPUs, and one more for that which ends."""
    store = Store(tmp_path)
    lost, a = small("lost", does="end once"), small("a")
    after = small("after", lost, a)
    steps = [lost, a, after, *(small(f"b{number}", after) for number in range(4))]
    assert sorted(names(steps, store)) == sorted(step.name for step in steps)
    assert names(steps, store) == [step.name for step in steps]  # from the store
    told = " ".join(capfd.readouterr().err.split())
    assert "a worker of Ray ended (WorkerCrashedError); 'lost' is run again" in told
    processes = {process_of(step, store) for step in steps}
    assert str(os.getpid()) not in processes and len(processes) <= 3


def test_a_step_that_ends_each_worker_is_an_error(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "MOST_TRIES", 1)
    with pytest.raises(UserError, match=r"the worker of 'bad' ended 1 times .*memory_gb"):
        names([small("bad", does="end")], Store(tmp_path))
