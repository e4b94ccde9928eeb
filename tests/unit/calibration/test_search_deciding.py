"""Early decisions about a mean over a finite set: certain bounds by hand, and how often a bet is wrong."""

import numpy as np
import pytest

from uwc.calibration.search import MeanTest, looks


def test_what_is_certain_by_hand() -> None:
    """Ten differences in -0.9..0.1: after one of -0.9 the other nine can just make up for it."""
    low, high = np.full(10, -0.9), np.full(10, 0.1)
    assert MeanTest(low, high, error=1e-12).see(np.arange(1), np.array([-0.9])) is None
    assert MeanTest(low, high, error=1e-12).see(np.arange(2), np.array([-0.9, 0.05])) is False
    assert (
        MeanTest(low, high, error=1e-12).see(np.arange(10), np.full(10, 0.0)) is None
    )  # exactly at the bar: to be computed whole


def test_it_is_certain_that_a_bar_is_reached() -> None:
    """Two of three seen with 0.5 each: the last can lose 0.9 at most, so that at least 0.1 is left."""
    assert MeanTest(np.full(3, -0.9), np.full(3, 0.5), error=1e-12).see(np.arange(2), np.array([0.5, 0.5])) is True


def test_each_example_has_bounds_of_its_own() -> None:
    """The last example cannot lose anything: what was seen decides."""
    assert (
        MeanTest(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), error=1e-12).see(np.arange(1), np.array([0.01])) is True
    )


def first_decision(values: np.ndarray, low: float, high: float, error: float) -> tuple[bool | None, int]:
    test = MeanTest(np.full(len(values), low), np.full(len(values), high), error=error)
    before = 0
    for count in looks(len(values)):
        decided = test.see(np.arange(before, count), values[before:count])
        if decided is not None:
            return decided, count
        before = count
    return None, len(values)


@pytest.mark.parametrize("side", [-1, 1])
def test_wrong_decisions_are_rarer_than_promised(side: int) -> None:
    """A mean just on one side of the bar, with rare large values: of 1500 random orders fewer than 5 % go wrong."""
    random = np.random.default_rng(0)
    values = np.where(random.random(300) < 0.1, 0.8, -0.08)
    values = side * (values - values.mean() + 1e-4)
    low, high = float(values.min()), float(values.max())
    wrong = sum(first_decision(random.permutation(values), low, high, 0.05)[0] is (side < 0) for _ in range(1500))
    assert wrong / 1500 < 0.05


def test_clear_cases_are_decided_on_a_small_part() -> None:
    """Of 1000 examples with a bar of 0.9: a mean of 0.5 is told from 160 at most, one of 0.97 from under a third."""
    random = np.random.default_rng(0)
    lost = random.beta(1, 1, 1000) - 0.9
    assert first_decision(lost, -0.9, 0.1, 1e-3)[0] is False
    assert first_decision(lost, -0.9, 0.1, 1e-3)[1] <= 200
    kept = np.where(random.random(1000) < 0.94, 0.1, -0.4)
    decided, count = first_decision(kept, -0.9, 0.1, 1e-3)
    assert decided is True and count <= 333


def test_looks_grow_and_end_with_all() -> None:
    assert looks(100) == [16, 20, 25, 31, 38, 47, 58, 72, 90, 100]
    assert looks(10) == [10]


def test_once_the_order_is_not_random_only_what_is_certain_decides() -> None:
    """Forty losses of 0.5 first, out of 1000 with a bar of 0.9: a bet would be won, but it proves nothing."""
    low, high, losses = np.full(1000, -0.9), np.full(1000, 0.1), np.full(40, -0.4)
    assert MeanTest(low, high).see(np.arange(40), losses) is False
    chosen = MeanTest(low, high)
    assert chosen.see(np.arange(40), losses, random=False) is None
    assert chosen.see(np.arange(40, 300), np.full(260, -0.4), random=False) is False  # 300 * 0.4 > 700 * 0.1
