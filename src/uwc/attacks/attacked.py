"""What an attack yields: a target, and which variant of the attack it is."""

import copy
from dataclasses import dataclass, replace

from uwc.models.lora import merge_adapter
from uwc.models.target import Target
from uwc.models.ties import require_unquantised


@dataclass(frozen=True)
class Attacked:
    """A target under attack.

    Attributes:
        target: what is scored; valid until the attack is asked for the next one.
        label: which variant of the attack this is (a template, a depth, a budget); ``""`` if there is only one.
        effort: the attacker's effort, in the unit of the attack's effort setting; None where it has none.
        note: what the attack found, such as an adversarial suffix.
    """

    target: Target
    label: str = ""
    effort: float | None = None
    note: str = ""


def with_own_weights(target: Target) -> Target:
    """The same target with a copy of the weights, which may be trained; an adapter is merged into it.

    Holds the model twice in memory. Raises ModelError if it is quantised, or the adapter cannot be merged.
    """
    require_unquantised(target.model, target.name)
    plain = merge_adapter(replace(target, model=copy.deepcopy(target.model)))
    return replace(plain, model=plain.model.requires_grad_(True))
