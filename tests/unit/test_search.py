"""The search for alpha, on curves given as functions."""

import math

import pytest

from uwc.calibration.search import largest_alpha
from uwc.errors import UserError


def test_monotone_curve_is_found_to_the_resolution() -> None:
    """Retention 1 - alpha, tau 0.6: the answer is 0.4."""
    found = largest_alpha(lambda a: 1 - a, tau=0.6)
    assert 0.4 - 1 / 128 <= found.alpha <= 0.4
    assert found.threshold == 0.6
    assert found.monotone


def test_both_ends_are_checked_first() -> None:
    asked: list[float] = []

    def measure(alpha: float) -> float:
        asked.append(alpha)
        return 1.0

    found = largest_alpha(measure, tau=0.95)
    assert found.alpha == 1.0
    assert asked == [0.0, 1.0]


def test_exactly_the_threshold_is_enough() -> None:
    assert largest_alpha(lambda a: 0.5 if a > 0 else 1.0, tau=0.5).alpha == 1.0


def test_nothing_feasible_gives_the_original_back() -> None:
    found = largest_alpha(lambda a: 1.0 if a == 0 else 0.0, tau=0.9)
    assert found.alpha == 0.0
    assert found.retain == 1.0


def test_a_dip_does_not_hide_the_larger_feasible_alpha() -> None:
    """Infeasible on (0.2, 0.5), feasible again up to 0.7: bisection from the ends alone could stop at 0.2."""
    found = largest_alpha(lambda a: 0.0 if 0.2 < a < 0.5 or a > 0.7 else 1.0, tau=0.9)
    assert 0.7 - 1 / 128 <= found.alpha <= 0.7
    assert not found.monotone


def test_noise_never_makes_it_return_an_infeasible_alpha() -> None:
    def noisy(alpha: float) -> float:
        return 1 - alpha + 0.1 * math.sin(1000 * alpha)

    found = largest_alpha(noisy, tau=0.6)
    assert noisy(found.alpha) >= 0.6 * noisy(0)


def test_nan_is_not_feasible() -> None:
    found = largest_alpha(lambda a: math.nan if a > 0.3 else 1.0, tau=0.9)
    assert 0.3 - 1 / 128 <= found.alpha <= 0.3


def test_each_alpha_is_measured_once_and_traced() -> None:
    asked: list[float] = []

    def measure(alpha: float) -> float:
        asked.append(alpha)
        return 1 - alpha**2

    found = largest_alpha(measure, tau=0.8)
    assert len(asked) == len(set(asked)) == len(found.probes)
    assert [p.alpha for p in found.probes] == asked
    assert found.retain == 1 - found.alpha**2


@pytest.mark.parametrize("score", [0.0, math.nan, -1.0])
def test_an_original_that_knows_nothing_is_refused(score: float) -> None:
    with pytest.raises(UserError, match="the original model itself scores"):
        largest_alpha(lambda a: score, tau=0.9)


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"tau": 1.5}, {"tau": 0.9, "scan": 0}, {"tau": 0.9, "resolution": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        largest_alpha(lambda a: 1.0, **bad)  # type: ignore[arg-type]
