"""YAML is read as plain data or refused in one line."""

import itertools
from pathlib import Path

import pytest
import yaml

from uwc.data.strict import LARGEST, read_yaml
from uwc.errors import ConfigError
from uwc.studies.config_file import load_config


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1",
        "[1, 2.5, no, null, '08']",
        "a: &x {k: [1, 2]}\nb: *x\nc: {<<: *x, k: 3}",
        "{1: a, '1': b}",
        "2026-11-26",
    ],
)
def test_what_is_plain_is_read_as_by_pyyaml(text: str) -> None:
    assert read_yaml(text) == yaml.safe_load(text)


def bomb(step: str) -> str:
    """Nine levels of ten aliases each: 10^9 values."""
    names = "abcdefghij"
    return "a: &a {k: 1}\n" + "".join(
        f"{name}: &{name} {step.format(','.join(['*' + before] * 10))}\n" for before, name in itertools.pairwise(names)
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' occurs twice in one mapping"),
        (bomb("[{}]"), f"more than {LARGEST:,} values"),
        (bomb("{{<<: [{}]}}"), f"more than {LARGEST:,} values"),
        ("a: &a {b: [*a]}", "an alias"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("9" * 5000, "a value cannot be read"),
        ("2026-13-45", "a value cannot be read"),
        ("a: [1", "expected"),
        ("{[1]: 2}", "unhashable"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
)
def test_what_is_not_is_refused(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    assert told in str(getattr(caught.value, "problem", caught.value))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("calibrate: {tau: 0.9, tau: 0.5}", r"line 2: not valid YAML: the key 'tau' occurs twice"),
        (f"title: {['x'] * 900}", r"title = \['x', .*\.\.\.: Input should be a valid string"),
    ],
)
def test_a_study_names_the_file_and_the_key(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: x\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 500


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.seed = -1: Input should be greater than or equal to 0"):
        load_config("quickstart", overrides=["finetune.seed=-1"])
