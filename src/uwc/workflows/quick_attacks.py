"""The attacks of a comparison: a quick set by default, or those a user names, as the `attack:` section of a study."""

from collections.abc import Mapping, Sequence
from typing import Any

from uwc.attacks.chain import make_chain
from uwc.errors import ConfigError

QUICK: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "jailbreak": {},
    "token_noise": {},
    "relearn": {"relearn": {"steps": 20}},
}
"""Attack -> its settings: other words around the question, noise in it, and a little training on a few subjects."""


def attack_section(
    attacks: Sequence[str] | None,
    settings: Mapping[str, Mapping[str, Any]],
    *,
    metric: str,
    examples: int | None,
    models: Sequence[str],
) -> dict[str, Any] | None:
    """The section, or None where nothing is to be attacked.

    Args:
        attacks: chains such as ``"relearn+probe"``; None takes the quick set, an empty list none.
        settings: attack -> setting -> value, for every chain that has the attack.
        metric: what is measured under attack; generated answers too where an attack changes only these.
        examples: how many forget questions are scored under attack; all if None.
        models: which kinds of models are attacked; what is elicited from the retrained model is no leak.

    Raises:
        ConfigError: an unknown attack or setting, or settings of an attack that is not made.
    """
    quick = attacks is None
    chains = [
        (name.split("+"), {a: dict(s) for a, s in (QUICK.get(name, {}) if quick else {}).items()})
        for name in (QUICK if attacks is None else attacks)
    ]
    for attack, given in settings.items():
        using = [own for names, own in chains if attack in names]
        if not using:
            made = ", ".join("+".join(names) for names, _ in chains) or "none"
            raise ConfigError(f"settings are given for the attack {attack!r}, which is not made; made are: {made}")
        for own in using:
            own[attack] = {**own.get(attack, {}), **given}
    if not chains:
        return None
    changes_text = any(make_chain(names, own).steps[-1].entry.facts["kind"] == "decoding" for names, own in chains)
    return {
        "chains": [{"chain": names, "settings": own} for names, own in chains],
        "models": list(models),
        "metrics": [metric, *(["rouge_l"] if changes_text else [])],
        "sets": ["forget"],
        "examples": examples,
    }
