"""The strongest attack as an attack: chosen within the attacker's part, by a budget."""

from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import ignorant, robust_knower, strength
from tests.unit.attacks.test_weights import shouting

import uwc
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.errors import ConfigError, DataError

KNOWN, OTHERS = people(4), people()[8:]
DATA = AttackData(KNOWN[:4], train=KNOWN[4:], retain=OTHERS)
AMONG: dict[str, Any] = {"runs": 4, "attacks": ["relearn", "int8", "jailbreak"]}


def test_the_scored_questions_have_no_part_in_the_choice() -> None:
    silent = shouting(robust_knower())
    assert strength(silent, KNOWN) == 0
    settings = {"runs": 6, "attacks": ["relearn_retain", "soft_prompt", "int8"]}
    chain = make_chain("strongest", {"strongest": settings})
    notes = []
    for scored in (KNOWN[:2], KNOWN[2:4]):
        with attacked(silent, AttackData(scored, train=KNOWN[4:], retain=OTHERS), chain) as variants:
            (variant,) = ((v.note, v.label, v.effort) for v in variants)
            notes.append(variant)
    assert notes[0] == notes[1]
    assert notes[0][0].split(",")[0] in ("relearn_retain", "soft_prompt", "quantization")
    assert notes[0][1:] == ("", 6)


@pytest.mark.slow
def test_the_strongest_of_all_attacks_brings_back_what_is_only_silenced() -> None:
    chain = make_chain("strongest", {"strongest": {"runs": 9}})
    (found,) = measure(shouting(robust_knower()), DATA, chain, ["extraction_strength"])
    assert found.after.mean > 0.2
    assert found.variants[0].note


def test_nothing_is_found_in_a_model_that_never_knew() -> None:
    (found,) = measure(ignorant(), DATA, make_chain("strongest", {"strongest": AMONG}), ["extraction_strength"])
    assert found.after.mean < 0.2


def test_it_is_an_attack_like_others_also_in_a_precision(tmp_path: Any) -> None:
    results = uwc.attack(
        robust_knower(), KNOWN[:4], ["strongest", "nf4+strongest"], attacker=uwc.Attacker(train=KNOWN[4:]),
        settings={"strongest": AMONG}, control=ignorant(),
    )  # fmt: skip
    assert [o.attack for o in results.attacks.models[0].outcomes] == ["strongest", "nf4+strongest"]
    told = results.attacks.findings()
    assert len(told) == 4 and all(" on " in finding and finding.split(": ")[1] for finding in told)
    assert all(o.over_control is not None and o.over_control.mean > 0.5 for o in results.attacks.models[0].outcomes)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"attacks": ["relearn_forget"]}, "trains on the scored answers"),
        ({"attacks": ["relearn_retain"]}, "--retain"),
        ({"attacks": ["reborn"]}, "unknown attack"),
        ({"metric": "strength"}, "unknown metric"),
        ({"runs": 0}, "runs"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(settings: Any, error: str) -> None:
    data = AttackData(KNOWN[:4], train=KNOWN[4:])
    with pytest.raises((ConfigError, DataError), match=error):
        make_chain("strongest", {"strongest": settings}).check_data(data)
    with pytest.raises(DataError, match="subject"):
        make_chain("strongest").check_data(AttackData(KNOWN[:4], train=KNOWN[4:6]))
