"""Texts of a system behind an endpoint: its answers to all questions, and those under attacks."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uwc import progress
from uwc.attacks.asked import TextVariant, text_variants
from uwc.attacks.chain import Chain
from uwc.attacks.data import AttackData, Attacker
from uwc.attacks.registry import attack_name, attacks
from uwc.data.example import Example
from uwc.data.outputs import Outputs, SystemTexts, VariantTexts
from uwc.data.question_files import examples_of
from uwc.data.rows import FIELDS
from uwc.errors import ConfigError, DataError
from uwc.io import file_digest, require_writable, write_text
from uwc.models.endpoint import Answer, Conversation, Endpoint, Request, StoredAnswers
from uwc.results import FORGET, Warning
from uwc.studies.sections import ChainConfig, first_problem

ANSWERS = "endpoint_answers.jsonl"
"""The file of all answers of an endpoint, from which an interrupted run resumes."""
OUTPUTS = "outputs.jsonl"
"""The file of questions and texts that ``--outputs`` reads; those under an attack are in ``under-ATTACK.jsonl``."""

Sets = Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class Asked:
    """A system that is asked through an endpoint.

    Attributes:
        endpoint: the endpoint.
        attacks: name -> attack, on questions or on sampling, to which the questions to forget are put.
        attacker: the attacker's data; as retained examples by default the set "retain".
        folder: keeps each answer as soon as it is there, so that an interrupted run resumes, and all texts at the end;
            None keeps nothing.
        sleep: waits for a number of seconds between retries, in place of a real clock.
    """

    endpoint: Endpoint
    attacks: Mapping[str, Chain] = field(default_factory=dict)
    attacker: Attacker = field(default_factory=Attacker)
    folder: Path | None = None
    sleep: Callable[[float], None] | None = None

    @property
    def name(self) -> str:
        """What results call it."""
        return self.endpoint.name

    @property
    def owns_data(self) -> bool:
        """Whether the attacker has data of its own, which the command ``uwc check`` cannot name."""
        parts = (getattr(self.attacker, f.name) for f in fields(self.attacker))
        return any(isinstance(part, str | Path) or len(part) > 0 for part in parts)

    def options(self, names: Collection[str]) -> list[str]:
        """The options of the command line for the endpoint and some attacks, with all settings that differ."""
        words = ["--endpoint", self.endpoint.url, "--model", self.endpoint.model]
        plain = Endpoint(self.endpoint.url, self.endpoint.model)
        pairs = [(f.name, getattr(self.endpoint, f.name), getattr(plain, f.name)) for f in fields(Endpoint)]
        changed = {f"endpoint.{name}": value for name, value, default in pairs if value != default}
        for chain in (self.attacks[name] for name in names if name in self.attacks):
            words += ["--attack", chain.name]
            for step in chain.steps:
                defaults = attacks.check(step.entry.name, {})
                changed |= {
                    f"attack.settings.{step.entry.name}.{key}": value
                    for key, value in step.settings.items()
                    if value != defaults[key]
                }
        return [*words, *(w for key, value in changed.items() for w in ("--set", f"{key}={json.dumps(value)}"))]

    def empty(self, sets: Sets) -> SystemTexts:
        """Empty texts in place of the answers, with which everything is checked before anything is asked.

        Raises:
            ConfigError: an attack needs the model's weights, or a text at the beginning of the model's turn, which chat
                completions do not take.
            DataError: data that an attack needs is missing.
        """
        variants = {name: text_variants(chain, data) for name, (chain, data) in self._attacked(sets).items()}
        if self.endpoint.chat is True:
            for name, of_attack in variants.items():
                _in_chat(name, of_attack)
        under = {
            name: {FORGET: tuple(VariantTexts(v.label, ("",) * len(v.examples)) for v in of_attack)}
            for name, of_attack in variants.items()
        }
        return SystemTexts(
            self.name, "endpoint", sets, {name: ("",) * len(examples) for name, examples in sets.items()}, under=under
        )

    def collect(self, sets: Sets) -> SystemTexts:
        """Ask all questions of all sets, and those of the forget set under each attack.

        Args:
            sets: set -> its questions.

        Raises:
            EndpointError: the server refuses a request, or a request fails after all retries.
            UserError: as `empty`.
        """
        attacks = self._attacked(sets)
        unasked = {name: text_variants(chain, data) for name, (chain, data) in attacks.items()}
        if self.folder is not None:
            require_writable(self.folder, ANSWERS, OUTPUTS)
        answers = StoredAnswers(None if self.folder is None else self.folder / ANSWERS)
        with closing(Conversation(self.endpoint, answers, sleep=self.sleep)) as conversation:
            said: list[Answer] = []

            def ask(what: str, requests: Sequence[Request]) -> list[Answer]:
                found = conversation.ask(requests, what)
                said.extend(found)
                return found

            def texts_of(what: str, requests: Sequence[Request]) -> list[str]:
                return [answer.text for answer in ask(what, requests)]

            questions = [Request(e) for examples in sets.values() for e in examples]
            doubtful = [name for name, of_attack in unasked.items() if not _without_prefill(of_attack)]
            unsure = bool(doubtful) and self.endpoint.chat == "auto"  # the first answer shows whether there is a chat
            first = ask(f"ask {self.endpoint.model}", questions[:1]) if unsure else []
            for name in doubtful if conversation.chat else ():
                _in_chat(name, unasked[name])
            rest = ask(f"ask {self.endpoint.model}", questions[len(first) :])
            texts = _by_question(conversation, sets, [*first, *rest])
            warnings: list[Warning] = []
            under = {}
            for name, (chain, data) in attacks.items():
                what = f"{self.endpoint.model} under {name}"
                of_attack = text_variants(chain, data, partial(texts_of, what))
                if conversation.chat:
                    of_attack, left_out = _in_chat(name, of_attack)
                    warnings += left_out
                requests = [Request(e, variant.draw) for variant in of_attack for e in variant.examples]
                asked = {str(i): variant.examples for i, variant in enumerate(of_attack)}
                by_variant = _by_question(conversation, asked, ask(what, requests)).values()
                under[name] = {
                    FORGET: tuple(
                        VariantTexts(v.label, *part, v.note) for v, part in zip(of_attack, by_variant, strict=True)
                    )
                }
        if conversation.resumed:
            progress.note(
                f"{conversation.resumed} of {len(said)} answers are those of an earlier run, in {answers.path}; remove "
                "the file to ask again"
            )
        collected = SystemTexts(
            self.name,
            "endpoint",
            sets,
            {name: part for name, (part, _) in texts.items()},
            {name: prompts for name, (_, prompts) in texts.items()},
            under,
            warnings=(*warnings, *_lost(said)),
        )
        return collected if self.folder is None else _saved(collected, self.folder)

    def _attacked(self, sets: Sets) -> dict[str, tuple[Chain, AttackData]]:
        """Attack -> the attack, and what it is carried out on."""
        if not self.attacks:
            return {}
        if FORGET not in sets:
            raise DataError("attacks are on the questions to forget, and none are given (--forget)")
        parts = {n: examples_of(getattr(self.attacker, n), name=n) for n in ("train", "retain", "unrelated")}
        parts["retain"] = parts["retain"] or list(sets.get("retain", ()))
        owned = self.attacker
        data = AttackData(sets[FORGET], translations=owned.translations, questions=owned.questions, **parts)
        return {name: (chain, data) for name, chain in self.attacks.items()}


Under = Mapping[str, "Outputs | str | Mapping[str, Any] | Chain"]
"""Name of an attack -> the texts under it or, for an endpoint, the attack, as a study has it."""


def with_attacks(
    system: "Outputs | SystemTexts | Asked | Endpoint",
    under: Under,
    *,
    attacker: Attacker | None = None,
    folder: str | Path | None = None,
) -> "tuple[Outputs | SystemTexts | Asked, dict[str, Outputs]]":
    """A system with the attacks of `under`, if it is an endpoint, and the texts in `under`.

    Args:
        system: the system.
        under: attacks, and texts under attacks.
        attacker: the attacker's data.
        folder: the folder of an endpoint's answers.

    Raises:
        ConfigError: an unknown attack or setting, or an attack on a system that is no endpoint.
    """
    made = {name: _chain(name, given) for name, given in under.items() if not isinstance(given, Outputs)}
    texts = {name: given for name, given in under.items() if isinstance(given, Outputs)}
    if isinstance(system, Endpoint):
        system = Asked(system)
    if isinstance(system, Asked):
        where = None if folder is None else Path(folder)
        attacked = replace(system, attacks={**system.attacks, **made}, folder=where)
        return (attacked if attacker is None else replace(attacked, attacker=attacker)), texts
    if made or attacker is not None:
        raise ConfigError(
            "attacks are carried out on an endpoint; for texts give those under each attack as uwc.Outputs"
        )
    return system, texts


def _chain(name: str, given: Any) -> Chain:
    if isinstance(given, Chain):
        return given
    if callable(given):
        given = attack_name(given)
    try:
        return ChainConfig.model_validate(given).made()
    except ValidationError as error:
        raise ConfigError(f"under: {name}: {first_problem(error, ChainConfig)}") from None


def _in_chat(name: str, variants: Sequence[TextVariant]) -> tuple[list[TextVariant], list[Warning]]:
    """The variants of an attack that do not begin the model's turn, and a warning if there are others.

    Raises:
        ConfigError: there are only others.
    """
    kept = _without_prefill(variants)
    left_out = len(variants) - len(kept)
    how = (
        "begin the model's turn, which chat completions do not take; endpoint.chat=false asks for completions of a "
        "plain prompt instead"
    )
    if not kept:
        raise ConfigError(f"the attack {name!r}: all of its variants {how}")
    text = f"the attack {name!r}: {left_out} of {len(variants)} variants are left out, as they {how}"
    return kept, [Warning(code="variants_left_out", text=text)] if left_out else []


def _without_prefill(variants: Sequence[TextVariant]) -> list[TextVariant]:
    """The variants that do not begin the model's turn."""
    return [variant for variant in variants if not any(e.prefill for e in variant.examples)]


