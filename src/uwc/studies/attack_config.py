"""The `attack:` section of a study: which attacks on which models, what is measured, and what the attacker has."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from uwc.attacks.chain import Chain, make_chain
from uwc.errors import ConfigError
from uwc.studies.section import MetricName, Section

ModelKind = Literal["unlearned", "calibrated", "original", "retrained"]
RANK_BY = "rank_by"
"""Among the metrics that attacks are measured by: the one that models are ranked by."""


class ChainConfig(Section):
    """One attack, or several that follow each other; in a file also as a word: ``relearn+probe``.

    Attributes:
        chain: the attacks' names, in the order in which they are carried out.
        name: what results call it; the attacks' names joined by ``+`` by default.
        settings: attack -> its settings, where they differ from the defaults.
    """

    chain: tuple[str, ...] = Field(min_length=1)
    name: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The chain's name in results."""
        return self.name or "+".join(self.chain)

    def made(self) -> Chain:
        """The chain, with complete settings."""
        return make_chain(self.chain, self.settings)

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, given: Any) -> Any:
        return _from_word(given)

    @model_validator(mode="after")
    def _makes_sense(self) -> "ChainConfig":
        for attack, given in self.settings.items():
            if attack not in self.chain or not isinstance(given, dict):
                raise ConfigError(
                    f"attack {self.label!r}: settings are given by attack, and {attack!r} = {given!r} is not; "
                    f"write {{{self.chain[0]}: {{setting: value}}}}; its attacks: {', '.join(self.chain)}"
                )
        self.made()
        return self


class AttackerConfig(Section):
    """What the attacker has; it is never scored.

    Attributes:
        forget_share: the share of the forget set's subjects that the attacker knows; the others are scored.
        retain_examples: how many retained examples the attacker has, spread over all; all if null.
        unrelated: the set that has nothing to do with either; the first further split of the benchmark if null.
        translations: a file with the columns ``question`` and ``translation``, for the attack `translation`.
    """

    forget_share: float = Field(0.2, ge=0, lt=1)
    retain_examples: int | None = Field(None, ge=1)
    unrelated: str | None = None
    translations: str | None = None


class AttackConfig(Section):
    """Attacks on the models of a study.

    Attributes:
        chains: the attacks.
        settings: attack -> its settings in every chain that has it; a chain's own settings go before.
        models: unlearned, calibrated, original, retrained; by default all unlearned models, the original and, where
            there is one, the retrained model, what is elicited from which is no leak.
        metrics: what is measured, among the study's; all of these by default. ``rank_by`` is the metric that models are
            ranked by, and, where an attack changes only how answers are generated, rouge_l too.
        sets: which sets of questions are scored under attack.
        examples: how many examples of each set, spread over all of it; all if null.
        attacker: what the attacker has.
    """

    chains: tuple[ChainConfig, ...] = Field(min_length=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    models: tuple[ModelKind, ...] | None = None
    metrics: tuple[MetricName, ...] | None = None
    sets: tuple[str, ...] = Field(("forget", "retain"), min_length=1)
    examples: int | None = Field(None, ge=2)
    attacker: AttackerConfig = AttackerConfig()

    @model_validator(mode="before")
    @classmethod
    def _settings_of_chains(cls, given: Any) -> Any:
        """The chains with the common settings of their attacks."""
        if not isinstance(given, dict) or not isinstance(common := given.get("settings"), dict):
            return given
        chains = given.get("chains")
        return {**given, "chains": [_with_settings(c, common) for c in chains]} if isinstance(chains, list) else given

    @model_validator(mode="after")
    def _settings_are_used(self) -> "AttackConfig":
        for attack in self.settings:
            if all(attack not in chain.chain for chain in self.chains):
                made = ", ".join(chain.label for chain in self.chains)
                raise ConfigError(
                    f"attack.settings: there are settings of {attack!r}, which is not among the attacks: {made}; "
                    "remove them"
                )
        return self

    @model_validator(mode="after")
    def _one_name_each(self) -> "AttackConfig":
        labels = [chain.label for chain in self.chains]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"attack: two attacks are called {label!r}; give each a 'name' of its own")
        return self

    def attacked_models(self, *, retrained: bool) -> tuple[ModelKind, ...]:
        """Which models are attacked. Raises ConfigError if the retrained model is, and there is none."""
        if self.models is None:
            return ("unlearned", "original", "retrained") if retrained else ("unlearned", "original")
        if "retrained" in self.models and not retrained:
            raise ConfigError(
                "attack: models names retrained, and the study has no retrained model; set retrained: true or its path"
            )
        return self.models

    def measured(self, scored: Sequence[str], *, visible: Sequence[str], ranked_by: str) -> tuple[str, ...]:
        """The metrics under attack: those that were named, else all that the study scores and that attacks can change.

        Args:
            scored: the metrics that the study scores.
            visible: those of them that can be measured under attack.
            ranked_by: the metric that models are ranked by.

        Raises:
            ConfigError: a named metric is not scored.
        """
        if self.metrics is None:
            return tuple(visible)
        named = [
            name for metric in self.metrics for name in ([metric] if metric != RANK_BY else self._ranking(ranked_by))
        ]
        for metric in named:
            if metric not in scored:
                raise ConfigError(
                    f"attack: the metric {metric!r} is not among score.metrics ({', '.join(scored)}), which give its "
                    "value before the attack; add it there"
                )
        return tuple(dict.fromkeys(named))

    def _ranking(self, ranked_by: str) -> list[str]:
        """What ``rank_by`` stands for."""
        changes_text = any(chain.made().steps[-1].entry.facts["kind"] == "decoding" for chain in self.chains)
        return [ranked_by, *(["rouge_l"] if changes_text else [])]


def _from_word(given: Any) -> Any:
    """``relearn+probe`` as a chain; what is no word as it is."""
    if isinstance(given, str):
        return {"chain": given.split("+")}
    if isinstance(given, dict) and isinstance(given.get("chain"), str):
        return {**given, "chain": given["chain"].split("+")}
    return given


def _with_settings(chain: Any, common: Mapping[str, Any]) -> Any:
    """A chain as a file has it, with the common settings of its attacks; what is not a chain as it is."""
    read = _from_word(chain)
    if not isinstance(read, dict) or not isinstance(read.get("chain"), list | tuple):
        return chain
    own = read.get("settings") or {}
    if not isinstance(own, dict):
        return chain
    both = {a: {**s, **own.get(a, {})} if isinstance(s, dict) else s for a, s in common.items() if a in read["chain"]}
    return {**read, "settings": {**own, **both}}
