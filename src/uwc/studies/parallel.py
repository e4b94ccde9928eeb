"""What computing steps at the same time has in common, whether in processes of this machine or in tasks of Ray."""

import pickle
import traceback
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from uwc import progress
from uwc.errors import UserError
from uwc.studies.compute import run_step
from uwc.studies.pending import Pending
from uwc.studies.steps import Step
from uwc.studies.store import Store
from uwc.tracking import Trackers

if TYPE_CHECKING:
    from uwc.studies.context import Context

MOST_TRIES = 3
"""How often a step is tried whose worker ends without an answer."""


class Parallel(ABC):
    """Computes the steps of a study at the same time, each as soon as its inputs are complete.

    A step whose worker is lost is computed again by another. If a step fails, the steps that are under way are
    completed, and then its error is raised.

    Args:
        steps: the steps of a plan, in order.
        store: where results are kept.
        trackers: get the logs of trainings.
    """

    advice: str
    """What to do where a step's workers end again and again."""

    def __init__(self, steps: Sequence[Step], store: Store, trackers: Trackers) -> None:
        self._steps, self._store, self._trackers = steps, store, trackers
        self._pending = Pending(steps, store)
        self._lost: dict[str, int] = {}
        self._failed: BaseException | None = None

    @property
    @abstractmethod
    def width(self) -> int:
        """The most steps that are computed at the same time."""

    def completed(self) -> Generator[tuple[Step, bool]]:
        """Each step once it is complete, and whether nothing was computed.

        Raises:
            UserError: a step fails, or its worker ends several times.
        """
        from uwc.studies.context import Context

        context = Context(self._store, trackers=self._trackers)
        try:
            while True:
                for step in self._pending.stored():
                    yield step, run_step(step, context)
                if self._failed is None:
                    self._give_out()
                if not self._under_way():
                    break
                yield from self._answers()
            if self._failed is not None:
                raise self._failed
        finally:
            self._stop()

    @abstractmethod
    def _give_out(self) -> None:
        """Start steps whose inputs are complete."""

    @abstractmethod
    def _under_way(self) -> list[Step]:
        """The steps that are being computed."""

    @abstractmethod
    def _answers(self) -> Iterator[tuple[Step, bool]]:
        """Wait for messages of workers, and yield the steps that are complete."""

    @abstractmethod
    def _stop(self) -> None:
        """End whatever is under way."""

    def _tell(self, worker: str, kind: progress.Kind, text: str) -> None:
        """Print what a worker says."""
        if kind == "note":
            progress.note(text)
        elif kind == "warning":
            progress.warn(text)
        else:
            progress.line(f"{worker}: {text}")

    def _fail(self, error: BaseException) -> None:
        """Note that a step, which is no longer under way, has failed."""
        if self._failed is None:
            self._failed = error
            if left := [step.name for step in self._under_way()]:
                progress.note(f"a step failed; completing first: {', '.join(left)}")

    def _replace(self, step: Step, worker: str, how: str) -> None:
        """Note that the worker of a step was lost; the step is given out again."""
        self._lost[step.key] = tries = self._lost.get(step.key, 0) + 1
        if tries < MOST_TRIES:
            self._pending.put_back(step)
            progress.note(f"warning: {worker} ended ({how}); '{step.name}' is run again")
        else:
            error = f"the worker of '{step.name}' ended {tries} times ({how}, as where memory is short); {self.advice}"
            self._fail(UserError(error))


def answer(step: Step, context: "Context") -> tuple[Literal["done"], bool] | tuple[Literal["failed"], Exception]:
    """Compute a step in a worker: what the process that gives out the steps gets back."""
    try:
        with progress.watched(step.name):
            return "done", run_step(step, context)
    except Exception as error:
        return "failed", _sendable(error)


def _sendable(error: Exception) -> Exception:
    """The error, with its traceback as a note, or its text if it cannot be sent."""
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
