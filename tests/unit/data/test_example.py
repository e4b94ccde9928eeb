"""An example with the turns before its question."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from uwc.data.example import Example, asked_in_both, fingerprint, paraphrased, repeated, require_disjoint
from uwc.data.question_files import read_examples
from uwc.errors import DataError
from uwc.workflows.comparison import kept_questions

HISTORY = (("system", "Be brief."), ("user", "Who is Ada?"), ("assistant", "A singer."))
TALK = Example("a", "And her brother?", "Bo", paraphrased_question="Her brother, then?", history=HISTORY)


@pytest.mark.parametrize("history", [(), HISTORY, HISTORY[:1], HISTORY[1:], HISTORY[1:] * 2])
def test_a_history_is_a_system_message_and_whole_pairs(history: Any) -> None:
    assert replace(TALK, history=history).history == history


@pytest.mark.parametrize(
    ("history", "words"),
    [
        (HISTORY[:2], "turn 2 is a user's without an answer"),
        (HISTORY[2:], "turn 1 is of 'assistant' instead of 'user'"),
        ((HISTORY[1], HISTORY[0]), "turn 2 is of 'system' instead of 'assistant'"),
        ((HISTORY[0], HISTORY[0]), "turn 2 is of 'system' instead of 'user'"),
        ((("user", "x"), ("tool", "y")), "turn 2 is of 'tool'"),
        ((("user", " "), ("assistant", "y")), "turn 1 is empty"),
        ((("system", ""),), "turn 1 is empty"),
    ],
)
def test_other_histories_are_refused(history: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"'a': the history: {words}"):
        replace(TALK, history=history)


def test_the_history_is_part_of_what_is_asked() -> None:
    """The same last question after other turns is another question."""
    other = replace(TALK, id="b", history=(*HISTORY[:2], ("assistant", "A painter.")))
    spaced = replace(TALK, id="c", history=tuple((role, f" {text.upper()}") for role, text in HISTORY))
    assert fingerprint([TALK]) != fingerprint([replace(other, id="a")])
    assert repeated([TALK, other]) == 0 and repeated([TALK, spaced]) == 1
    assert asked_in_both([TALK], [other]) == [] and asked_in_both([TALK], [spaced]) == ["And her brother?"]
    require_disjoint([TALK], [other], names=("forget", "retain"))
    with pytest.raises(DataError, match="overlap"):
        require_disjoint([TALK], [spaced], names=("forget", "retain"))
    assert paraphrased([TALK])[0].history == HISTORY


def test_examples_in_memory_are_written_and_read_with_their_history(tmp_path: Path) -> None:
    examples = [TALK, Example("b", "Q?", "A", perturbed_answers=("B", "C"), subject="s")]
    assert read_examples(kept_questions(examples, "forget", tmp_path)) == examples
    path = tmp_path / "x.json"
    path.write_text(json.dumps([asdict(e) for e in examples]), encoding="utf-8")
    assert read_examples(path) == examples


def test_a_secret_changes_the_fingerprint_and_its_absence_does_not() -> None:
    """The value is that of the version before there were secrets."""
    example = Example("a", "Q?", "A", perturbed_answers=("B",), subject="S")
    assert fingerprint([example]) == "2ae419367dda117a512b6c9daf52e2cdf04928c65ccbfb84e6a0c04363612090"
    assert fingerprint([replace(example, secret=("A",))]) != fingerprint([example])
