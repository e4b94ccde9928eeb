"""Is there anything to compare? What the original model knows of the data, looked at as soon as it is scored."""

from uwc.calibration.calibrate import UNKNOWN
from uwc.calibration.retention import LITTLE, NEAR_ZERO
from uwc.data.benchmark import FORGET
from uwc.errors import UserError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.studies.plan import Plan, Step
from uwc.studies.store import Store


def require_retention(plan: Plan, store: Store) -> None:
    """Refuse to calibrate where the original, already scored, scores near 0 on the retain set.

    Raises:
        UserError: it does; a share of its retention would mean nothing.
    """
    found, label = _score_of(plan.step("score original"), "retain", plan, store)
    if not found >= NEAR_ZERO:
        raise UserError(
            f"calibration is meaningless: the original model itself scores {found:.3g} ({label}) on the retain data, "
            f"and at least {NEAR_ZERO:g} is needed; give retain data that it knows, the prompt it was trained with, "
            "or another retention metric"
        )


def doubts(plan: Plan, store: Store) -> list[str]:
    """What makes a comparison of forgetting doubtful: data that the original, scored already, hardly knows."""
    step, told = plan.step("score original"), []
    found, label = _score_of(step, FORGET, plan, store)
    if not found >= UNKNOWN:
        told.append(
            f"The original model scores only {found:.3g} ({label}) on the forget data, so there is little to be "
            "forgotten; check the file and the prompt."
        )
    found, label = _score_of(step, "retain", plan, store)
    if not found >= LITTLE:
        told.append(
            f"The original model scores only {found:.3g} ({label}) on the retain data, and a share of so little says "
            "little; give retain data that it knows, or hold another metric fixed."
        )
    return told


def _score_of(step: Step, name: str, plan: Plan, store: Store) -> tuple[float, str]:
    metric = plan.config.calibration.metric
    scored = ScoredSet.load(store.folder(step.kind, step.key), name)
    return scored.aggregate(metric).mean, str(metrics.get(metric).facts["label"])
