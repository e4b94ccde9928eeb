"""The search for alpha, on curves given as functions."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uwc.calibration.search import Reading, SearchResult, passes_of, search


def largest_alpha(curve: Callable[[float], float], *, tau: float, **options: Any) -> SearchResult:
    """The search on a curve of some value: a mixture is feasible if it has tau of the value at 0."""
    original = curve(0.0)

    def gauge(alpha: float, *, whole: bool) -> Reading:
        value = original if alpha == 0 else curve(alpha)
        return Reading(value / original, value >= tau * original)

    return search(gauge, tau=tau, **options)


def retention(found: SearchResult) -> float:
    return next(p.retention for p in found.probes if p.alpha == found.alpha)


def test_monotone_curve_is_found_to_the_resolution() -> None:
    """Retention 1 - alpha, tau 0.6: the answer is 0.4."""
    found = largest_alpha(lambda a: 1 - a, tau=0.6)
    assert 0.4 - 1 / 128 <= found.alpha <= 0.4
    assert found.monotone


def test_both_ends_are_checked_first() -> None:
    asked: list[float] = []

    def measure(alpha: float) -> float:
        asked.append(alpha)
        return 1.0

    found = largest_alpha(measure, tau=0.95)
    assert found.alpha == 1.0
    assert asked == [0.0, 1.0]


def test_exactly_tau_is_enough() -> None:
    assert largest_alpha(lambda a: 0.5 if a > 0 else 1.0, tau=0.5).alpha == 1.0


def test_nothing_feasible_gives_the_original_back() -> None:
    found = largest_alpha(lambda a: 1.0 if a == 0 else 0.0, tau=0.9)
    assert found.alpha == 0.0
    assert retention(found) == 1.0


def test_a_dip_does_not_hide_the_larger_feasible_alpha() -> None:
    """Infeasible on (0.2, 0.6), feasible again up to 0.8: bisection from the ends alone stops at 0.2."""
    found = largest_alpha(lambda a: 0.0 if 0.2 < a < 0.6 or a > 0.8 else 1.0, tau=0.9, whole_grid=True)
    assert 0.8 - 1 / 128 <= found.alpha <= 0.8
    assert not found.monotone


def test_a_hump_is_found_by_a_cheap_look_at_the_grid_above() -> None:
    """Probes far from tau are decided on a tenth of the data, so that the grid costs less than a pass."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        ratio = 0.0 if 0.2 < alpha < 0.6 or alpha > 0.8 else 1.0
        return Reading(ratio, ratio >= 0.9, 100 if whole or ratio == 1.0 else 10, 100)

    found = search(gauge, tau=0.9)
    assert 0.8 - 1 / 128 <= found.alpha <= 0.8
    assert not found.unchecked


def test_what_was_not_checked_is_said() -> None:
    """Steps leave no pass for the grid: the points above are named, and more passes check them."""
    step = largest_alpha(lambda a: 1.0 if a <= 0.3 else 0.0, tau=0.9)
    assert step.unchecked == (0.625, 0.75, 0.875)
    assert largest_alpha(lambda a: 1.0 if a <= 0.3 else 0.0, tau=0.9, passes=12).unchecked == ()


def crossing(curve: Callable[[float], float], threshold: float) -> float:
    """Where a falling curve meets the threshold, by fifty bisections."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) >= threshold else (low, middle)
    return low


@given(
    place=st.floats(0.01, 0.99), floor=st.floats(0.0, 0.5), power=st.floats(0.3, 8.0), tau=st.floats(0.55, 0.99),
    kind=st.sampled_from(["step", "power", "cliff"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_falling_curve_takes_eight_passes_and_the_originals(
    place: float, floor: float, power: float, tau: float, kind: str
) -> None:
    """Whatever its shape: at most 8 passes besides the original's, and alpha is the middle of the gap +- 1/128."""
    curves: dict[str, Callable[[float], float]] = {
        "step": lambda a: 1.0 if a < place else floor,
        "power": lambda a: 1 - (1 - floor) * a**power,
        "cliff": lambda a: floor + (1 - floor) / (1 + math.exp((a - place) * 10 * power)),
    }
    curve = curves[kind]
    found = largest_alpha(curve, tau=tau)
    assert found.passes <= 9
    assert curve(found.alpha) >= tau * curve(0)
    if found.alpha < 1:
        assert found.alpha <= crossing(curve, tau * curve(0)) <= found.upper
        assert found.upper - found.alpha <= 2 / 128 + 1e-12
        assert found.upper - found.alpha <= 1 / 128 or found.passes == 9


