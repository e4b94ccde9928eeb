"""The `calibrate:` section of a study: what its questions do not allow, and the retention constraint in words."""

from typing import Any

import pytest

from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.studies.sections import CalibrateConfig

QUESTIONS = [Example(id=str(i), question=f"q{i}", answer=f"a{i}") for i in range(3)]
SETS = {"forget": QUESTIONS, "retain": QUESTIONS, "maths": QUESTIONS}


@pytest.mark.parametrize(
    ("section", "essentials"),
    [
        ({"sets": ["retain", "mats"]}, ["unknown retain set 'mats'", "did you mean 'maths'", "retain, maths"]),
        ({"sets": ["forget"]}, ["unknown retain set 'forget'"]),
        ({"metric": "rouge_l"}, ["'rouge_l' needs generated answers"]),
        ({"metric": "probability_normalised", "sets": ["maths"], "rank_by": "probability"}, ["perturbed", "'maths'"]),
        ({"metric": "model_utility"}, ["real_authors and world_facts", "books does not have"]),
    ],
)
def test_what_the_questions_do_not_allow_is_refused(section: dict[str, Any], essentials: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        CalibrateConfig(**section).check(SETS, benchmark="books", max_new_tokens=0)
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)


def test_a_task_without_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uwc.calibration.harness.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'uwc\[harness\]'"):
        CalibrateConfig(tasks=("mmlu",)).check(SETS, benchmark="books", max_new_tokens=0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"metric": "kl_to_original"}, "unknown retention metric 'kl_to_original'"),
        ({"rank_by": "perplexity"}, "unknown metric to rank by 'perplexity'"),
        ({"sets": []}, "there is no retention constraint"),
        ({"tasks": ["mmlu", "mmlu"]}, "tasks names one twice"),
        ({"metric": "model_utility", "sets": ["maths"]}, "sets of its own"),
    ],
)
def test_a_section_without_sense_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrateConfig(**section)


def test_what_models_are_ranked_by() -> None:
    """The retention metric where less of it is more forgotten, on a scale from 0 to 1; else extraction strength."""
    for metric in ("probability", "rouge_l", "extraction_strength"):
        assert CalibrateConfig(metric=metric).ranked_by == metric
    for metric in ("perplexity", "truth_ratio_forget", "model_utility", "mia_loss"):
        assert CalibrateConfig(metric=metric).ranked_by == "extraction_strength"
    assert CalibrateConfig(metric="perplexity", rank_by="probability").ranked_by == "probability"


def test_the_retention_constraint_in_words() -> None:
    config = CalibrateConfig(metric="perplexity", sets=("retain", "maths"), tasks=("mmlu",), tau=0.9)
    found = config.described()
    assert found.measures == ("retain PPL", "maths PPL", "mmlu") and found.without_interval == ("mmlu",)
    assert (found.tau, found.rank_by) == (0.9, "extraction_strength")
    assert CalibrateConfig().described().measures == ("retain ES",)
    utility = CalibrateConfig(metric="model_utility").described()
    assert utility.measures == ("model utility",) and utility.without_interval == ()


def test_the_measures_of_a_section() -> None:
    measures = CalibrateConfig(metric="probability", sets=("maths", "retain")).measures(SETS, max_new_tokens=8)
    assert [m.label for m in measures] == ["probability on maths", "probability on retain"]