def _by_question(
    conversation: Conversation, sets: Sets, answers: Sequence[Answer]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Set -> the texts of its answers, and the prompts."""
    found, rest = {}, iter(answers)
    for name, examples in sets.items():
        texts = tuple(next(rest).text for _ in examples)
        found[name] = texts, tuple(conversation.prompt(e) for e in examples)
    return found


def _lost(answers: Sequence[Answer]) -> Iterator[Warning]:
    """Warnings of answers that are empty for another reason than that the model said nothing."""
    filtered = sum(a.finish == "content_filter" for a in answers)
    if filtered:
        text = f"{filtered} of {len(answers)} answers were stopped by the server's content filter"
        yield Warning(code="answers_filtered", text=text)
    cut = sum(a.finish == "length" and not a.text for a in answers)
    if cut:
        text = (
            f"{cut} of {len(answers)} answers are empty and were ended by their length: if the model thinks first, "
            "raise max_new_tokens, or switch thinking off, such as with endpoint.extra="
            "{chat_template_kwargs: {enable_thinking: false}}"
        )
        yield Warning(code="answers_cut", text=text)


def _saved(texts: SystemTexts, folder: Path) -> SystemTexts:
    """The texts, once they are written to the files that ``--outputs`` and ``--under`` read."""
    rows: list[dict[str, Any]] = []
    for name, examples in texts.examples.items():
        for example, text, prompt in zip(examples, texts.texts[name], texts.prompts[name], strict=True):
            fields = {f: getattr(example, f) for f in FIELDS}
            rows.append({"set": name, **{f: v for f, v in fields.items() if v}, "prompt": prompt, "output": text})
    _write_rows(folder / OUTPUTS, rows)
    written = [OUTPUTS]
    for attack, by_set in texts.under.items():
        rows = [
            {
                "set": name, "id": example.id, "question": example.question, "answer": example.answer,
                "variant": variant.label, "prompt": prompt, "output": text,
            }
            for name, variants in by_set.items()
            for variant in variants
            for example, text, prompt in zip(texts.examples[name], variant.texts, variant.prompts, strict=True)
        ]  # fmt: skip
        written.append(f"under-{attack}.jsonl")
        _write_rows(folder / written[-1], rows)
    files = {name: file_digest(folder / name) for name in written}
    return replace(texts, files=files)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
