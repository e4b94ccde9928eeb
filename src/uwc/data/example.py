"""One question and its answer, with everything the metrics may want to know about them."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from uwc.errors import DataError


@dataclass(frozen=True, slots=True)
class Example:
    """A question, its true answer, and their variants.

    Attributes:
        id: stable and unique within a benchmark; results are joined on it.
        question: what the model is asked.
        answer: the true answer; never empty.
        paraphrased_question: the same question in words never trained on, or ``""``.
        paraphrased_answer: the true answer in other words, or ``""``.
        perturbed_answers: wrong answers of the same form (TOFU's truth ratio), or ``()``.
        refusal: an answer that declines, or ``""``.
        subject: what the question is about; examples that share it are not independent.
        split: the part of the benchmark it belongs to.
        history: earlier turns of the conversation as (role, text), the role "system", "user" or "assistant": perhaps a
            system message, then questions with their answers.
        prefill: how the model's turn is made to begin, before the answer; not scored.
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
    history: tuple[tuple[str, str], ...] = ()
    prefill: str = ""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise DataError(f"example {self.id!r}: the question is empty; fill it in or remove the example")
        if not self.answer.strip():
            raise DataError(f"example {self.id!r}: the answer is empty; fill it in or remove the example")


def paraphrased(examples: Iterable[Example]) -> list[Example]:
    """The examples that have a paraphrased question, asked in those words (for ES-perturb)."""
    return [replace(e, question=e.paraphrased_question) for e in examples if e.paraphrased_question]


def after_shots(shots: Sequence[Example]) -> Callable[[Example], Example]:
    """What puts solved questions before an example's own, as earlier turns of the conversation."""
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


def repeated(examples: Iterable[Example]) -> int:
    """How many examples repeat the question and answer of one before them, whatever their case and spaces."""
    counts = Counter((_plain(e.question), _plain(e.answer)) for e in examples)
    return sum(count - 1 for count in counts.values())


def asked_in_both(first: Iterable[Example], second: Iterable[Example]) -> list[str]:
    """The questions of the first set that the second asks too, whatever their case and spaces."""
    asked = {_plain(e.question) for e in second}
    return [e.question for e in first if _plain(e.question) in asked]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def require_disjoint(first: Sequence[Example], second: Sequence[Example], *, names: tuple[str, str]) -> None:
    """Raise DataError if two sets share an id or, whatever its case and spaces, a question with its answer."""
    ids = {e.id for e in first}
    texts = {(_plain(e.question), _plain(e.answer)) for e in first}
    for example in second:
        if example.id in ids or (_plain(example.question), _plain(example.answer)) in texts:
            raise DataError(
                f"the {names[0]} and {names[1]} sets overlap: example {example.id!r} "
                f"({example.question[:60]!r}) is in both; remove it from one"
            )


def fingerprint(examples: Iterable[Example]) -> str:
    """SHA-256 (hex) over the content and order of the examples: equal exactly when all fields are."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True, ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()
