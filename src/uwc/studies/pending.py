"""The steps of a study that are not computed yet, and those whose inputs are complete."""

from collections.abc import Iterator, Sequence

from uwc.studies.compute import step_status
from uwc.studies.steps import Checkpoint, Step
from uwc.studies.store import Store


class Pending:
    """Steps that are neither complete nor under way.

    Args:
        steps: the steps of a plan, in order; checkpoints are left out.
        store: where results are kept.
    """

    def __init__(self, steps: Sequence[Step], store: Store) -> None:
        self._steps = [step for step in steps if not isinstance(step, Checkpoint)]
        self._store = store

    def stored(self) -> Iterator[Step]:
        """Take out, one by one, the steps that need no work: their results are there, or what they need has none."""
        for step in list(self._steps):
            if step_status(step, self._store) != "missing":
                self._steps.remove(step)
                yield step

    def ready(self) -> list[Step]:
        """The steps whose inputs are complete, in order."""
        return [step for step in self._steps if not missing_inputs(step, self._store)]

    def take(self, step: Step) -> Step:
        """Take out a step, which is under way from now on."""
        self._steps.remove(step)
        return step

    def put_back(self, step: Step) -> None:
        """Put back a step that was not completed, as the next one."""
        self._steps.insert(0, step)


def missing_inputs(step: Step, store: Store) -> list[Step]:
    """The inputs of a step that have to be computed before it."""
    return [s for s in step.inputs.values() if not isinstance(s, Checkpoint) and step_status(s, store) == "missing"]
