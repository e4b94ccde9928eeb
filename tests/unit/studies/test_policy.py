"""Policies: the shipped ones, what is refused and how, and requirements in words."""

from pathlib import Path
from typing import Any, get_args

import pytest

from uwc.attacks.registry import PRECISIONS
from uwc.catalogue import catalogue
from uwc.errors import ConfigError
from uwc.studies.config import StudyConfig
from uwc.studies.config_file import load_config, shipped_configs
from uwc.studies.policy import Policy, Precision, Requirement, in_precisions, in_words, load_policy

ES = {"name": "a", "metric": "extraction_strength"}


def policy(**requirement: Any) -> dict[str, Any]:
    return {"name": "mine", "requirements": [{**ES, **requirement}]}


@pytest.mark.parametrize("name", shipped_configs("policy"))
def test_shipped_policies_are_valid_listed_and_equal_when_read_from_a_result(name: str) -> None:
    found = load_policy(name)
    assert found.name == name and found.title
    assert load_policy(found.model_dump(mode="json")) == found
    assert [row["name"] for row in catalogue(name)] == [r.name for r in found.requirements]
    assert name in [row["name"] for row in catalogue("policies")]


@pytest.mark.parametrize("name", ["standard", "strict"])
def test_a_shipped_policy_needs_that_something_is_forgotten_and_retained(name: str) -> None:
    required = [r for r in load_policy(name).requirements if not r.optional]
    assert {"forget", "retain"} <= {r.set for r in required}
    assert {r.direction for r in required if r.set == "retain"} == {"at_least", "at_most"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"at_most": 0.1, "at_least": 0.1}, "either at_most or at_least"),
        ({}, "either at_most or at_least"),
        ({"at_most": 0.1, "metric": "nosuch"}, "unknown metric of single examples 'nosuch'"),
        ({"at_most": 0.1, "metric": "forget_quality"}, "whole sets"),
        ({"at_most": 0.1, "compare": "ratio"}, "needs relative_to"),
        ({"at_most": 0.1, "relative_to": "control"}, "there is no attack"),
        ({"at_most": 1.5}, "outside the range"),
        ({"at_most": 0.1, "relative_to": "original", "metric": "perplexity"}, "write compare: ratio"),
        ({"at_most": -1, "relative_to": "original", "compare": "ratio"}, "above 0"),
        ({"at_most": 0.1, "variants": "worst"}, "needs an attack"),
        ({"at_most": 0.1, "precision": "int4", "attack": "quantization"}, "give one of them"),
        ({"at_most": 0.1, "precision": "int4", "attack": "llm_int8+probe"}, "give one of them"),
        ({"at_most": 0.1, "atack": "jailbreak"}, "did you mean 'attack'"),
        ({"at_most": "low"}, "at_most = 'low'"),
        ({"at_most": True}, "at_most = True"),
        ({"at_most": float("nan")}, "at_most"),
        ({"at_most": 0.1, "attack": "nosuch"}, "unknown attack 'nosuch'"),
        (
            {"at_most": 0.1, "attack": {"chain": "relearn", "settings": {"relearn": {"stps": 2}}}},
            "did you mean 'steps'",
        ),
        ({"at_most": 0.1, "name": "a/b"}, "cannot be the name of a requirement"),
    ],
)
def test_requirements_that_make_no_sense_are_refused_in_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_policy(policy(**wrong))
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_bad_files_are_refused_with_their_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    bad = {
        "name: [\n": "line 2",
        "- a\n": "a policy is a mapping",
        "name: mine\n": "'requirements' is missing",
        "name: mine\nrequirements: []\n": "requirements",
        "name: mine\nname: yours\n": "line 2",
        "1: 2\nname: mine\n": "keys must be words",
        "name: m\nrequirements: [{name: a, metric: ES, at_most: 0}, {name: a, metric: ES, at_most: 0}]": "'a'",
    }
    for text, said in bad.items():
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as refused:
            load_policy(path)
        assert str(path) in str(refused.value) and said in str(refused.value), text
    with pytest.raises(ConfigError, match=r"'nosuch'.*standard, strict"):
        load_policy("nosuch")


