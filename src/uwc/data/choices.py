"""Multiple choice as examples: the right option is the answer, and the others are the wrong answers."""

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Literal

from uwc.data.example import Example
from uwc.errors import DataError

ChoiceLayout = Literal["letters", "texts"]
"""Whether the options are listed in the question and answered by their letter, or are the answers themselves."""


def choice_example(
    question: str,
    choices: Sequence[str],
    right: int,
    *,
    layout: ChoiceLayout,
    identity: str,
    subject: str = "",
    split: str = "",
) -> Example:
    """A question with options as an example; `choice_accuracy` scores it.

    Args:
        question: the question.
        choices: the options.
        right: the place of the right one, from 0.
        layout: "letters": the question ends with one line ``A. option`` for each, and the answers are letters;
            "texts": the answers are the options.
        identity: the example's id.
        subject: its cluster.
        split: the split it belongs to.

    Raises:
        DataError: there are fewer than two options, more than letters, or none at that place.
    """
    if not 2 <= len(choices) <= len(ascii_uppercase) or not 0 <= right < len(choices):
        raise DataError(
            f"example {identity!r} has {len(choices)} options, of which option {right} is right; correct it"
        )
    answers = list(choices) if layout == "texts" else list(ascii_uppercase[: len(choices)])
    return Example(
        id=identity,
        question=question if layout == "texts" else _listed(question, choices),
        answer=answers[right],
        perturbed_answers=tuple(a for i, a in enumerate(answers) if i != right and a != answers[right]),
        subject=subject,
        split=split,
    )


def options_of(example: Example) -> tuple[str, ...]:
    """The true answer, then the wrong ones; none for a passage, without wrong answers, with more than letters, or where
    the answers are letters already."""
    options = (example.answer, *example.perturbed_answers)
    letters = {option.strip().rstrip(".") for option in options} <= set(ascii_uppercase)
    return () if example.raw or letters or not 2 <= len(options) <= len(ascii_uppercase) else options


def lettered(example: Example, options: Sequence[str], shift: int, *, cue: str) -> Example:
    """A question that lists its options by letter, rotated, and is answered by a letter.

    The layout is that of MMLU (arXiv:2009.03300): the question, a line ``A. option`` for each option, and a cue.

    Args:
        example: the question.
        options: m options.
        shift: option j stands at the letter number ``(j + shift) mod m``.
        cue: a last line, such as "Answer:"; "" for none.

    Returns:
        The question; its answer is the letter of option 0, and its wrong answers are those of the options 1 to m - 1.
    """
    count = len(options)
    letters = [ascii_uppercase[(j + shift) % count] for j in range(count)]
    rotated = [options[(place - shift) % count] for place in range(count)]
    asked = _listed(example.question, rotated)
    return replace(
        example,
        question=f"{asked}\n{cue}" if cue else asked,
        answer=letters[0],
        paraphrased_answer="",
        perturbed_answers=tuple(letters[1:]),
    )


def _listed(question: str, choices: Sequence[str]) -> str:
    """The question with a line ``A. option`` for each option."""
    return "\n".join([question, *(f"{a}. {choice}" for a, choice in zip(ascii_uppercase, choices, strict=False))])
