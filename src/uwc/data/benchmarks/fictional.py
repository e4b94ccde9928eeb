"""The built-in benchmark: invented authors, which a model can know only from fine-tuning."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from uwc.data.benchmark import FORGET, GENERAL, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.benchmarks.fictional_words import ATTRIBUTES, GRAMMAR, REFUSALS, Attribute
from uwc.data.benchmarks.fictional_words import GENERAL as GENERAL_ROWS
from uwc.data.example import Example
from uwc.errors import ConfigError

NAME = "fictional-authors"
MAX_AUTHORS = 5000
MAX_PHRASINGS = 3
WRONG_ANSWERS = 3

_SLOT = re.compile(r"{(\w+)}")
_WORD = re.compile(r"\w+")


class _Fact(NamedTuple):
    """The true and the wrong values of one attribute of an author: a text for each slot of its answer."""

    attribute: Attribute
    truth: dict[str, str]
    wrong: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class _Author:
    """An author: texts for the slots of name and pronouns, and the facts asked about."""

    index: int
    words: dict[str, str]
    facts: tuple[_Fact, ...]


def fictional_authors(
    *,
    authors: int = 100,
    forget_share: float = 0.10,
    retain_eval_share: float = 0.2,
    holdout: int = 10,
    phrasings: int = 2,
    facts: int = 5,
    general: bool = True,
    seed: int = 0,
) -> Benchmark:
    """Questions about invented authors, in the style of TOFU, with answers whose ends cannot be guessed.

    An author's facts depend only on the seed and on the author's index. The last authors are the forget set, so that
    the forget set of a smaller share is a subset of that of a larger one.

    Args:
        authors: how many authors the original model is trained on.
        forget_share: the share of them in the forget set, in (0, 0.5]; at least one author.
        retain_eval_share: the share of the others in retain_eval, in (0, 0.5]; at least one author.
        holdout: the number of further authors, on which no model is trained.
        phrasings: the number of phrasings of each question that are trained on; each is an example.
        facts: the number of facts asked about each author; which ones varies by author.
        general: whether to add questions of general knowledge, which are trained on as well.
        seed: of the invention.

    Returns:
        The benchmark ``fictional-authors``, with the splits forget, retain, retain_eval, holdout and general.

    Raises:
        ConfigError: an argument is outside its range.

    Source: after TOFU (Maini et al. 2024), arXiv:2401.06121; people, places and titles are our own.
    """
    _require_integer("authors", authors, 4, MAX_AUTHORS)
    _require_share("forget_share", forget_share)
    _require_share("retain_eval_share", retain_eval_share)
    _require_integer("holdout", holdout, 0, MAX_AUTHORS)
    _require_integer("phrasings", phrasings, 1, MAX_PHRASINGS)
    _require_integer("facts", facts, 1, len(ATTRIBUTES))
    _require_integer("seed", seed, 0, 2**32 - 1)

    people = list(_invent(authors + holdout, facts, seed))
    retained = authors - max(1, round(authors * forget_share))
    held_back = max(1, round(retained * retain_eval_share))
    parts = {
        FORGET: people[retained:authors],
        RETAIN: people[held_back:retained],
        RETAIN_EVAL: people[:held_back],
        HOLDOUT: people[authors:],
    }
    splits = {split: tuple(_questions(part, split, phrasings)) for split, part in parts.items()}
    trained: tuple[str, ...] = (FORGET, RETAIN, RETAIN_EVAL)
    if general:
        splits[GENERAL] = tuple(_general_questions())
        trained += (GENERAL,)
    return Benchmark(name=NAME, splits=splits, trained=trained, refusals=REFUSALS)


def _require_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{NAME}: {name} is {value!r}; set it to a whole number from {low} to {high}")


def _require_share(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value <= 0.5:
        raise ConfigError(f"{NAME}: {name} is {value!r}; set it to a number above 0 and up to 0.5, such as 0.1")


def _invent(count: int, facts: int, seed: int) -> Iterator[_Author]:
    """The first authors of a seed; no two share a surname, nor the end of any answer."""
    taken: set[str] = set()
    for index in range(count):
        rng = Random(f"{NAME}/{seed}/{index}")
        words = _name(rng, taken)
        truths = {attribute.key: _values(attribute, words, rng, taken) for attribute in ATTRIBUTES}
        chosen = rng.sample(ATTRIBUTES, len(ATTRIBUTES))[:facts]
        yield _Author(index, words, tuple(_fact(a, words, truths[a.key], f"{seed}/{index}") for a in chosen))


def _name(rng: Random, taken: set[str]) -> dict[str, str]:
    """A new name with its pronouns, as texts for slots."""
    feminine = rng.random() < 0.5
    first = rng.choice(GRAMMAR["feminine" if feminine else "masculine"])
    surname = _fresh("{Coined}", rng, taken)
    she, her = ("she", "her") if feminine else ("he", "his")
    return {
        "author": f"{first} {surname}",
        "surname": surname,
        "she": she,
        "her": her,
        "She": she.capitalize(),
        "Her": her.capitalize(),
    }


def _fact(attribute: Attribute, words: dict[str, str], truth: dict[str, str], key: str) -> _Fact:
    """A fact with wrong alternatives; no two of them, and none and the truth, end alike."""
    rng = Random(f"{NAME}/{key}/{attribute.key}/wrong")
    ends = {truth[_slots(attribute)[-1]]}
    return _Fact(attribute, truth, tuple(_values(attribute, words, rng, ends) for _ in range(WRONG_ANSWERS)))


def _values(attribute: Attribute, words: dict[str, str], rng: Random, taken: set[str]) -> dict[str, str]:
    """A text for each slot of an attribute; the last word of the answer occurs nowhere before it."""
    *earlier, last = _slots(attribute)
    values = {slot: _draw(f"{{{slot}}}", rng) for slot in earlier}
    used = {*_fixed_words(attribute), *_words(words["author"], *values.values())}
    while True:
        values[last] = _fresh(f"{{{last}}}", rng, taken)
        *before, end = _WORD.findall(values[last].lower())
        if end not in used and end not in before:
            return values


def _fresh(form: str, rng: Random, taken: set[str]) -> str:
    """A text that is not in `taken`, to which it is added."""
    while (text := _draw(form, rng)) in taken:
        pass
    taken.add(text)
    return text


def _draw(form: str, rng: Random) -> str:
    """A form with each of its slots replaced by a random text of that kind."""

    def fill(slot: re.Match[str]) -> str:
        kind = slot[1]
        text = _draw(rng.choice(GRAMMAR[kind.lower()]), rng)
        return text if kind.islower() else text[0].upper() + text[1:]

    return _SLOT.sub(fill, form)


@cache
def _slots(attribute: Attribute) -> tuple[str, ...]:
    """The slots of an attribute's answer that are drawn at random, in order."""
    return tuple(slot for slot in _SLOT.findall(attribute.answer) if slot in GRAMMAR)


