"""The values that a search of hyper-parameters may try."""

import pytest
from pydantic import ValidationError

from uwc.errors import ConfigError
from uwc.objectives.methods import METHODS
from uwc.objectives.spaces import COMMON, Around, Choices, Range


def test_a_factor_around_a_number() -> None:
    assert Around(factor=8.0).around(0.004) == Range(low=0.0005, high=0.032, log=True)
    assert Around(factor=2.0).around(16) == Range(low=8, high=32, log=True, whole=True)
    assert Around(factor=2.0).around(1) == Range(low=1, high=2, log=True, whole=True)


@pytest.mark.parametrize("own", [0.0, -1.0, None, True, "adamw"])
def test_nothing_else_has_a_factor(own: float | str | bool | None) -> None:
    with pytest.raises(ConfigError, match="give low and high"):
        Around(factor=2.0).around(own)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": 2.0, "high": 2.0}, "from 2 to 2 is empty"),
        ({"low": 0.0, "high": 1.0, "log": True}, "must begin above 0"),
        ({"low": 0.5, "high": 4.0, "whole": True}, "must be whole numbers"),
    ],
)
def test_ranges_that_cannot_be_drawn_from(given: dict[str, float], said: str) -> None:
    with pytest.raises((ConfigError, ValidationError), match=said):
        Range(**given)  # type: ignore[arg-type]


def test_what_a_range_and_choices_hold() -> None:
    assert 1 in Range(low=1, high=2) and 2.0 in Range(low=1, high=2)
    assert 2.1 not in Range(low=1, high=2) and True not in Range(low=1, high=2) and "1" not in Range(low=1, high=2)
    assert "linear" in Choices(choices=("linear", "cosine")) and 1 not in Choices(choices=("linear",))


def test_in_words() -> None:
    assert str(Range(low=0.0005, high=0.032, log=True)) == "0.0005 to 0.032 (logarithmic)"
    assert str(Choices(choices=("linear", 2))) == "linear, 2"


def test_weights_are_searched_where_their_ratio_matters() -> None:
    assert set(METHODS["ga"].space) == set(COMMON), "a single term"
    assert set(METHODS["gd"].space) == {*COMMON, "weights.nll"}
    assert set(METHODS["llmu"].space) == {*COMMON, "weights.refusal", "weights.kl"}
    assert set(METHODS["pdu"].space) == set(COMMON), "a dual variable is no weight"
    assert set(METHODS["npo-kl"].space) == {*COMMON, "weights.kl", "settings.npo.beta"}
