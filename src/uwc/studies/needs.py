"""The metrics and attacks that the policies of a study need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from uwc.attacks.evaluate import check_metrics
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.suites import Given, measured_on
from uwc.names import LONGEST
from uwc.studies.config import StudyConfig
from uwc.studies.policy import Policy, Requirement
from uwc.studies.sections import AttackConfig, ChainConfig


@dataclass(frozen=True)
class ChosenAttack:
    """An attack of a study with the metrics that policies need under it.

    Attributes:
        chain: the attack.
        own: whether the study names it itself, and not only a policy.
        metrics: the metrics of the policies.
    """

    chain: ChainConfig
    own: bool
    metrics: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether it needs forget questions of the attacker's."""
        return any("train" in step.entry.facts["needs"] for step in self.chain.made().steps)


def requirements(config: StudyConfig, given: Given) -> Iterator[tuple[Policy, Requirement]]:
    """The requirements of a study's policies that can be measured: their set is given, and meets the metric's needs."""
    for policy in config.check:
        for requirement in policy.requirements:
            if requirement.set in given.sets and measured_on(requirement.metric, requirement.set, given):
                yield policy, requirement


def needed_metrics(config: StudyConfig, given: Given) -> list[str]:
    """The metrics of these requirements."""
    return list(dict.fromkeys(requirement.metric for _, requirement in requirements(config, given)))


def chosen_attacks(config: StudyConfig, given: Given) -> list[ChosenAttack]:
    """The attacks of a study, then those that only its policies need; one that does what another does is left out.

    A policy's attack with the name of another one gets the policy's name behind it.
    """
    found = [ChosenAttack(chain, True) for chain in (config.attack.chains if config.attack else ())]
    for policy, requirement in requirements(config, given):
        asked = requirement.chain
        if asked is None:
            continue
        place = next((i for i, f in enumerate(found) if f.chain.steps == asked.steps), None)
        if place is None:
            place = len(found)
            name = _free_name(asked.label, policy.name, {f.chain.label for f in found})
            found.append(ChosenAttack(asked.model_copy(update={"name": name}), False))
        same = found[place]
        metrics = tuple(dict.fromkeys([*same.metrics, requirement.metric]))
        found[place] = ChosenAttack(same.chain, same.own, metrics)
    return found


def _free_name(label: str, policy: str, taken: set[str]) -> str:
    """The label of an attack; if it is taken with the policy's name, and a number if that is taken too."""
    name, count = label, 1
    while name in taken:
        end = f" ({policy})" if count == 1 else f" ({policy} {count})"
        name, count = f"{label[: LONGEST - len(end)]}{end}", count + 1
    return name


def attack_section(config: StudyConfig, given: Given) -> AttackConfig | None:
    """The section `attack` of a study with what its policies need: their sets, the models as delivered, the control.

    None for a study without attacks. Where only policies have attacks, the attacker has forget questions only if one of
    them needs some, so that as many as possible are scored.
    """
    own = config.attack
    attacked = [r for _, r in requirements(config, given) if r.chain is not None]
    if not attacked:
        return own if own and own.chains else None
    base = own or AttackConfig(chains=())
    control = any(r.relative_to == "control" for r in attacked) and bool(config.retrained)
    models = base.attacked_models(retrained=bool(config.retrained)) if own else ()
    changes: dict[str, Any] = {
        "sets": tuple(dict.fromkeys([*(base.sets if base.chains else ()), *(r.set for r in attacked)])),
        "models": tuple(dict.fromkeys([*models, "unlearned", *(["retrained"] if control else [])])),
    }
    chosen = chosen_attacks(config, given)
    if all(not c.own and not c.trains for c in chosen) and "forget_share" not in base.attacker.model_fields_set:
        changes["attacker"] = base.attacker.model_copy(update={"forget_share": 0.0})
    return base.model_copy(update=changes)


def measurable(attack: ChosenAttack, scored: Sequence[Example]) -> list[str]:
    """The metrics of policies that can be computed under their attack."""
    found = []
    for name in attack.metrics:
        try:
            check_metrics([name], [attack.chain.made()], examples=scored, reference=True)
        except ConfigError:
            continue
        found.append(name)
    return found
