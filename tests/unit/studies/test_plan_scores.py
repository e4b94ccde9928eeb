"""What a study scores models by: chosen, checked and left out when it is planned, before any model is loaded."""

from pathlib import Path
from typing import Any

import pytest

from uwc.errors import ConfigError, UserError
from uwc.metrics.suites import SUITES
from uwc.studies.config_file import validated
from uwc.studies.plan import Plan, make_plan

QUESTIONS = {"authors": 10, "forget_share": 0.2, "facts": 1, "phrasings": 1, "holdout": 2}


def planned(score: dict[str, Any], **changes: Any) -> Plan:
    study: dict[str, Any] = {
        "name": "tiny",
        "benchmark": {"name": "fictional-authors", "settings": QUESTIONS},
        "model": {"build": {"vocabulary": 600, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}},
        "finetune": {"epochs": 1},
        "unlearn": {"runs": [{"method": "gd"}]},
        "score": score,
    }
    return make_plan(validated(study | changes, where="study"))


def keys(plan: Plan) -> dict[str, str]:
    return {step.name: step.key for step in plan.steps}


def test_the_usual_metrics_are_those_of_uwc_score() -> None:
    plan = planned({})
    assert tuple(plan.scoring.metrics) == SUITES["core"] and not plan.left_out
    silent = planned({"max_new_tokens": 0})
    assert set(silent.left_out) == {"rouge_l", "secret_said"}
    assert not set(silent.left_out) & set(silent.scoring.metrics)


def test_a_suite_with_further_metrics_by_label() -> None:
    plan = planned({"suite": "membership", "metrics": ["ES", "PPL", "AUC: loss"]})
    expected = (*SUITES["membership"], "extraction_strength", "perplexity")
    assert tuple(plan.scoring.metrics) == expected
    assert "auc_loss" in plan.scoring.of_sets and "perplexity" in plan.scoring.of_examples


def test_labels_and_names_are_one_step() -> None:
    by_name, by_label = (
        planned({"metrics": ["extraction_strength", "rouge_l"]}),
        planned({"metrics": ["es", "ROUGE-L"]}),
    )
    assert keys(by_name) == keys(by_label)
    constraint = {"metric": "PPL", "rank_by": "ES"}
    assert planned({}, calibrate=constraint).config.calibration.metric == "perplexity"


def test_only_what_decides_a_score_enters_its_key() -> None:
    """A number for whole sets that reads what is scored already costs no new score; gradient norms do."""
    usual = planned({"metrics": ["ES", "mia_loss"]})
    assert keys(usual)["score gd"] == keys(planned({"metrics": ["ES", "mia_loss", "auc_loss"]}))["score gd"]
    assert keys(usual)["score gd"] != keys(planned({"metrics": ["ES", "auc_gradient_norm"]}))["score gd"]


@pytest.mark.parametrize(
    ("score", "essentials"),
    [
        ({"suite": "membershp"}, ["unknown suite 'membershp'", "did you mean 'membership'"]),
        ({"metrics": ["ES", "forget_quality"]}, ["'forget_quality' needs", "retrained"]),
        ({"metrics": ["ES", "verbatim_memorization"]}, ["'verbatim_memorization' needs the set 'verbatim'"]),
        ({"metrics": ["ES", "model_utility"]}, ["'model_utility' needs the set 'real_authors'"]),
        ({"metrics": ["ES", "entailment"]}, ["'entailment' needs a model of natural-language", "score.judges"]),
        ({"metrics": ["ES", "rouge_l"], "max_new_tokens": 0}, ["'rouge_l' needs generated answers"]),
        ({"judges": {"encodr": "x"}}, ["encodr", "did you mean 'encoder'"]),
    ],
)
def test_what_a_study_does_not_have_is_refused_in_one_line(score: dict[str, Any], essentials: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        planned(score)
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)


def test_a_judge_that_is_not_there_is_refused(tmp_path: Path) -> None:
    score = {"metrics": ["ES", "semantic_similarity"], "judges": {"encoder": str(tmp_path / "nothing")}}
    with pytest.raises(UserError, match="nothing"):
        planned(score)


def test_attacks_measure_what_they_can_change() -> None:
    """Of the metrics of a study by default those with values by example that an attack can be measured with."""
    attack = {"chains": ["jailbreak"], "sets": ["forget"], "attacker": {"forget_share": 0}}
    plan = planned({"metrics": ["ES", "auc_loss", "mia_gradient_norm", "PPL"]}, attack=attack)
    assert plan.attacked_metrics == ("extraction_strength", "perplexity")
    named = planned({"metrics": ["ES", "auc_loss", "PPL"]}, attack=attack | {"metrics": ["PPL"]})
    assert named.attacked_metrics == ("perplexity",)
