"""The metrics and attacks that a study's policies add to its plan."""

from typing import Any

import pytest

from uwc.studies.config import StudyConfig
from uwc.studies.plan import Plan, make_plan

ES = "extraction_strength"
RELEARN = {"chain": "relearn", "settings": {"relearn": {"steps": 3}}}


def planned(*requirements: dict[str, Any], share: float = 0.5, **changes: Any) -> Plan:
    asked = [{"name": f"r{i}", "metric": ES, "at_most": 1, **r} for i, r in enumerate(requirements)]
    settings = {"authors": 20, "forget_share": share, "facts": 1, "phrasings": 1, "holdout": 0, "general": False}
    study = {
        "name": "small",
        "benchmark": {"name": "fictional-authors", "settings": settings},
        "model": {"build": {}},
        "finetune": {},
        "unlearn": {"runs": [{"method": "gd"}]},
        "score": {"metrics": [ES]},
        "calibrate": None,
        "check": [{"name": "mine", "requirements": asked}] if asked else [],
    }
    return make_plan(StudyConfig(**{**study, **changes}))


def attacks(plan: Plan) -> dict[str, tuple[str, ...]]:
    return {attack.chain.label: attack.step.measured for attack in plan.attacks}


def test_a_study_without_policies_has_nothing_more() -> None:
    assert planned().attacks == () and planned().attack is None and planned().scoring.metrics == [ES]


def test_metrics_are_added_where_the_questions_have_what_they_need() -> None:
    plan = planned({"metric": "perplexity"}, {"metric": "secret_said"}, {"metric": "truth_ratio_arithmetic"})
    assert set(plan.scoring.metrics) >= {ES, "perplexity", "secret_said"}
    silent = planned({"metric": "secret_said"}, score={"metrics": [ES], "max_new_tokens": 0})
    assert silent.scoring.metrics == [ES]


def test_an_attack_of_the_study_with_equal_settings_is_used_and_another_of_its_name_gets_a_name_of_its_own() -> None:
    own = {"chains": ["prefix", {**RELEARN, "settings": {"relearn": {"steps": 2}}}], "metrics": [ES], "examples": 4}
    same = {"chain": "prefix", "settings": {"prefix": {}}, "name": "mine"}
    plan = planned({"attack": same, "metric": "perplexity"}, {"attack": RELEARN}, {"precision": "int4"}, attack=own)
    assert attacks(plan) == {
        "prefix": (ES, "perplexity"),
        "relearn": (ES,),
        "relearn (mine)": (ES,),
        "int4": (ES,),
    }
    assert plan.setup is not None and len(plan.setup.sets["forget"]) == 4
    alone = planned(attack=own)
    keys = {step.key for step in alone.steps if step.kind == "attack"}
    assert {a.step.key for a in plan.attacks if a.chain.label == "relearn"} <= keys


@pytest.mark.parametrize("retrained", [True, False])
def test_only_what_is_compared_is_attacked_and_every_question_that_the_attacker_does_not_need(retrained: bool) -> None:
    control = {"attack": "prefix", "relative_to": "control", "set": "retain"}
    plan = planned(control, {"attack": "prefix"}, retrained=retrained)
    assert [a.model.key.role for a in plan.attacks] == ["unlearned", *(["retrained"] if retrained else [])]
    assert plan.setup is not None and set(plan.setup.sets) == {"forget", "retain"}
    assert len(plan.setup.sets["forget"]) == len(plan.sets["forget"]) and not plan.setup.data.train
    trains = planned(control, {"attack": RELEARN}).setup
    assert trains is not None and trains.data.train


def test_an_attack_of_a_policy_that_lacks_its_data_is_left_out_with_the_reason() -> None:
    plan = planned({"attack": RELEARN}, {"attack": "prefix"}, share=0.05)
    assert list(attacks(plan)) == ["prefix"]
    ((chain, reason),) = plan.unmet
    assert chain.chain == ("relearn",) and "relearn" in reason
