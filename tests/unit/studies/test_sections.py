"""The `calibrate:` section of a study: what its questions do not allow, and the retention constraint in words."""

from typing import Any

import numpy as np
import pytest
from tests.helpers.probed_sets import probed

from uwc.calibration.probed import Measured
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.studies.sections import CalibrateConfig, require_other_names

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
    monkeypatch.setattr("uwc.metrics.harness.find_spec", lambda name: None)
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
    assert found.measures == ("retain PPL", "maths PPL", "mmlu") and found.without_interval == ()
    assert (found.tau, found.rank_by) == (0.9, "extraction_strength")
    assert CalibrateConfig().described().measures == ("retain ES",)
    utility = CalibrateConfig(metric="model_utility").described()
    assert utility.measures == ("model utility",) and utility.without_interval == ()


def test_how_the_uncertainty_of_each_measure_is_known() -> None:
    """Values by question, a standard error, and neither."""

    def own(model: object) -> float:
        return 1.0

    config = CalibrateConfig(tasks=("mmlu", "f1_task:f1", "bare", own))
    assert config.described().without_interval == ("own",)
    ends, values = np.array([0.0, 1.0]), np.array([0.8, 0.6])
    by_question = [Measured.of(name, [probed([[1.0, 1.0], [1.0, 0.0]])]) for name in ("retain", "mmlu:acc")]
    by_error = Measured("f1_task:f1", True, ends, values, errors=np.array([0.1, 0.1]), questions=9)
    bare = [Measured(name, True, ends, values) for name in ("bare:brier_score", "own")]
    found = config.described([*by_question, by_error, *bare])
    assert found.measures == ("retain ES", "mmlu", "f1_task:f1", "bare", "own")
    assert found.by_standard_error == ("f1_task:f1",) and found.without_interval == ("bare", "own")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (("retain:acc",), "the task 'retain' has the name of a set of questions"),
        (("mmlu", "mmlu"), "names one twice: mmlu, mmlu"),
    ],
)
def test_names_of_tasks_that_clash(tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_other_names(tasks, ["forget", "retain"], where="score.tasks")
    require_other_names(("mmlu", "mmlu:acc_norm"), ["forget", "retain"], where="score.tasks")


def test_the_measures_of_a_section() -> None:
    measures = CalibrateConfig(metric="probability", sets=("maths", "retain")).measures(SETS, max_new_tokens=8)
    assert [m.label for m in measures] == ["probability on maths", "probability on retain"]
