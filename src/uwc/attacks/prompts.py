"""Attacks on prompts: jailbreaks, few-shot examples, paraphrases, translations and answer prefixes."""

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
    """Put each question into jailbreak prompts; one variant for each template.

    Args:
        target: the model.
        data: the scored examples.
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
)
def few_shot(
    target: Target, data: AttackData, *, shots: Annotated[int, Field(ge=1)] = 5, seed: int = 0
) -> Iterator[Attacked]:
    """Put solved questions before each question, as earlier turns of the conversation.

    Args:
        target: the model.
        data: the shots are from `train`, and from `retain` if that has too few.
        shots: their number.
        seed: of their choice and order, the same for all questions.
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
    """Ask the paraphrased questions of the data, which were not trained on."""
    yield Attacked(target.rewritten(lambda e: replace(e, question=e.paraphrased_question)))


def _check_translations(data: AttackData, _settings: Any) -> None:
    for example in data.scored:
        if example.id not in data.translations:
            raise DataError(
                f"the attack 'translation' needs a translation of every scored question; {example.id!r} has none"
            )


@attacks.register(
    "translation", source="arXiv:2411.12103", needs=("translations",), effort="", check=_check_translations, **_PROMPT
)
def translation(target: Target, data: AttackData) -> Iterator[Attacked]:
    """Ask the questions in another language, as translated by the user."""
    yield Attacked(target.rewritten(lambda e: replace(e, question=data.translations[e.id])))


@attacks.register("prefix", source="arXiv:2012.07805", needs=(), effort="tokens", check=None, **_PROMPT)
def prefix(target: Target, _data: AttackData, *, tokens: Annotated[int, Field(ge=1)] = 3) -> Iterator[Attacked]:
    """Append the first tokens of the answer to the prompt; only the rest is scored.

    Args:
        target: the model.
        tokens: their number; at least one token of the answer is scored.
    """

    def edit(e: EncodedExample) -> EncodedExample:
        return replace(e, start=min(e.start + tokens, max(e.end - 1, e.start)))

    yield Attacked(target.edited(edit), effort=tokens)
