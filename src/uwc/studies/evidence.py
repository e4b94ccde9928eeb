"""The values by example of a finished study, as verdicts read them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from uwc.attacks.evaluate import VariantValues, under_attack
from uwc.metrics.scored import ScoredSet, needs_of
from uwc.metrics.suites import measured_on, missing_need
from uwc.studies.compute import step_status
from uwc.studies.plan import Plan, PlannedAttack, PlannedModel
from uwc.studies.sections import ChainConfig
from uwc.studies.steps import Step
from uwc.studies.store import Store
from uwc.studies.verdict import CheckedRole, Lacking, Measured

NO_RETRAINED = "it needs a retrained model; give one with --retrained (a study: retrained)"


class StudyEvidence:
    """The evidence on one unlearned model of a study.

    Args:
        plan: the plan, whose steps are finished.
        store: the store.
        model: the unlearned model as delivered.
        scored: gives the scored sets of a step.
        variants: gives the values of an attack by variant.
        distrusted: why the retrained model is neither a reference nor a control; empty if it is.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        model: PlannedModel,
        *,
        scored: Callable[[Step], Mapping[str, ScoredSet]],
        variants: Callable[[PlannedAttack], Sequence[VariantValues]],
        distrusted: str = "",
    ) -> None:
        self.plan, self.store, self.model, self.distrusted = plan, store, model, distrusted
        self._scored, self._variants = scored, variants

    def values(
        self,
        role: CheckedRole,
        name: str,
        metric: str,
        *,
        chain: ChainConfig | None = None,
        variants: Literal["mean", "worst"] = "mean",
    ) -> Measured | Lacking:
        """See `uwc.studies.verdict.Evidence`."""
        model = {"model": self.model, "original": self.plan.original, "retrained": self.plan.retrained}[role]
        if model is None:
            return Lacking(NO_RETRAINED)
        if self.distrusted and (role == "retrained" or "depth" in needs_of([metric])):
            return Lacking(f"the retrained model knows the forget questions: it scores {self.distrusted}", absent=False)
        given = self.plan.scoring.given
        if name not in given.sets or not measured_on(metric, name, given):
            return Lacking(f"it needs {missing_need(metric, name, given)}")
        if step_status(model.score, self.store) != "done":
            return Lacking(f"{model.key.label} could not be scored", absent=False)
        scored = self._scored(model.score)[name]
        if chain is not None:
            return self._attacked(model, name, metric, chain, variants, scored)
        values = scored.values(metric)
        return Measured(scored.scores.ids, scored.subjects, values, int((~scored.finite).sum()))

    def _attacked(
        self,
        model: PlannedModel,
        name: str,
        metric: str,
        chain: ChainConfig,
        variants: Literal["mean", "worst"],
        scored: ScoredSet,
    ) -> Measured | Lacking:
        planned = self._planned(model, chain)
        if planned is None:
            reasons = (reason for unmet, reason in self.plan.unmet if unmet.steps == chain.steps)
            return Lacking(next(reasons, f"the attack {chain.label} was not carried out"))
        if (status := step_status(planned.step, self.store)) != "done":
            message = self.store.outcome(planned.step).message if status != "skipped" else ""
            return Lacking(message or f"the attack {chain.label} could not be carried out", absent=False)
        if metric not in planned.step.measured:
            return Lacking(f"{metric!r} cannot be measured under the attack {chain.label}")
        found = self._variants(planned)
        ours = self._planned(self.model, chain)
        if model is not self.model and ours is not None and len(self._variants(ours)) != len(found):
            return Lacking(f"the attack {chain.label} has other variants on the retrained model", absent=False)
        asked = planned.step.sets[name]
        values = under_attack(chain.made(), found, planned.step.sets, name, metric, worst=variants == "worst")
        place = {identity: i for i, identity in enumerate(scored.scores.ids)}
        before = scored.values(metric)[[place[example.id] for example in asked]]
        lost = int((np.isnan(values) & ~np.isnan(before)).sum()) + int((~scored.finite).sum())
        return Measured(
            [example.id for example in asked],
            [example.subject for example in asked],
            values,
            lost,
            planned.chain.label,
        )

    def _planned(self, model: PlannedModel, chain: ChainConfig) -> PlannedAttack | None:
        asked = chain.steps
        return next((a for a in self.plan.attacks if a.model.key == model.key and a.chain.steps == asked), None)
