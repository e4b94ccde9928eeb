"""A question with its answer and the variants that metrics read."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from uwc.errors import DataError

Turns = tuple[tuple[str, str], ...]
"""Turns of a conversation: (role, text), with the roles "system", "user" and "assistant"."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its true answer, and their variants.

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

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError(f"example {self.id!r}: the question is empty; fill it in or remove the example")
        if not self.answer.strip():
            raise DataError(f"example {self.id!r}: the answer is empty; fill it in or remove the example")
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


def paraphrased(examples: Iterable[Example]) -> list[Example]:
    """The examples that have a paraphrased question, with that question (for ES-perturb)."""
    return [replace(e, question=e.paraphrased_question) for e in examples if e.paraphrased_question]


def after_shots(shots: Sequence[Example]) -> Callable[[Example], Example]:
    """A function that prepends solved questions to an example, as earlier turns of the conversation."""
    turns = tuple(turn for shot in shots for turn in (("user", shot.question), ("assistant", shot.answer)))

    def ask(example: Example) -> Example:
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


def repeated(examples: Iterable[Example], *, answers: bool = True) -> int:
    """The number of examples that repeat an earlier question (and its answer), ignoring case and white space."""
    counts = Counter((_asked(e), _plain(e.answer) if answers else "") for e in examples)
    return sum(count - 1 for count in counts.values())


def asked_in_both(first: Iterable[Example], second: Iterable[Example]) -> list[str]:
    """The questions of the first set that are also in the second, ignoring case and white space."""
    asked = {_asked(e) for e in second}
    return [e.question for e in first if _asked(e) in asked]


def _asked(example: Example) -> Turns:
    """History and question without case and white space, for comparison."""
    return tuple((role, _plain(text)) for role, text in (*example.history, ("user", example.question)))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def require_disjoint(first: Sequence[Example], second: Sequence[Example], *, names: tuple[str, str]) -> None:
    """Raise DataError if two sets share an id or, ignoring case and white space, a question with its answer."""
    ids = {e.id for e in first}
    texts = {(_asked(e), _plain(e.answer)) for e in first}
    for example in second:
        if example.id in ids or (_asked(example), _plain(example.answer)) in texts:
            raise DataError(
                f"the {names[0]} and {names[1]} sets overlap: example {example.id!r} "
                f"({example.question[:60]!r}) is in both; remove it from one"
            )


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over the content and order of the examples."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


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
