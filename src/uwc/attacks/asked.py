"""Attacks on a system that only answers: how they put each question, and how they draw answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from uwc.attacks.chain import Chain, Step, attacked
from uwc.attacks.data import AttackData
from uwc.attacks.decoding import draws, sample_label, sampling
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.models.endpoint import Draw, Request
from uwc.models.model import Model

if TYPE_CHECKING:
    import torch

Ask = Callable[[Sequence[Request]], Sequence[str]]
"""Requests -> the texts of the answers."""


@dataclass(frozen=True)
class TextVariant:
    """One variant of an attack on a system that only answers.

    Attributes:
        label: the variant (a template, a sample); ``""`` if there is only one.
        examples: [E] the scored questions as the attack puts them.
        draw: how answers are sampled; None if they are not.
        note: a finding of the attack.
    """

    label: str
    examples: Sequence[Example]
    draw: Draw | None = None
    note: str = ""


def text_variants(chain: Chain, data: AttackData, ask: Ask | None = None) -> list[TextVariant]:
    """The variants of an attack that needs no weights.

    The attacks are those that models in memory are under, and rewrite the same questions: they get a model without
    weights and tokenizer, and one that asks for these is refused.

    Args:
        chain: the attack.
        data: the scored questions, and the attacker's.
        ask: gives the answers that an attack reads between its questions. Without it nothing is asked: an attack that
            reads answers then leaves the questions as they are, and has one variant.

    Raises:
        ConfigError: an attack needs the model's weights, its tokenizer, or a decoding that the protocol does not have.
        DataError: data that an attack needs is missing.
        AttackFailed: it changes no prompt.
    """
    require_text_attacks(chain)
    chain.check_data(data)
    drawn = [step for step in chain.steps if step.entry.facts["kind"] == "decoding"]
    asked = Chain(tuple(step for step in chain.steps if step not in drawn))
    if ask is None:
        asked = Chain(tuple(step for step in asked.steps if not _reads_answers(step, data)))
    variants = _variants(asked, data, ask)
    for step in drawn:
        variants = [
            replace(variant, label=", ".join(filter(None, (variant.label, sample_label(draw)))), draw=draw)
            for variant in variants
            for draw in draws(**step.settings)
        ]
    return variants


def _variants(chain: Chain, data: AttackData, ask: Ask | None) -> list[TextVariant]:
    missing = _Missing(chain.name)
    variants: list[TextVariant] = []
    with attacked(_WithoutWeights(missing, missing, name="endpoint", ask=ask), data, chain) as offered:
        for variant in offered:
            if not isinstance(variant.model, _WithoutWeights) or variant.model.model is not missing:
                raise missing.error
            variants.append(TextVariant(variant.label, variant.model.inputs(data.scored), note=variant.note))
    return variants


def _reads_answers(step: Step, data: AttackData) -> bool:
    """Whether an attack reads answers of the model before it puts the scored questions."""
    try:
        _variants(Chain((step,)), data, None)
    except _NotAsked:
        return True
    return False


def require_text_attacks(chain: Chain) -> None:
    """Raise ConfigError for an attack that cannot be carried out on a system that only answers."""
    for step in chain.steps:
        name, kind = step.entry.name, step.entry.facts["kind"]
        if kind in ("weights", "inside"):
            raise _Missing(name).error
        if (rule := step.settings.get("select", "random")) != "random":
            raise ConfigError(
                f"the attack {name!r}: select: {rule} reads the model's likelihoods, which an endpoint does not give; "
                "take select: random"
            )
        if (check := step.entry.facts.get("check_answers")) is not None:
            check(step.settings)
        if kind == "decoding" and step.entry.function is not sampling:
            raise ConfigError(
                f"the attack {name!r} needs the model's weights: the protocol of endpoints has no such decoding; take "
                "'sampling'"
            )


def needs_no_weights(chain: Chain) -> bool:
    """Whether an attack is on questions or on sampling only, as is found out on made-up questions."""
    made_up = [Example(id=str(i), question=f"{i}?", answer=f"{i}", paraphrased_question=f"{i}, or?") for i in range(64)]
    data = AttackData(
        made_up[:1], train=made_up[1:33], retain=made_up[33:], translations={"0": "¿0?"}, questions={"": {"0": "Zero?"}}
    )
    try:
        text_variants(chain, data)
    except ConfigError:
        return False
    except UserError:  # it lacks other data, which is found out on the true questions
        return True
    return True


class _NotAsked(Exception):
    """Answers are needed, and nothing is to be asked."""


@dataclass(frozen=True)
class _WithoutWeights(Model):
    """A model of which only the questions are known, as its attacks rewrite them, and what it answers."""

    ask: Ask | None = None

    @property
    def device(self) -> "torch.device":
        """Where other models compute that an attack asks, such as a judge."""
        from uwc.models.load import pick_device

        return pick_device()

    def inputs(self, examples: Sequence[Example]) -> list[Example]:
        """The rewritten questions."""
        if self.edits:
            raise self.model.error
        return self.rewrite(examples)

    def answers(self, examples: Sequence[Example], *, max_new_tokens: int, draw: Draw | None = None) -> tuple[str, ...]:
        """The system's answers to the rewritten questions."""
        if self.ask is None:
            raise _NotAsked
        return tuple(self.ask([Request(e, draw, max_new_tokens=max_new_tokens) for e in self.inputs(examples)]))


class _Missing:
    """What an endpoint does not give: any use of it is an error."""

    def __init__(self, attack: str) -> None:
        self.error = ConfigError(
            f"the attack {attack!r} needs the model's weights or tokenizer, which an endpoint does not give; these "
            f"need neither: {', '.join(_EXAMPLES)}"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.error

    def __call__(self, *args: Any, **options: Any) -> Any:
        raise self.error


_EXAMPLES = ("jailbreak", "few_shot", "paraphrase", "translation", "rewritten", "self_correction", "sampling")