@cache
def _fixed_words(attribute: Attribute) -> frozenset[str]:
    """The words of an attribute's questions and answers outside of slots."""
    return frozenset(_words(*attribute.questions, attribute.paraphrase, attribute.answer, attribute.paraphrased_answer))


def _words(*texts: str) -> set[str]:
    return set(_WORD.findall(" ".join(texts).lower()))


def _questions(authors: Iterable[_Author], split: str, phrasings: int) -> Iterator[Example]:
    """An example for each author, fact and trained phrasing."""
    for author in authors:
        for fact in author.facts:
            for number in range(phrasings):
                yield _question(author, fact, number, split)


def _question(author: _Author, fact: _Fact, number: int, split: str) -> Example:
    attribute, words = fact.attribute, author.words
    return Example(
        id=f"author-{author.index:03d}/{attribute.key}/{number}",
        question=attribute.questions[number].format(**words),
        answer=attribute.answer.format(**words, **fact.truth),
        paraphrased_question=attribute.paraphrase.format(**words),
        paraphrased_answer=attribute.paraphrased_answer.format(**words, **fact.truth),
        perturbed_answers=tuple(attribute.paraphrased_answer.format(**words, **wrong) for wrong in fact.wrong),
        subject=words["author"],
        split=split,
        secret=tuple(form.format(**fact.truth) for form in attribute.secrets),
    )


def _general_questions() -> Iterator[Example]:
    """An example for each item of general knowledge."""
    for index, ((topic, question, paraphrase), (answer, *wrong)) in enumerate(
        zip(GENERAL_ROWS[::2], GENERAL_ROWS[1::2], strict=True)
    ):
        yield Example(
            id=f"general-{index:03d}/{topic.lower().replace(' ', '-')}/0",
            question=question,
            answer=answer,
            paraphrased_question=paraphrase,
            perturbed_answers=tuple(wrong),
            subject=topic,
            split=GENERAL,
        )
