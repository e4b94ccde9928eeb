"""`uwc.attack` with the arguments that the command gives."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from uwc import api
from uwc.attacks.data import AttackData, Attacker
from uwc.results import AttackResults
from uwc.robustness.points import points_of as points

__all__ = ["attack", "attack_curve", "points"]


def attack(
    model: Any,
    data: AttackData,
    attacks: Sequence[str],
    *,
    of_set: str = "forget",
    template: Any = None,
    **options: Any,
) -> AttackResults:
    """See `uwc.attack`."""
    return api.attack(model, {of_set: data.scored}, attacks, attacker=_attacker(data), prompt=template, **options)


def attack_curve(
    model: Any,
    data: AttackData,
    attack: str,
    efforts: Sequence[float],
    *,
    settings: Any = None,
    template: Any = None,
    **options: Any,
) -> AttackResults:
    """See `uwc.api.attack_curve`."""
    api.require_used(settings or {}, [attack])
    own = (settings or {}).get(attack)
    options |= {"attacker": _attacker(data), "settings": own, "prompt": template}
    return api.attack_curve(model, data.scored, attack, efforts, **options)


def _attacker(data: AttackData) -> Attacker:
    return Attacker(**{f.name: getattr(data, f.name) for f in fields(Attacker)})
