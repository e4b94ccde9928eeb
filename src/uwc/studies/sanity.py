"""Is there anything to compare? What the original model knows of the data, looked at as soon as it is scored."""

from uwc.calibration.calibrate import UNKNOWN
from uwc.calibration.measures import LITTLE, NEAR_ZERO, meaningless, ranking_metrics
from uwc.data.benchmark import FORGET
from uwc.errors import UserError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import NOT_FINITE, ScoredSet
from uwc.metrics.scoring import EXTRAS, needs_of
from uwc.studies.plan import Plan, scored_sets
from uwc.studies.store import Store


def require_retention(plan: Plan, store: Store) -> None:
    """Refuse to calibrate where the original, already scored, scores near 0 on a set that is held fixed, or where its
    logits are not finite.

    What was not scored yet, such as benchmarks, is looked at by the first calibration.

    Raises:
        UserError: it does; a share of its retention would mean nothing.
    """
    step = plan.step("score original")
    for name in scored_sets(plan.benchmark):
        finite = ScoredSet.load(store.folder(step.kind, step.key), name).finite
        if not finite.all():
            raise UserError(
                f"the original: {NOT_FINITE} on {(~finite).sum()} of {len(finite)} questions ({name}); load it in a "
                "higher precision, or leave these questions out"
            )
    for name, found, label in _kept(plan, store):
        if not found >= NEAR_ZERO:
            raise meaningless(found, f"the {name} data ({label})", needed=NEAR_ZERO)


def doubts(plan: Plan, store: Store) -> list[str]:
    """What makes a comparison of forgetting doubtful: data that the original, scored already, hardly knows."""
    told = []
    found, label = _score_of(FORGET, plan.config.calibration.ranked_by, plan, store)
    if not found >= UNKNOWN:
        told.append(
            f"The original model scores only {found:.3g} ({label}) on the forget data, so there is little to be "
            "forgotten; check the file and the prompt."
        )
    for name, found, label in _kept(plan, store):
        if not found >= LITTLE:
            told.append(
                f"The original model scores only {found:.3g} ({label}) on the {name} data, and a share of so little "
                f"says little; give {name} data that it knows, or hold another metric fixed."
            )
    return told


def _kept(plan: Plan, store: Store) -> list[tuple[str, float, str]]:
    """Each set held fixed, with the original's score on it and the metric's label, where that was scored and a low
    score means little knowledge."""
    config = plan.config.calibration
    if config.metric not in ranking_metrics():
        return []
    if needs_of([config.metric]) & EXTRAS and config.metric not in plan.config.score.metrics:
        return []
    return [(name, *_score_of(name, config.metric, plan, store)) for name in config.sets]


def _score_of(name: str, metric: str, plan: Plan, store: Store) -> tuple[float, str]:
    step = plan.step("score original")
    scored = ScoredSet.load(store.folder(step.kind, step.key), name)
    return scored.aggregate(metric).mean, str(metrics.get(metric).facts["label"])
