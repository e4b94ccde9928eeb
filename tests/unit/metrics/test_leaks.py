"""Metrics of sampled answers, by hand: three questions with 5 samples, of which 2, 0 and 5 leak, and one without a
value."""

import numpy as np
import pytest
from scipy import stats
from tests.helpers.scores_by_hand import scores

from uwc.metrics.leaks import leak_curves
from uwc.metrics.samples import LeakSettings, SampleScores
from uwc.metrics.scored import ScoredSet
from uwc.results import ModelKey

VALUES = np.array([[0.9, 0.1, 0.8, 0.2, 0.0], [0.0] * 5, [1.0] * 5, [np.nan] * 5])


@pytest.fixture
def scored() -> ScoredSet:
    leaks = np.where(np.isnan(VALUES), np.nan, VALUES >= 0.8)
    samples = SampleScores(VALUES, leaks, np.ones(4, dtype=bool))
    return ScoredSet(scores([[-1.0]] * 4, ids=["0", "1", "2", "3"]), ("a",) * 4, samples=samples)


def test_leak_at_k(scored: ScoredSet) -> None:
    """1 - C(3,2) / C(5,2) = 0.7."""
    assert scored.values("leak_at_k", k=2) == pytest.approx([0.7, 0, 1, np.nan], nan_ok=True)
    assert scored.values("leak_at_k", k=1) == pytest.approx([0.4, 0, 1, np.nan], nan_ok=True)
    assert scored.unscored("leak_at_k", k=1) == {"the metric by which a sample leaks has no value": 1}


def test_the_expected_maximum(scored: ScoredSet) -> None:
    """Of the 10 pairs 4 have the maximum 0.9, 3 have 0.8, 2 have 0.2, and one has 0.1."""
    found = scored.values("expected_max", k=2)
    assert found == pytest.approx([(4 * 0.9 + 3 * 0.8 + 2 * 0.2 + 0.1) / 10, 0, 1, np.nan], nan_ok=True)


def test_bounds_of_all_questions_share_the_error(scored: ScoredSet) -> None:
    """Three questions with a value: each bound has the error 0.05 / 3, so that all hold with at least 95 %."""
    bounds = scored.values("leak_upper_bound")
    assert stats.binom.cdf(2, 5, bounds[0]) == pytest.approx(0.05 / 3)
    assert bounds[1] == pytest.approx(1 - (0.05 / 3) ** (1 / 5))
    assert bounds[2] == 1 and np.isnan(bounds[3])
    alone = scored.values("leak_upper_bound", questions="each")
    assert alone[1] == pytest.approx(1 - 0.05 ** (1 / 5))
    means = scored.values("mean_upper_bound", level=0.5)
    assert np.isnan(means[3]) and means[2] == 1
    assert means[1] == pytest.approx(np.sqrt(np.log(6) / 10)), "sqrt(ln(1 / a) / (2 n)) with a = 0.5 / 3"


def test_the_bounds_hold_for_all_questions_at_once() -> None:
    """300 sets of 8 questions with their own probabilities: in at least 95 % no bound is too low, and in some one is
    near; the mean of the bounds is then above the mean probability."""
    random = np.random.default_rng(0)
    holds = []
    for _ in range(300):
        p = random.random(8) * 0.3
        leaks = (random.random((8, 24)) < p[:, None]).astype(float)
        samples = SampleScores(leaks, leaks, np.ones(8, dtype=bool))
        bounds = ScoredSet(scores([[-1.0]] * 8), ("a",) * 8, samples=samples).values("leak_upper_bound")
        holds.append(bool((bounds >= p).all()))
        assert not holds[-1] or bounds.mean() >= p.mean()
    assert 0.95 <= np.mean(holds) < 1


def test_curves_have_the_powers_of_two_up_to_the_number_of_samples(scored: ScoredSet) -> None:
    key = ModelKey(role="original")
    (curve,) = leak_curves({"forget": scored}, key, LeakSettings(count=5))
    assert [point.k for point in curve.points] == [1, 2, 4]
    assert [point.leak.value for point in curve.points] == pytest.approx([1.4 / 3, 1.7 / 3, 2 / 3])
    assert curve.points[1].largest.value == pytest.approx((0.65 + 1) / 3)
    assert (curve.n, curve.samples, curve.largest_bound) == (3, 5, 1.0)
    assert "one of 4 with 0.667" in curve.words
    without = ScoredSet(scores([[-1.0]]), ("a",))
    assert not list(leak_curves({"forget": without}, key, LeakSettings()))
