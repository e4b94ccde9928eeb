"""The search space of a run: declared by methods, changed by the study, checked against the run."""

from typing import Any

import pytest
from pydantic import ValidationError
from tests.helpers.small_study import STUDY

from uwc.errors import ConfigError
from uwc.objectives.methods import METHODS
from uwc.objectives.rules import Contrast
from uwc.objectives.spaces import Choices, Range
from uwc.studies.config import UnlearnConfig
from uwc.studies.search_space import own_value, search_space, tuned_runs
from uwc.studies.sections import TuneConfig

TRAINING = {"lr": 1e-3, "batch_size": 8}


def section(*runs: dict[str, Any]) -> UnlearnConfig:
    return UnlearnConfig(training=TRAINING, runs=runs)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not isinstance(method.rule, Contrast)])
def test_every_method_declares_a_space_whose_bounds_it_can_have(name: str) -> None:
    unlearn = section({"method": name})
    (run,) = unlearn.runs
    space = search_space(TuneConfig(), unlearn, run)
    assert set(space) == set(METHODS[name].space)
    settings = unlearn.settings_of(run, seed=0)
    assert all(own_value(run, settings, key, where="") in values for key, values in space.items()), "its own values"


def test_the_study_changes_the_space_of_a_run_and_of_a_group() -> None:
    runs = [{"method": "npo", "name": f"npo@{seed}", "group": "npo", "training": {"lr": 2e-3}} for seed in (1, 2)]
    unlearn = section(*runs)
    tune = TuneConfig(
        space={
            "npo": {
                "training.batch_size": None,
                "training.lr": {"factor": 2},
                "training.schedule": {"choices": ["linear", "cosine"]},
                "tricks.likelihood_cap": {"low": 0.0, "high": 0.5},
                "settings.npo.beta": {"low": 0.1, "high": 1.0},
            }
        }
    )
    for run in tuned_runs(tune, unlearn):
        assert search_space(tune, unlearn, run) == {
            "settings.npo.beta": Range(low=0.1, high=1.0),
            "training.lr": Range(low=1e-3, high=4e-3, log=True),
            "training.schedule": Choices(choices=("linear", "cosine")),
            "tricks.likelihood_cap": Range(low=0.0, high=0.5),
        }


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"weights.kl": {"low": 0.1, "high": 1}}, "gd': weights.kl: unknown key of weights 'kl'.*valid:.*nll"),
        ({"training.speed": {"low": 0.1, "high": 1}}, "unknown key of training 'speed'"),
        ({"stop.every": {"low": 1, "high": 2}}, "a search changes only training, weights"),
        ({"weights.nll": {"factor": 0.5}}, "factor"),
        ({"training.warmup_ratio": {"low": 0.5, "high": 2.0}}, "training.warmup_ratio = 2.0: .*less than 1"),
        ({"training.weight_decay": {"factor": 2}}, "the own value is 0.0"),
        ({"tricks.likelihood_cap": {"low": 0.5, "high": 1.5}}, "tricks.likelihood_cap = 1.5: .*less than 1"),
        ({"training.schedule": {"choices": ["linear", "sine"]}}, "training.schedule = sine: .*'linear', 'cosine'"),
        ({"training.epochs": None}, "training.epochs is not searched"),
        (dict.fromkeys(METHODS["gd"].space), "nothing is searched for 'gd'"),
    ],
)
def test_what_cannot_be_searched(space: dict[str, Any], said: str) -> None:
    unlearn = section({"method": "gd"})
    with pytest.raises((ConfigError, ValidationError), match=said):
        search_space(TuneConfig(space={"gd": space}), unlearn, unlearn.runs[0])


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ({"runs": ["npo"]}, r"tune.runs: unknown run 'npo'.*valid: gd, given"),
        ({"runs": ["given"]}, "'given' is a given checkpoint"),
        ({"space": {"npo": {}}}, "tune.space: unknown run 'npo'"),
        ({"space": {"given": {}}}, "'given' is not tuned"),
    ],
)
def test_what_cannot_be_tuned(tune: dict[str, Any], said: str) -> None:
    unlearn = section({"method": "gd"}, {"name": "given", "checkpoint": "folder"})
    with pytest.raises(ConfigError, match=said):
        tuned_runs(TuneConfig(**tune), unlearn)


def test_early_stopping_is_refused() -> None:
    stop = {"at_most": 0.1}
    with pytest.raises(ConfigError, match="tune: 'gd' stops early, and trials do not"):
        tuned_runs(TuneConfig(), section({"method": "gd", "stop": stop}))
    with pytest.raises(ConfigError, match="tune: 'gd' stops early"):
        tuned_runs(TuneConfig(), UnlearnConfig(training=TRAINING, stop=stop, runs=({"method": "gd"},)))


def test_runs_that_train_are_tuned_by_default() -> None:
    unlearn = section({"method": "gd"}, {"name": "given", "checkpoint": "folder"})
    assert [run.label for run in tuned_runs(TuneConfig(), unlearn)] == ["gd"]
    with pytest.raises(ConfigError, match="no run trains anything"):
        tuned_runs(TuneConfig(), section({"name": "given", "checkpoint": "folder"}))


def test_a_run_with_other_values() -> None:
    run = STUDY.unlearn.runs[3]
    assert run.method == "npo-kl"
    changed = run.changed({"training.lr": 0.5, "weights.kl": 2.0, "settings.npo.beta": 0.1, "tricks.temperature": 3.0})
    assert changed.training == {**run.training, "lr": 0.5}
    assert {t.term: (t.weight, dict(t.settings)) for t in changed.composition().terms} == {
        "npo": (1.0, {"beta": 0.1}),
        "kl": (2.0, {}),
    }
    assert changed.tricks == {"temperature": 3.0} and run.tricks == {}