def test_precision_and_attack_are_one_chain_with_settings() -> None:
    attack = {"chain": "relearn", "settings": {"relearn": {"steps": 3}}}
    both = Requirement(**ES, at_most=0.1, attack=attack, precision="int8").chain
    alone = Requirement(**ES, at_most=0.1, precision="int4").chain
    assert both is not None and alone is not None
    assert both.label == "int8+relearn" and [name for name, _ in both.steps] == ["quantization", "relearn"]
    settings = dict(both.steps)
    assert (settings["quantization"]["bits"], settings["relearn"]["steps"]) == (8, 3)
    assert (alone.label, dict(alone.steps)["quantization"]["bits"]) == ("int4", 4)
    deployed = {
        name: Requirement(**ES, at_most=0.1, precision=name).chain for name in ("nf4", "nf4_double", "llm_int8")
    }
    assert all(chain is not None and chain.label == name for name, chain in deployed.items())
    steps = {name: chain.steps for name, chain in deployed.items() if chain is not None}
    assert steps == {
        "nf4": (("quantization_nf4", {"block_size": 64, "double": False}),),
        "nf4_double": (("quantization_nf4", {"block_size": 64, "double": True}),),
        "llm_int8": (("quantization_llm_int8", {"threshold": 6.0}),),
    }


def test_a_policy_in_precisions_has_a_requirement_for_each() -> None:
    """Those with an attack, or in a precision, stay alone."""
    given = ({"name": "es"}, {"name": "asked", "attack": "jailbreak"}, {"name": "nf4", "precision": "nf4"})
    policy = load_policy({"name": "p", "requirements": [{**ES, "at_most": 0.1, **r} for r in given]})
    found = in_precisions(policy, ["nf4", "int8"]).requirements
    assert [(r.name, r.precision) for r in found[3:]] == [("es-nf4", "nf4"), ("es-int8", "int8")]
    assert found[:3] == policy.requirements and found[3].bound == 0.1
    assert in_precisions(policy, []) == policy


def test_every_precision_has_its_attack() -> None:
    assert set(get_args(Precision)) == set(PRECISIONS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"at_most": 0.1}, ["forget questions", "is at most 0.1"]),
        ({"at_most": 0.1, "relative_to": "retrained"}, ["at most 0.1 above the retrained model's"]),
        ({"at_most": -0.1, "relative_to": "retrained"}, ["at least 0.1 below the retrained model's"]),
        ({"at_least": -0.1, "relative_to": "original"}, ["at most 0.1 below the original's"]),
        ({"at_least": 0.1, "relative_to": "original"}, ["at least 0.1 above the original's"]),
        ({"at_most": 0, "relative_to": "retrained"}, ["is at most the retrained model's"]),
        ({"at_least": 0.9, "relative_to": "original", "compare": "ratio"}, ["at least 0.9 times the original's"]),
        ({"at_most": 0.1, "set": "forget_paraphrased"}, ["paraphrased forget questions"]),
        (
            {"at_most": 0, "attack": "jailbreak", "variants": "worst", "precision": "int4", "relative_to": "control"},
            ["the worst variant of jailbreak", "rounded to int4", "the retrained model's under the same attack"],
        ),
    ],
)
def test_a_requirement_in_words_says_what_is_compared_and_on_which_side(given: Any, words: list[str]) -> None:
    said = in_words(Requirement(**ES, **given))
    assert all(part in said for part in words), said


def test_a_study_takes_policies_by_name_file_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("name: of file\nrequirements: [{name: a, metric: ES, at_most: 0.1}]\n", encoding="utf-8")
    config = load_config("compare", overrides={"check": ["standard", str(path), policy(at_most=0.2)]})
    assert [p.name for p in config.check] == ["standard", "of file", "mine"]
    assert StudyConfig(**config.model_dump(mode="json")).check == config.check
    for given, said in (
        (["standard", "standard"], "'standard'"),
        ([3], "3 is not a policy"),
        (["nosuch"], "'nosuch'"),
    ):
        with pytest.raises(ConfigError) as refused:
            load_config("compare", overrides={"check": given})
        assert said in str(refused.value)
    with pytest.raises(ConfigError, match=r"attack\.chains"):
        load_config("compare", overrides={"attack.chains": [], "attack.settings": {}})
    assert isinstance(config.check[0], Policy)
