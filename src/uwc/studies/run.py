"""Execution of the steps of a plan that are not in the store."""

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from uwc import progress
from uwc.errors import ConfigError, UserError, listed
from uwc.progress import duration, gigabytes
from uwc.registry import unknown_name
from uwc.results import RunRecord, StepTime
from uwc.studies.checks import require_retention
from uwc.studies.compute import Status, run_step, status_after, step_status
from uwc.studies.parallel import Parallel
from uwc.studies.pending import missing_inputs
from uwc.studies.plan import Plan
from uwc.studies.steps import Attack, Calibrate, Checkpoint, Step
from uwc.studies.store import Store, environment
from uwc.studies.workers import Workers
from uwc.tracking import Trackers


def missing_steps(plan: Plan, store: Store) -> list[Step]:
    """The steps that a run would compute, in order."""
    return [step for step in plan.steps if step_status(step, store) == "missing"]


def verify_store(plan: Plan, store: Store, *, everything: bool = False) -> None:
    """Compare the stored models that a run would read with their hashes, and forget those that have changed.

    All other files are compared where their step is first asked for; see `Store`.

    Args:
        plan: the plan of the run.
        store: the store.
        everything: compare every model, including those that no missing step reads.
    """
    damaged = True
    while damaged:  # the inputs of a damaged model are read too
        read = plan.steps if everything else [model for step in missing_steps(plan, store) for model in _models(step)]
        complete = {step.key: step for step in read if store.manifest(step) is not None}
        damaged = False
        with progress.bar("compare stored models", total=len(complete)) as advance:
            for step in complete.values():
                damaged |= not store.verify(step)
                advance(1)


def _models(step: Step) -> Iterator[Step]:
    """The steps whose models a step reads."""
    for read in step.inputs.values():
        yield from _models(read) if isinstance(read, Calibrate) else (read,)


RUNNERS = ["local", "ray"]


@dataclass(frozen=True)
class Runner:
    """What computes the steps of a study.

    Attributes:
        workers: the number of processes that compute independent steps at the same time; with 1 this process computes
            all of them, in order.
        name: "local", or "ray" to compute them as tasks of Ray.
        address: of Ray's cluster; by default Ray is started on this machine.

    Raises:
        ConfigError: `workers` is less than 1, the name is unknown, or a setting has no effect.
    """

    workers: int = 1
    name: str = "local"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers = {self.workers} is not a number of processes; give 1 or more")
        if self.name not in RUNNERS:
            raise ConfigError(unknown_name("runner", self.name, RUNNERS))
        if self.name == "ray" and self.workers > 1:
            raise ConfigError(
                f"workers = {self.workers} has no effect with Ray, which runs as many steps as their resources allow; "
                "leave it out"
            )
        if self.address is not None and self.name != "ray":
            raise ConfigError("the address of a cluster has no effect without Ray; choose it with --runner ray")


LOCAL = Runner()


def run_steps(
    plan: Plan,
    store: Store,
    *,
    on_step: progress.Advance,
    trackers: Trackers | None = None,
    runner: Runner = LOCAL,
) -> RunRecord:
    """Run every missing step, and store each result.

    Args:
        plan: the plan.
        store: the store.
        on_step: called with each step and the ETA.
        trackers: get the logs of trainings, also of those that are taken from the store.
        runner: what computes the steps.

    Raises:
        UserError: a step fails, the runner cannot be used, or the original scores near 0 on a set of the retention
            constraint.
    """
    started = _now()
    _forget_not_cached(plan, store)
    for step in plan.steps:
        store.remove_leftovers(step)
    parallel = _parallel(plan, store, trackers or Trackers(), runner)
    width = 1 if parallel is None else parallel.width
    times, left = {}, _time_left(plan, store, width)
    on_step(sum(isinstance(step, Checkpoint) for step in plan.steps), note=left)
    in_order = _in_order(plan, store, trackers or Trackers())
    with closing(in_order if parallel is None else parallel.completed()) as computed:
        for step, reused in computed:
            times[step.key] = _time(step, store, reused=reused)
            left = left if reused else _time_left(plan, store, width)
            _report(step, times[step.key], store, left)
            on_step(1, note=left)
            if step is plan.original.score and plan.config.calibrate is not None:
                require_retention(plan, store)
    steps = tuple(times[step.key] for step in plan.steps if step.key in times)
    return RunRecord(environment=environment(), steps=steps, started=started, ended=_now())


def _parallel(plan: Plan, store: Store, trackers: Trackers, runner: Runner) -> Parallel | None:
    """What computes steps at the same time; None for one after the other."""
    steps = [step for step in plan.steps if not isinstance(step, Checkpoint)]
    if runner.name == "ray":
        from uwc.studies.ray_tasks import RayTasks

        return RayTasks(steps, store, trackers, resources=plan.config.resources, address=runner.address)
    return Workers(steps, store, trackers, count=runner.workers) if runner.workers > 1 else None


