"""Several seeds a method in a study's file, and bounds of its numbers."""

from typing import Any

import pytest

from uwc.errors import ConfigError
from uwc.studies.config import BuildConfig, UnlearnConfig
from uwc.studies.config_file import load_config


def section(**changes: Any) -> UnlearnConfig:
    runs = [{"method": "npo", "training": {"lr": 1e-4}}, {"name": "theirs", "checkpoint": "somewhere"}]
    return UnlearnConfig(**{"seeds": [0, 3], "runs": runs, **changes})


def test_every_method_is_run_with_every_seed_and_a_checkpoint_stays_alone() -> None:
    config = section()
    assert [(r.label, r.group) for r in config.runs] == [("npo@0", "npo"), ("npo@3", "npo"), ("theirs", "")]
    assert [config.settings_of(r, seed=9).seed for r in config.runs[:2]] == [0, 3]
    assert config.settings_of(config.runs[1], seed=9).lr == 1e-4


def test_written_out_it_is_the_same_study() -> None:
    config = section()
    assert UnlearnConfig(**config.model_dump(mode="json")) == config


def test_without_seeds_nothing_changes() -> None:
    assert [r.label for r in section(seeds=[]).runs] == ["npo", "theirs"]


@pytest.mark.parametrize("seeds", [[-1], ["one"], [0, 0], "0"])
def test_what_is_no_list_of_seeds_is_refused(seeds: Any) -> None:
    with pytest.raises((ConfigError, ValueError), match=r"seeds|two unlearning runs"):
        section(seeds=seeds)


def test_a_checkpoint_takes_no_training_settings() -> None:
    with pytest.raises(ConfigError, match=r"'theirs' .* remove 'training'"):
        section(runs=[{"name": "theirs", "checkpoint": "x", "training": {"lr": 1.0}}])
    with pytest.raises(ConfigError, match=r"'method'.*or 'terms'.*or 'checkpoint'.*one only"):
        section(runs=[{"name": "theirs", "checkpoint": "x", "method": "npo"}], seeds=[])
    with pytest.raises(ConfigError, match="a checkpoint needs a 'name'"):
        section(runs=[{"checkpoint": "x"}])


@pytest.mark.parametrize(
    "key",
    [
        "seed", "finetune.seed", "finetune.epochs", "finetune.batch_size", "unlearn.training.lora.rank",
        "unlearn.training.checkpoint_every", "score.max_new_tokens", "calibrate.scan", "attack.examples",
        "attack.attacker.retain_examples", *(f"model.build.{size}" for size in BuildConfig.model_fields),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [-1, 1e30, float("nan"), float("inf"), "many"])
def test_every_number_has_bounds_and_the_message_names_the_key(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"quickstart.*{key.rpartition('.')[2]} = ") as raised:
        load_config("quickstart", overrides={key: value})
    assert len(str(raised.value)) <= 500


@pytest.mark.parametrize("value", [True, "0.5"])
@pytest.mark.parametrize(
    "key",
    [
        "finetune.lr", "unlearn.training.lr", "unlearn.runs.0.weights.nll", "benchmark.settings.forget_share",
        "calibrate.tau", "attack.settings.relearn.lr",
    ],
)  # fmt: skip
def test_no_truth_value_or_text_is_a_number_anywhere(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"quickstart.*{key.rpartition('.')[2]} = .* is no number"):
        load_config("quickstart", overrides={key: value})


def test_numbers_that_yaml_reads_as_texts_are_numbers() -> None:
    """YAML 1.1 reads 1e-4, without a point, as a text."""
    config = load_config("quickstart", overrides=["finetune.lr=1e-4", "unlearn.runs.0.training.lr=2E-5", "seed=1e3"])
    assert config.finetune is not None and config.seed == 1000
    assert config.finetune.lr == 1e-4 and config.unlearn.settings_of(config.unlearn.runs[0], seed=0).lr == 2e-5
