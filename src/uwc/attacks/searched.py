"""The strongest attack within a budget as an attack, so that it can be measured, compared and required as any other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from uwc.attacks.chain import Attacked, attacked
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import check_metrics
from uwc.attacks.registry import attacks
from uwc.attacks.strongest import Budget, Candidate, Search, candidates, every_attack, own_part, tried_entries
from uwc.errors import AttackFailed, DataError
from uwc.metrics.registry import metrics
from uwc.models.model import Model
from uwc.registry import Entry

Positive = Annotated[float, Field(gt=0)]


def tried_with(data: AttackData, settings: Mapping[str, Any]) -> tuple[AttackData, list[Candidate]]:
    """The attacker's data as the attack that is chosen has them, and the attacks to choose from."""
    (fold,) = own_part(data.train, data.scored, seed=settings["seed"])
    owned = replace(data, train=fold.train, forget=())
    if settings["attacks"]:
        return owned, candidates(settings["attacks"])
    return owned, every_attack(owned, settings["metric"])


def _check(data: AttackData, settings: Mapping[str, Any]) -> None:
    metrics.get(settings["metric"])
    owned, tried = tried_with(data, settings)
    if not tried:
        raise DataError(
            "the attack 'strongest' has no attack to choose from; give the attacker more data (--attacker-data, "
            "--retain)"
        )
    check_metrics([settings["metric"]], [c.chain for c in tried], examples=data.train)
    for candidate in tried:
        candidate.chain.check_data(owned)


def _used(settings: Mapping[str, Any]) -> list[Entry[Any]]:
    """The attacks from which it chooses, and the metric by which it does."""
    return [*tried_entries(settings["attacks"]), metrics.get(settings["metric"])]


@attacks.register(
    "strongest",
    source="arXiv:1603.06560",
    kind="inside",
    touches_weights=True,
    needs=("train",),
    effort="runs",
    budgets=False,
    check=_check,
    uses=_used,
    trains_on_scored=False,
    rewords=False,
    in_search=False,
)
def strongest(
    model: Model,
    data: AttackData,
    *,
    runs: Positive = 20.0,
    minutes: Positive | None = None,
    attacks: tuple[str, ...] = (),
    metric: str = "extraction_strength",
    max_new_tokens: Annotated[int, Field(ge=1)] = 64,
    seed: int = 0,
) -> Iterator[Attacked]:
    """The strongest of many attacks within a budget, chosen by successive halving: the attacker trains on half of the
    subjects of its part, and chooses by the score on the other half; see `uwc.strongest_attack`.

    The scored questions have no part in the choice, so that their intervals hold for it. The control is searched too.

    Args:
        model: the model.
        data: the attacker's data.
        runs: the budget: the effort of so many complete attacks.
        minutes: the budget in minutes instead; the results then depend on the machine.
        attacks: attacks and chains to choose from; all that the data and the metric admit by default.
        metric: by which the attack is chosen.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the division of the attacker's part, and of the order of the attacks.

    Raises:
        DataError: the attacker's part is of one subject.
        AttackFailed: every attack failed.
    """
    owned, tried = tried_with(data, {"seed": seed, "attacks": attacks, "metric": metric})
    folds = own_part(data.train, data.scored, seed=seed)
    budget = Budget(runs=runs) if minutes is None else Budget(minutes=minutes)
    search = Search(model, owned, folds, tried, metric, budget, max_new_tokens, seed)
    best = search.choose()[0].best()
    with attacked(model, owned, search.chain(best)) as variants:
        for variant in variants:
            if variant.label == best.variant.label:
                yield replace(variant, label="", effort=runs if minutes is None else minutes, note=search.name(best))
                return
    raise AttackFailed(
        f"the attack {search.name(best)!r} has no variant {best.variant.label!r} on all questions; name others to "
        "choose from (attacks of 'strongest')"
    )
