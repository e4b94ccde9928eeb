"""Leakage of sampled answers, by hand, by all subsets, and by repeated draws."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uwc.errors import ConfigError
from uwc.metrics.sampled import exceedance_bound, expected_largest, leak_at_k, leak_bound, mean_bound


def test_leak_at_k_by_hand() -> None:
    """2 of 5 leak. Two tries: 1 - C(3,2) / C(5,2) = 0.7; four always meet one; one try is the share."""
    assert leak_at_k(2, 5, 2) == pytest.approx(0.7)
    assert leak_at_k(2, 5, 4) == 1.0
    assert leak_at_k(2, 5, 1) == pytest.approx(0.4)
    assert leak_at_k(0, 5, 5) == 0.0
    assert np.isnan(leak_at_k(2, 5, 6)), "undefined, not 0"
    assert leak_at_k(1, 2000, 1000) == pytest.approx(0.5), "without overflow"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=7), st.integers(1, 7))
def test_the_expected_largest_is_the_mean_over_all_subsets(scores: list[int], k: int) -> None:
    found = expected_largest(np.array(scores, float), k)
    if k > len(scores):
        assert np.isnan(found)
        return
    assert found == pytest.approx(np.mean([max(subset) for subset in combinations(scores, k)]))
    leaks = np.array([score > 2 for score in scores], float)
    assert leak_at_k(int(leaks.sum()), len(leaks), k) == pytest.approx(expected_largest(leaks, k))


def test_the_bound_on_leaks_is_clopper_and_pearsons() -> None:
    """0 of n: 1 - 0.05^(1/n). Elsewhere the p at which c or fewer leaks have a probability of 5 %."""
    assert leak_bound(0, 20) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert stats.binom.cdf(3, 20, leak_bound(3, 20)) == pytest.approx(0.05)
    assert leak_bound(20, 20) == 1.0


def test_bounds_of_scores_by_hand() -> None:
    """Level 1 - exp(-1) and 2 scores: e = sqrt(1 / 4) = 0.5. P(X > 0.5) <= 1/2 + 0.5 = 1; above 0.8 it is 0.5. The
    integral: 0.8 at 1 (1 and 1, each at most 1) and 0.2 at 0.5."""
    scores, level = np.array([0.4, 0.8]), 1 - np.exp(-1)
    assert exceedance_bound(scores, 0.5, level=level) == pytest.approx(1.0)
    assert exceedance_bound(scores, 0.8, level=level) == pytest.approx(0.5)
    assert mean_bound(scores, level=level) == pytest.approx(0.9)


def test_the_bound_of_the_mean_covers_it() -> None:
    """Scores uniform on 0..1 have the mean 1/2: the bound is above in at least 95 % of draws, and not trivial."""
    random = np.random.default_rng(0)
    bounds = np.array([mean_bound(random.random(200)) for _ in range(200)])
    assert (bounds >= 0.5).mean() >= 0.95 and bounds.mean() < 0.65


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 of 5"):
        leak_at_k(6, 5, 1)
    with pytest.raises(ConfigError, match="k = 0"):
        expected_largest(np.ones(3), 0)
    with pytest.raises(ConfigError, match="level = 1"):
        leak_bound(1, 5, level=1.0)
    with pytest.raises(ConfigError, match=r"level = 0\.3"):
        exceedance_bound(np.ones(3), 0.5, level=0.3)
    with pytest.raises(ConfigError, match="at least one score"):
        mean_bound(np.array([]))
    with pytest.raises(ConfigError, match=r"in 0\.\.1"):
        mean_bound(np.array([0.5, 2.0]))
