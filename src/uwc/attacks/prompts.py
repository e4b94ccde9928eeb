"""Attacks that only ask otherwise: jailbreaks, in-context examples, other words, another language, a first word."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from uwc.attacks.attacked import Attacked
from uwc.attacks.data import AttackData
from uwc.attacks.jailbreak_templates import TEMPLATES, Template
from uwc.attacks.registry import attacks
from uwc.data.example import Example, after_shots
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, DataError
from uwc.models.target import Target

_PROMPT = {"kind": "prompt", "touches_weights": False, "budgets": False, "trains_on_scored": False}
_KINDS = tuple(dict.fromkeys(t.kind for t in TEMPLATES))


def _check_kinds(_data: AttackData, settings: Any) -> None:
    for kind in settings["kinds"]:
        if kind not in _KINDS:
            raise ConfigError(f"attack 'jailbreak': kinds: unknown kind {kind!r}; valid: {', '.join(_KINDS)}")


@attacks.register(
    "jailbreak", source="arXiv:2307.02483, arXiv:2406.09179", needs=(), effort="", check=_check_kinds, **_PROMPT
)
def jailbreak(target: Target, data: AttackData, *, kinds: tuple[str, ...] = ()) -> Iterator[Attacked]:
    """Put each question in prompts made to break refusals; one variant for each template.

    Args:
        target: the model.
        data: what is scored.
        kinds: the kinds of template to use; all if empty.
    """
    for template in TEMPLATES:
        if not kinds or template.kind in kinds:
            yield Attacked(_jailbroken(target, template), label=template.name)


def _jailbroken(target: Target, template: Template) -> Target:
    def ask(e: Example) -> Example:
        return replace(e, question=template.text.replace("{question}", e.question), prefill=template.lead)

    return target.rewritten(ask)


def _check_shots(data: AttackData, settings: Any) -> None:
    there = len(data.train) + len(data.retain)
    if there < settings["shots"]:
        raise DataError(
            f"the attack 'few_shot' needs {settings['shots']} examples, and the attacker has {there}; "
            "give more (--attacker-data, --retain) or set few_shot.shots lower"
        )


@attacks.register(
    "few_shot", source="arXiv:2411.12103", needs=("train|retain",), effort="shots", check=_check_shots, **_PROMPT
)  # fmt: skip
def few_shot(
    target: Target, data: AttackData, *, shots: Annotated[int, Field(ge=1)] = 5, seed: int = 0
) -> Iterator[Attacked]:
    """Put solved questions before each question, as earlier turns of the conversation.

    Args:
        target: the model.
        data: the shots come from `train`, and from `retain` where that has too few.
        shots: how many.
        seed: of their choice and order; all questions get the same.
    """
    rng = np.random.default_rng(seed)
    pool: list[Example] = [part[i] for part in (data.train, data.retain) for i in rng.permutation(len(part))]
    yield Attacked(target.rewritten(after_shots(pool[:shots])), effort=shots)


def _check_paraphrases(data: AttackData, _settings: Any) -> None:
    for example in data.scored:
        if not example.paraphrased_question:
            raise DataError(
                f"the attack 'paraphrase' needs a paraphrased question for every scored example; {example.id!r} has "
                "none: give the questions a column paraphrased_question"
            )


@attacks.register("paraphrase", source="arXiv:2406.09179", needs=(), effort="", check=_check_paraphrases, **_PROMPT)
def paraphrase(target: Target, _data: AttackData) -> Iterator[Attacked]:
    """Ask in words never trained on, given by the data; the answer is the same."""
    yield Attacked(target.rewritten(lambda e: replace(e, question=e.paraphrased_question)))


def _check_translations(data: AttackData, _settings: Any) -> None:
    for example in data.scored:
        if example.id not in data.translations:
            raise DataError(
                f"the attack 'translation' needs a translation of every scored question; {example.id!r} has none"
            )


@attacks.register(
    "translation", source="arXiv:2411.12103", needs=("translations",), effort="", check=_check_translations, **_PROMPT
)  # fmt: skip
def translation(target: Target, data: AttackData) -> Iterator[Attacked]:
    """Ask in another language, in the user's translation; the answer is the same."""
    yield Attacked(target.rewritten(lambda e: replace(e, question=data.translations[e.id])))


@attacks.register("prefix", source="arXiv:2012.07805", needs=(), effort="tokens", check=None, **_PROMPT)
def prefix(target: Target, _data: AttackData, *, tokens: Annotated[int, Field(ge=1)] = 3) -> Iterator[Attacked]:
    """Give away the first tokens of the answer; the rest alone is scored.

    Args:
        target: the model.
        tokens: how many; the last token of a shorter answer is always left to the model.
    """

    def edit(e: EncodedExample) -> EncodedExample:
        return replace(e, start=min(e.start + tokens, max(e.end - 1, e.start)))

    yield Attacked(target.edited(edit), effort=tokens)
