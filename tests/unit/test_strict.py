"""YAML is read as plain data or refused in one line."""

import itertools

import pytest
import yaml

from uwc.strict import LARGEST, read_yaml


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' occurs twice in one mapping"),
        (bomb("[{}]"), f"more than {LARGEST:,} values"),
        (bomb("{{<<: [{}]}}"), f"more than {LARGEST:,} values"),
        ("a: &a {b: [*a]}", "an alias"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("seed: 010", "'010' is a number to another base"),
        ("lr: 1:30", "'1:30' is a number to another base"),
        ("9" * 5000, "too many digits"),
        ("0x" + "f" * 5000, "too many digits"),
        ("2026-13-45", "a value cannot be read"),
        ("a: !!bool 5", "a value cannot be read"),
        ("a: !!timestamp abc", "a value cannot be read"),
        ("a: !!int ''", "a value cannot be read"),
        ("a: [1", "expected"),
        ("{[1]: 2}", "unhashable"),
        ("!!python/object/apply:os.system [x]", "could not determine a constructor"),
    ],
)
def test_what_is_not_is_refused(text: str, told: str) -> None:
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text)
    assert told in str(getattr(caught.value, "problem", caught.value))
