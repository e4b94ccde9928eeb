"""Texts of a system behind an endpoint: its answers to all questions, and those under attacks."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from uwc import progress
from uwc.attacks.chain import Chain
from uwc.attacks.data import AttackData, Attacker
from uwc.attacks.asked import TextVariant, text_variants
from uwc.data.example import Example
from uwc.data.outputs import SystemTexts, VariantTexts
from uwc.data.question_files import examples_of
from uwc.data.rows import FIELDS
from uwc.errors import ConfigError, DataError
from uwc.io import file_digest, require_writable, write_text
from uwc.models.endpoint import Answer, Conversation, Endpoint, Request, StoredAnswers
from uwc.results import FORGET

ANSWERS = "endpoint_answers.jsonl"
"""The file of all answers of an endpoint, from which an interrupted run resumes."""
OUTPUTS = "outputs.jsonl"
"""The file of questions and texts that ``--outputs`` reads; those under an attack are in ``under-ATTACK.jsonl``."""

Sets = Mapping[str, Sequence[Example]]


def collect(
    endpoint: Endpoint,
    sets: Sets,
    attacks: Mapping[str, Chain] | None = None,
    *,
    attacker: Attacker | None = None,
    folder: str | Path | None = None,
    sleep: Callable[[float], None] | None = None,
) -> SystemTexts:
    """Ask an endpoint all questions of all sets, and those of the forget set under each attack.

    Args:
        endpoint: the endpoint.
        sets: set -> its questions.
        attacks: name -> attack, on questions or on sampling.
        attacker: the attacker's data; as retained examples by default the set "retain".
        folder: keeps each answer as soon as it is there, so that an interrupted run resumes, and all texts at the end;
            None keeps nothing.
        sleep: waits for a number of seconds between retries, in place of a real clock.

    Raises:
        ConfigError: an attack needs the model's weights, or a text at the beginning of the model's turn, which chat
            completions do not take.
        EndpointError: the server refuses a request, or a request fails after all retries.
    """
    variants = _variants(sets, attacks or {}, attacker or Attacker())
    if folder is not None:
        require_writable(Path(folder), ANSWERS, OUTPUTS)
    answers = StoredAnswers(None if folder is None else Path(folder) / ANSWERS)
    if endpoint.chat is True:
        variants = {name: _in_chat(name, of_attack) for name, of_attack in variants.items()}
    with closing(Conversation(endpoint, answers, sleep=sleep)) as conversation:
        plain = [Request(e) for examples in sets.values() for e in examples]
        said = conversation.ask(plain, f"ask {endpoint.model}")
        if conversation.chat and endpoint.chat is not True:
            variants = {name: _in_chat(name, of_attack) for name, of_attack in variants.items()}
        under = {}
        for name, of_attack in variants.items():
            requests = [Request(e, variant.draw) for variant in of_attack for e in variant.examples]
            found = conversation.ask(requests, f"{endpoint.model} under {name}")
            said += found
            texts = iter(found)
            under[name] = {
                FORGET: tuple(
                    VariantTexts(variant.label, *_texts(conversation, variant.examples, texts)) for variant in of_attack
                )
            }
        if conversation.resumed:
            progress.note(
                f"{conversation.resumed} of {len(said)} answers are those of an earlier run, in {answers.path}; remove "
                "the file to ask again"
            )
        _warn_of_lost(said)
        read = iter(said)
        by_set = {name: _texts(conversation, examples, read) for name, examples in sets.items()}
    found_texts = SystemTexts(
        endpoint.name,
        "endpoint",
        sets,
        {name: texts for name, (texts, _) in by_set.items()},
        {name: prompts for name, (_, prompts) in by_set.items()},
        under,
    )
    return found_texts if folder is None else _saved(found_texts, Path(folder))


def _variants(sets: Sets, attacks: Mapping[str, Chain], attacker: Attacker) -> dict[str, list[TextVariant]]:
    if not attacks:
        return {}
    if FORGET not in sets:
        raise DataError("attacks are on the questions to forget, and none are given (--forget)")
    parts = {name: examples_of(getattr(attacker, name), name=name) for name in ("train", "retain", "unrelated")}
    parts["retain"] = parts["retain"] or list(sets.get("retain", ()))
    data = AttackData(sets[FORGET], translations=attacker.translations, **parts)
    return {name: text_variants(chain, data) for name, chain in attacks.items()}


def _in_chat(name: str, variants: Sequence[TextVariant]) -> list[TextVariant]:
    """The variants without those that begin the model's turn. Raises ConfigError if none is left."""
    kept = [variant for variant in variants if not any(e.prefill for e in variant.examples)]
    left_out = len(variants) - len(kept)
    how = (
        "begin the model's turn, which chat completions do not take; endpoint.chat=false asks for completions of a "
        "plain prompt instead"
    )
    if not kept:
        raise ConfigError(f"the attack {name!r}: all of its variants {how}")
    if left_out:
        progress.warn(f"the attack {name!r}: {left_out} of {len(variants)} variants are left out, as they {how}")
    return kept


def _texts(
    conversation: Conversation, examples: Sequence[Example], answers: Iterator[Answer]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The next answers, to these questions, and their prompts."""
    texts = tuple(next(answers).text for _ in examples)
    return texts, tuple(conversation.prompt(e) for e in examples)


def _warn_of_lost(answers: Sequence[Answer]) -> None:
    """Warn of answers that are empty for another reason than that the model said nothing."""
    filtered = sum(a.finish == "content_filter" for a in answers)
    cut = sum(a.finish == "length" and not a.text for a in answers)
    if filtered:
        progress.warn(f"{filtered} of {len(answers)} answers were stopped by the server's content filter")
    if cut:
        progress.warn(
            f"{cut} of {len(answers)} answers are empty and were ended by their length: if the model thinks first, "
            "raise max_new_tokens, or switch thinking off, such as with endpoint.extra="
            "{chat_template_kwargs: {enable_thinking: false}}"
        )


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
    return SystemTexts(texts.source, texts.kind, texts.examples, texts.texts, texts.prompts, texts.under, files=files)


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
