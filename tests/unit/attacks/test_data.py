"""What an attacker has: never a scored example, and a forget set split by subject."""

from dataclasses import replace

import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import KNOWN

from uwc.attacks.data import AttackData, split_by_subject
from uwc.errors import DataError


@pytest.mark.parametrize("part", ["train", "retain", "unrelated"])
def test_an_attacker_who_has_scored_examples_is_refused(part: str) -> None:
    with pytest.raises(DataError, match=f"attacker's {part} and scored sets overlap: example '0/1'"):
        AttackData(KNOWN, **{part: [KNOWN[1]]})
    rephrased = replace(KNOWN[1], id="other", question=KNOWN[1].paraphrased_question)
    with pytest.raises(DataError, match=f"{part} set holds the answer of the scored example '0/1' in another phrasing"):
        AttackData(KNOWN, **{part: [rephrased]})


def test_a_forget_set_is_split_by_subject() -> None:
    train, scored = split_by_subject(people(), 1 / 3, seed=1)
    assert len(train) == 4 and len(scored) == 8
    assert not {e.subject for e in train} & {e.subject for e in scored}
    assert split_by_subject(people(), 1 / 3, seed=1) == (train, scored)
    for share in (0.0, 1.0):
        with pytest.raises(DataError, match="must lie between 0 and 1"):
            split_by_subject(people(), share)
