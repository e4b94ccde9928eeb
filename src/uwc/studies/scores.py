"""The scores of a study's models, from what its steps keep: no model and no judge is loaded."""

from uwc.metrics.evaluate import ScoredSets, evaluate, load_sets
from uwc.results import Score
from uwc.studies.config import RETRAINED
from uwc.studies.plan import Plan, Step
from uwc.studies.store import Store


class StepScores:
    """The scores of the steps that score a model. What the retrained model said is read once for all of them.

    Args:
        plan: the study.
        store: where its steps keep what they scored.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store
        self._retrained: ScoredSets | None = None

    def __call__(self, step: Step) -> tuple[Score, ...]:
        """All scores of the model that a finished step scored: by set and metric, then numbers for whole sets.

        Raises:
            DataError: a file that the step kept is damaged or missing.
        """
        return evaluate(self._sets(step), self._plan.scoring, retrained=self._control())

    def _sets(self, step: Step) -> ScoredSets:
        return load_sets(self._store.folder(step.kind, step.key), list(self._plan.scoring.given.sets))

    def _control(self) -> ScoredSets | None:
        """What the retrained model said, where a number for whole sets compares with it."""
        if not self._plan.config.retrained or not self._plan.scoring.of_sets:
            return None
        if self._retrained is None:
            self._retrained = self._sets(self._plan.step(f"score {RETRAINED}"))
        return self._retrained