def guessing(
    curve: Callable[[float], float], tau: float, guess: Callable[[float], float], *, lost: int = 100
) -> SearchResult:
    """A search that is told what to expect; that too little is kept is decided on `lost` of 100 examples."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        enough = curve(alpha) >= tau * curve(0.0)
        return Reading(curve(alpha) / curve(0.0), enough, 100 if enough or whole else lost, 100)

    return search(gauge, tau=tau, expected=lambda alpha: guess(alpha) / curve(0.0))


@pytest.mark.parametrize("place", [0.004, 0.3, 0.77, 0.995])
def test_a_curve_that_is_expected_takes_four_probes(place: float) -> None:
    """Both ends, the first multiple of 1/128 that keeps too little, and the one before it; then the grid above."""

    def curve(alpha: float) -> float:
        return 1.0 if alpha < place else 0.0

    found = guessing(curve, 0.9, curve, lost=20)
    above = math.ceil(place * 128) / 128
    near = [p.alpha for p in found.probes if p.phase != "scan"]
    assert near == list(dict.fromkeys([0.0, 1.0, above, above - 1 / 128]))
    assert found.alpha == above - 1 / 128 and found.upper == above


@given(
    place=st.floats(0.01, 0.99), wrong=st.floats(0.0, 1.2), power=st.floats(0.3, 8.0), tau=st.floats(0.55, 0.99),
    kind=st.sampled_from(["step", "cliff"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_wrong_expectations_cost_no_more_than_eight_passes_either(
    place: float, wrong: float, power: float, tau: float, kind: str
) -> None:
    """The curve is expected to fall at `wrong`, wherever it does, again and again."""
    curves: dict[str, Callable[[float], float]] = {
        "step": lambda a: 1.0 if a < place else 0.2,
        "cliff": lambda a: 1 / (1 + math.exp((a - place) * 10 * power)),
    }
    curve = curves[kind]
    found = guessing(curve, tau, lambda a: 1.0 if a < wrong else 0.0)
    assert found.passes <= 9
    assert curve(found.alpha) >= tau * curve(0)
    if found.alpha < 1:
        assert found.alpha <= crossing(curve, tau * curve(0)) <= found.upper
        assert found.upper - found.alpha <= 2 / 128 + 1e-12


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("tau", [0.6, 0.9, 0.95])
def test_a_smooth_curve_takes_fewer(power: float, tau: float) -> None:
    """Interpolation: at most 7 probes to 1/128, both ends among them, where bisection always takes 9."""
    found = largest_alpha(lambda a: 1 - a**power, tau=tau, scan=1)
    assert len(found.probes) <= 7
    assert found.upper - found.alpha <= 1 / 128
    assert found.alpha <= (1 - tau) ** (1 / power) <= found.upper


def test_a_probe_that_was_decided_wrongly_is_taken_back() -> None:
    """On a part, 0.5 seems to be feasible; scored on all examples, it is not, and the search goes on below."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        if alpha <= 0.4:
            return Reading(1.0, True, 100, 100)
        if alpha <= 0.5:
            return Reading(0.8 if whole else 1.0, not whole, 100 if whole else 50, 100)
        return Reading(0.1, False, 10, 100)

    found = search(gauge, tau=0.9)
    assert 0.4 - 2 / 128 <= found.alpha <= 0.4
    assert retention(found) == 1.0 and passes_of(next(p for p in found.probes if p.alpha == found.alpha)) == 1.0


def test_passes_count_parts() -> None:
    """The original, 1, and three quarters: 1 + 0.25 + 1 + ... never more than was scored."""
    scored: dict[float, int] = {}

    def gauge(alpha: float, *, whole: bool) -> Reading:
        scored[alpha] = 100 if whole or abs(alpha - 0.5) < 0.1 else 25
        return Reading(1 - alpha, alpha <= 0.5, scored[alpha], 100)

    found = search(gauge, tau=0.5, scan=1)
    assert found.passes == sum(scored.values()) / 100


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
    assert retention(found) == 1 - found.alpha**2


@pytest.mark.parametrize("bad", [{"scan": 0}, {"resolution": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        largest_alpha(lambda a: 1.0, tau=0.9, **bad)
