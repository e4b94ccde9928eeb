"""A question with its answer and the variants that metrics read, or a passage of text."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal
from unicodedata import normalize

import numpy as np

from uwc.errors import DataError

Turns = tuple[tuple[str, str], ...]
"""Turns of a conversation: (role, text), with the roles "system", "user" and "assistant"."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its true answer, and their variants; or a passage, whose end is the answer.

    Attributes:
        id: unique within a benchmark; results are joined on it.
        question: the question.
        answer: the true answer; never empty.
        paraphrased_question: a paraphrase of the question that was not trained on, or ``""``.
        paraphrased_answer: a paraphrase of the true answer, or ``""``.
        perturbed_answers: wrong answers of the same form (TOFU's truth ratio), or ``()``.
        refusal: a refusal, or ``""``.
        subject: the cluster that the example belongs to; examples of one cluster are not independent.
        split: the part of the benchmark it belongs to.
        history: the turns before the question: an optional system message, then pairs of a user's and an assistant's
            turn.
        prefill: text at the beginning of the model's turn, before the answer; not scored, and not read from files.
        secret: spans that must not come out in an answer, or ``()``.
        raw: whether this is a passage: question and answer are one text, read without a prompt template. The question,
            which may be empty, is its beginning, and the answer is what follows, with the white space before it.
            Training learns the whole text (see `learnt`). Not a column of files.
    """

    id: str
    question: str
    answer: str
    paraphrased_question: str = ""
    paraphrased_answer: str = ""
    perturbed_answers: tuple[str, ...] = ()
    refusal: str = ""
    subject: str = ""
    split: str = ""
    history: Turns = ()
    prefill: str = ""
    secret: tuple[str, ...] = ()
    raw: bool = False

    def __post_init__(self) -> None:
        if not self.raw and not self.question.strip():
            raise DataError(f"example {self.id!r}: the question is empty; fill it in or remove the example")
        if not self.answer.strip():
            raise DataError(f"example {self.id!r}: the answer is empty; fill it in or remove the example")
        if self.raw and (self.history or self.prefill):
            raise DataError(
                f"example {self.id!r} is a passage, which takes no earlier turns and no beginning of an answer; use "
                "questions for this, or leave the passages out"
            )
        try:
            check_history(self.history)
        except ValueError as error:
            raise DataError(f"example {self.id!r}: the history: {error}") from None


def check_history(turns: Turns) -> None:
    """Raise ValueError, naming the wrong turn, if turns are not a valid history."""
    first = bool(turns) and turns[0][0] == "system"
    for number, (role, text) in enumerate(turns[first:], 1 + first):
        expected = "assistant" if (number - first) % 2 == 0 else "user"
        if role != expected:
            raise ValueError(f"turn {number} is of {role!r} instead of {expected!r}; user and assistant take turns")
        if not text.strip():
            raise ValueError(f"turn {number} is empty; fill it in")
    if len(turns[first:]) % 2:
        raise ValueError(f"turn {len(turns)} is a user's without an answer; write one")
    if first and not turns[0][1].strip():
        raise ValueError("turn 1 is empty; fill it in")


def learnt(example: Example) -> Example:
    """What training learns of an example: of a passage the whole text, of others the answer to the question."""
    return replace(example, question="", answer=example.question + example.answer) if example.raw else example


def paraphrased(examples: Iterable[Example]) -> list[Example]:
    """The examples that have a paraphrased question, with that question (for ES-perturb)."""
    return [replace(e, question=e.paraphrased_question) for e in examples if e.paraphrased_question]


def after_shots(shots: Sequence[Example]) -> Callable[[Example], Example]:
    """A function that prepends solved questions to an example, as earlier turns of the conversation; not to passages,
    which have none."""
    turns = tuple(turn for shot in shots for turn in (("user", shot.question), ("assistant", shot.answer)))

    def ask(example: Example) -> Example:
        if example.raw:
            return example
        system = [turn for turn in example.history if turn[0] == "system"]
        rest = [turn for turn in example.history if turn[0] != "system"]
        return replace(example, history=(*system, *turns, *rest))

    return ask


def require_unique_ids(examples: Sequence[Example], *, where: str) -> None:
    """Raise DataError if two examples share an id."""
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"{where}: the id {example.id!r} occurs twice; ids must be unique")
        seen.add(example.id)


def repeated(examples: Iterable[Example], *, answers: bool = False) -> int:
    """The number of examples that repeat an earlier question (and its answer).

    Case, white space and compatibility forms are ignored.
    """
    counts = Counter((_asked(e), plain_text(e.answer) if answers else "") for e in examples)
    return sum(count - 1 for count in counts.values())


def clustered(examples: Sequence[Example]) -> list[Example]:
    """The examples, those that ask the same question with one subject: a question is in one cluster only.

    Subjects that share a question become the first of them; where there is none, the subject is made of an id.
    """
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def root(cluster: tuple[str, str]) -> tuple[str, str]:
        while (parent := parents.setdefault(cluster, cluster)) != cluster:
            parents[cluster] = cluster = parents[parent]
        return cluster

    own = [(e.subject, "" if e.subject else e.id) for e in examples]
    first: dict[Turns, tuple[str, str]] = {}
    for cluster, example in zip(own, examples, strict=True):
        other = root(first.setdefault(_asked(example), cluster))
        if (this := root(cluster)) != other:
            parents[this] = other
    joined = Counter(map(root, parents))
    names: dict[tuple[str, str], str] = {}
    for subject, unnamed in own:
        names[root((subject, unnamed))] = names.get(root((subject, unnamed))) or subject
    merged = []
    for cluster, example in zip(own, examples, strict=True):
        subject = names[root(cluster)] or _QUESTION + root(cluster)[1]
        merged.append(example if joined[root(cluster)] == 1 else replace(example, subject=subject))
    return merged


_QUESTION = "question of "


def spread(examples: Sequence[Example], count: int | None) -> tuple[Example, ...]:
    """`count` of the examples, evenly spaced; all if it is None or there are no more."""
    if count is None or count >= len(examples):
        return tuple(examples)
    return tuple(examples[i] for i in np.linspace(0, len(examples) - 1, count).round().astype(int))


def has_subject(example: Example) -> bool:
    """Whether an example has a subject of its own, rather than one by its repeated question."""
    return bool(example.subject) and not example.subject.startswith(_QUESTION)


def asked_in_both(first: Iterable[Example], second: Iterable[Example]) -> list[str]:
    """The questions of the first set that are also in the second, as `repeated` compares."""
    asked = {_asked(e) for e in second}
    return [e.question for e in first if _asked(e) in asked]


def _asked(example: Example) -> Turns:
    """History and question, or passage, without case, white space and compatibility forms (NFKC), for comparison."""
    if example.raw:
        return (("passage", plain_text(example.question + example.answer)),)
    return tuple((role, plain_text(text)) for role, text in (*example.history, ("user", example.question)))


def plain_text(text: str) -> str:
    """A text without case, repeated white space and compatibility forms (NFKC), for comparison."""
    return " ".join(normalize("NFKC", normalize("NFKC", text).casefold()).split())


def require_disjoint(first: Sequence[Example], second: Sequence[Example], *, names: tuple[str, str]) -> None:
    """Raise DataError if two sets share an id or, ignoring case and white space, a question with its answer."""
    ids = {e.id for e in first}
    texts = {(_asked(e), plain_text(e.answer)) for e in first}
    for example in second:
        if example.id in ids or (_asked(example), plain_text(example.answer)) in texts:
            raise DataError(
                f"the {names[0]} and {names[1]} sets overlap: example {example.id!r} "
                f"({example.question[:60]!r}) is in both; remove it from one"
            )


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over the content and order of the examples; ``secret`` and ``raw`` count if they are set."""
    digest = hashlib.sha256()
    for example in examples:
        content = {name: value for name in _FIELDS if (value := getattr(example, name)) or name not in _ONLY_IF_SET}
        digest.update(_json(content).encode())
        digest.update(b"\n")
    return digest.hexdigest()


_FIELDS = tuple(sorted(field.name for field in fields(Example)))
_ONLY_IF_SET = ("secret", "raw")
_json = json.JSONEncoder(ensure_ascii=False).encode

Variant = Literal["answer", "paraphrased_answer", "perturbed_answers"]
VARIANTS: tuple[Variant, ...] = ("answer", "paraphrased_answer", "perturbed_answers")


def with_variants(
    examples: Sequence[Example], variants: Sequence[Variant] = VARIANTS
) -> tuple[list[Example], list[Variant]]:
    """One row for each example and answer variant, each an example with that answer.

    Rows are ordered by variant, then by example; the first rows are the examples with their true answers.

    Returns:
        The rows, which share the examples' ids, and the variant of each.
    """
    rows: list[Example] = []
    kinds: list[Variant] = []
    for variant in variants:
        for example in examples:
            answers = {
                "answer": (example.answer,),
                "paraphrased_answer": (example.paraphrased_answer,) if example.paraphrased_answer else (),
                "perturbed_answers": example.perturbed_answers,
            }[variant]
            rows.extend(example if a == example.answer else replace(example, answer=a) for a in answers)
            kinds.extend([variant] * len(answers))
    return rows, kinds
