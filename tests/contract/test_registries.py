"""Everything that is registered or shipped keeps its promises; a new component is covered without a new test."""

import pytest

from uwc.catalogue import catalogue
from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.registry import Registry
from uwc.studies.config_file import load_config, shipped_configs

KINDS = ("methods", "terms", "metrics", "attacks", "tricks", "rules", "benchmarks")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_says_what_it_is_and_where_it_comes_from(kind: str) -> None:
    rows = catalogue(kind)
    assert rows
    for row in rows:
        assert row["name"] and row["source"], row
        assert len(row["summary"]) > 15, row


def test_an_unknown_kind_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown kind 'metric' \(did you mean 'metrics'\?\); valid: methods"):
        catalogue("metric")


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_study_is_valid(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config.title


def registry() -> Registry[object]:
    made: Registry[object] = Registry("colour")

    @made.register("red", source="here")
    def red(_value: Example, *, depth: float = 0.5, count: int) -> float:
        """A colour like blood."""
        return depth * count

    return made


def test_settings_are_completed_and_converted() -> None:
    assert registry().check("red", {"count": 3.0}) == {"depth": 0.5, "count": 3}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rde", {}, r"unknown colour 'rde' \(did you mean 'red'\?\); valid: red"),
        ("red", {"cuont": 1}, r"unknown setting of the colour 'red' 'cuont' \(did you mean 'count'\?\)"),
        ("red", {}, "the setting 'count' must be given"),
        ("red", {"count": "many"}, "colour 'red': count = 'many'"),
    ],
)
def test_wrong_names_and_settings_are_refused(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry().check(name, settings)


def test_a_name_is_registered_once() -> None:
    made = registry()
    with pytest.raises(ConfigError, match="registered twice"):
        made.register("red", source="there")(lambda: None)
