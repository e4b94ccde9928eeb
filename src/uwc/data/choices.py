"""Multiple choice as examples: the right option is the answer, and the others are the wrong answers."""

from collections.abc import Sequence
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
    lines = [f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return Example(
        id=identity,
        question=question if layout == "texts" else "\n".join([question, *lines]),
        answer=answers[right],
        perturbed_answers=tuple(a for i, a in enumerate(answers) if i != right and a != answers[right]),
        subject=subject,
        split=split,
    )
