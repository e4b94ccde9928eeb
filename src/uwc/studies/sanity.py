"""Is there anything to compare? What the original model knows of the data, looked at as soon as it is scored."""

from uwc.data.benchmark import FORGET
from uwc.errors import UserError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import ScoredSet
from uwc.studies.plan import Plan, Step
from uwc.studies.store import Store

NOTHING_KEPT = 0.05
"""A retention below which a share of it means nothing."""
LITTLE_KNOWN = 0.1
"""A forget score of the original below which there is little to be forgotten."""


def require_retention(plan: Plan, store: Store) -> None:
    """Refuse to calibrate where the original, already scored, scores near 0 on the retain set.

    Raises:
        UserError: it does; a share of its retention would mean nothing.
    """
    found, label = _score_of(plan.step("score original"), "retain", plan, store)
    if not found >= NOTHING_KEPT:
        raise UserError(
            f"calibration is meaningless: the original model itself scores {found:.3g} ({label}) on the retain data, "
            f"and at least {NOTHING_KEPT:g} is needed; give retain data that it knows, the prompt it was trained with, "
            "or another retention metric"
        )


def doubts(plan: Plan, store: Store) -> list[str]:
    """What makes a comparison of forgetting doubtful: forget data that the original, already scored, hardly knows."""
    found, label = _score_of(plan.step("score original"), FORGET, plan, store)
    if found >= LITTLE_KNOWN:
        return []
    return [
        f"The original model scores only {found:.3g} ({label}) on the forget data, so there is little to be forgotten; "
        "check the file and the prompt."
    ]


def _score_of(step: Step, name: str, plan: Plan, store: Store) -> tuple[float, str]:
    metric = plan.config.calibrate.metric
    scored = ScoredSet.load(store.folder(step.kind, step.key), name)
    return scored.aggregate(metric).mean, str(metrics.get(metric).facts["label"])