def _in_order(plan: Plan, store: Store, trackers: Trackers) -> Generator[tuple[Step, bool]]:
    """Each step once it is complete, and whether nothing was computed."""
    from uwc.studies.context import Context  # heavy: only where something is computed

    context = Context(store, trackers=trackers)
    for step in plan.steps:
        if not isinstance(step, Checkpoint):
            yield step, run_step(step, context)


def run_one(plan: Plan, store: Store, key: str) -> StepTime:
    """Run one step of a plan, as a job of a cluster does.

    Args:
        plan: the plan.
        store: the store.
        key: the beginning of the step's key, of 8 digits or more, or its name.

    Raises:
        UserError: no step, or several, are called so, an input is not complete, or the step fails.
    """
    from uwc.studies.context import Context

    found = [step for step in plan.steps if step.name == key or (len(key) >= 8 and step.key.startswith(key))]
    if len(found) != 1:
        what = "no step" if not found else f"{len(found)} steps"
        raise UserError(f"{what} of {plan.config.name} called {key!r}; `uwc study plan` lists names and keys")
    (step,) = found
    store.refresh()
    if missing := missing_inputs(step, store):
        names = listed(repr(s.name) for s in missing)
        raise UserError(f"'{step.name}' needs results that are not there: {names}; run these first")
    store.remove_leftovers(step)
    reused = isinstance(step, Checkpoint) or run_step(step, Context(store))
    time = _time(step, store, reused=reused)
    _report(step, time, store, "")
    return time


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _forget_not_cached(plan: Plan, store: Store) -> None:
    """Remove the results of steps that must not be cached."""
    reasons = {step.not_cached for step in plan.steps if step.not_cached}
    for reason in reasons:
        progress.warn(f"{reason}, so the steps that use it are computed in every run")
    for step in plan.steps:
        if step.not_cached:
            store.remove(step)


def _time_left(plan: Plan, store: Store, workers: int) -> str:
    status: dict[str, Status] = {}
    for step in plan.steps:
        status[step.key] = status_after(step, store, [status[s.key] for s in step.inputs.values()])
    finished = [(_cost_class(s), _seconds(s, store)) for s in plan.steps if status[s.key] in ("done", "diverged")]
    return time_left(finished, [_cost_class(s) for s in plan.steps if status[s.key] == "missing"], workers)


def _cost_class(step: Step) -> str:
    """The class of steps of similar cost: the kind and, for attacks, the chain."""
    return " ".join([step.kind, *(name for name, _ in step.attack)]) if isinstance(step, Attack) else step.kind


def seconds_left(finished: Iterable[tuple[str, float]], missing: Sequence[str]) -> tuple[float, bool]:
    """The sum over missing steps of the mean time of finished steps of the same class.

    Args:
        finished: class and time in seconds of each finished step, of this or an earlier run.
        missing: the classes of the missing steps.

    Returns:
        The seconds, and whether they include every missing step, that is, each class has a finished step.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for kind, seconds in finished:
        spent[kind].append(seconds)
    known = [sum(spent[kind]) / len(spent[kind]) for kind in missing if spent[kind]]
    return sum(known), len(known) == len(missing)


def time_left(finished: Iterable[tuple[str, float]], missing: Sequence[str], workers: int = 1) -> str:
    """The missing steps and the ETA in words, such as ``3 steps left, about 40.0 s``; empty if there are none."""
    if not missing:
        return ""
    seconds, complete = seconds_left(finished, missing)
    steps = f"{len(missing)} {'step' if len(missing) == 1 else 'steps'} left"
    if not seconds:
        return steps
    return f"{steps}, {'about' if complete else 'more than'} {duration(seconds / min(workers, len(missing)))}"


def _seconds(step: Step, store: Store) -> float:
    manifest = store.manifest(step)
    return 0.0 if manifest is None else manifest.seconds


def _time(step: Step, store: Store, *, reused: bool) -> StepTime:
    made = store.manifest(step)
    return StepTime(
        name=step.name,
        key=step.key,
        seconds=_seconds(step, store),
        peak_bytes=None if made is None else made.peak_bytes,
        reused=reused,
        outcome=step_status(step, store),
    )


def _report(step: Step, time: StepTime, store: Store, left: str) -> None:
    """Print a note on the outcome of a step and the ETA."""
    failed = time.outcome in ("diverged", "failed")
    if time.reused and not failed:
        return
    why = f": {store.outcome(step).message}" if failed else ""
    after = f"; {left}" if left else ""
    took = f"{time.seconds:.1f} s" + ("" if time.peak_bytes is None else f", {gigabytes(time.peak_bytes)}")
    progress.note(f"{time.outcome if failed else 'done':>8}  {step.name} ({took}){why}{after}")
