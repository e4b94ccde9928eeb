"""What an attack yields: a target, and which variant of the attack it is."""

import copy
from dataclasses import dataclass, replace

from uwc.models.target import Target


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
    """The same target with a copy of the weights, which may be trained. Holds the model twice in memory."""
    return replace(target, model=copy.deepcopy(target.model).requires_grad_(True))
