"""Budget curves: recovery against the attacker's effort."""

from collections.abc import Mapping, Sequence
from typing import Any

from uwc.attacks.chain import make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.attacks.registry import attacks
from uwc.errors import ConfigError
from uwc.models.target import Target
from uwc.results import BudgetCurve, ModelKey

MODEL = ModelKey(role="unlearned")


def budget_curve(
    target: Target,
    data: AttackData,
    attack: str,
    efforts: Sequence[float],
    *,
    model: ModelKey = MODEL,
    settings: Mapping[str, Any] | None = None,
    over: str | None = None,
    metric: str = "extraction_strength",
    original_score: float | None = None,
    max_new_tokens: int = 64,
    reference: Target | None = None,
) -> BudgetCurve:
    """Score an attack at several efforts; relearning and GCG share one run over their steps.

    Args:
        target: the model; not changed.
        data: the scored examples, and the attacker's.
        attack: a registered attack.
        efforts: the values of its effort, such as steps, in any order.
        model: the model's name in results.
        settings: its other settings.
        over: another setting to vary, such as ``examples`` in relearning (data efficiency).
        metric: the metric; `half_effort` needs one for which high means 'remembers'.
        original_score: the metric of the original model on the same examples.
        max_new_tokens: the most tokens of a generated answer.
        reference: the original model, for metrics that compare with it.

    Raises:
        ConfigError: the attack has no effort, or no such setting, or no effort is given.
    """
    setting, chains = curve_chains(attack, efforts, settings=settings, over=over)
    scores: list[float] = []
    before = float("nan")
    for chain in chains:
        (outcome,) = measure(target, data, chain, [metric], max_new_tokens=max_new_tokens, reference=reference)
        before = outcome.before.mean
        if len(chains) < len(set(efforts)):
            scores = [variant.mean for variant in outcome.variants]
        else:
            scores.append((outcome.worst_case or outcome.after).mean)
    ordered = tuple(sorted(set(efforts)))
    half = None if original_score is None else effort_to_reach(original_score / 2, before, ordered, scores)
    return BudgetCurve(
        model=model,
        attack=attack,
        over=setting,
        metric=metric,
        before=before,
        efforts=ordered,
        scores=tuple(scores),
        half_effort=half,
    )


def curve_chains(
    attack: str, efforts: Sequence[float], *, settings: Mapping[str, Any] | None = None, over: str | None = None
) -> tuple[str, list[Any]]:
    """The setting that a curve varies, and its runs: one for all efforts, or one for each.

    Raises:
        ConfigError: the attack has no effort, or no such setting, or no effort is given.
    """
    entry = attacks.get(attack)
    setting = over or entry.facts["effort"]
    if not setting:
        varied = [e.name for e in attacks if e.facts["effort"]]
        raise ConfigError(f"the attack {attack!r} has no effort to vary; give a setting, or one of {', '.join(varied)}")
    if not efforts:
        raise ConfigError("a curve needs at least one effort")
    ordered = sorted(set(efforts))
    if entry.facts["budgets"] and setting == "steps":
        merged = {**(settings or {}), "budgets": ordered, "steps": ordered[-1]}
        return setting, [make_chain(attack, {attack: merged})]
    return setting, [make_chain(attack, {attack: {**(settings or {}), setting: e}}) for e in ordered]


def effort_to_reach(threshold: float, before: float, efforts: Sequence[float], scores: Sequence[float]) -> float | None:
    """The least effort at which the score reaches the threshold, interpolated linearly from effort 0.

    Args:
        threshold: the score to reach.
        before: the score at effort 0.
        efforts: ascending.
        scores: the score at each.

    Returns:
        0 if the score before reaches it, None if no effort does.
    """
    if before >= threshold:
        return 0.0
    xs, ys = [0.0, *efforts], [before, *scores]
    for i in range(1, len(xs)):
        if ys[i] >= threshold:
            share = (threshold - ys[i - 1]) / (ys[i] - ys[i - 1])
            return float(xs[i - 1] + share * (xs[i] - xs[i - 1]))
    return None
