"""Several seeds a method: both sources of spread by hand, and the coverage of the interval by simulation."""

import numpy as np
import pytest
from tests.helpers.probed_sets import frontier_of, probed

from uwc.calibration.frontier import (
    Frontier,
    SeededDraws,
    difference,
    mean_frontier,
    pair_confidences,
    seed_groups,
    seeded_at,
)


def test_the_two_sources_by_hand() -> None:
    """Scores .2 and .4: sd = sqrt(.02), s^2/K = .01. Means of the draws: .1, .3, .5, variance .04 * 21/20."""
    scored = SeededDraws(np.array([0.2, 0.4]), np.array([[0.0, 0.2, 0.4], [0.2, 0.4, 0.6]]), clusters=21)
    record = scored.record()
    assert record.mean == pytest.approx(0.3)
    assert record.sd_seeds == pytest.approx(0.02**0.5)
    assert record.se_examples == pytest.approx(0.042**0.5)
    assert record.se == pytest.approx(0.052**0.5)
    # Satterthwaite: .052^2 / (.01^2 / 1 + .042^2 / 20) = 14.368 degrees, t = 2.1397; 2.1397 * .22804 = .4879
    assert record.low == 0.0
    assert record.high == pytest.approx(0.3 + 0.4879, abs=1e-3)


def test_one_seed_has_the_examples_alone() -> None:
    record = SeededDraws(np.array([0.5]), np.array([[0.4, 0.5, 0.6]]), clusters=11).record()
    assert np.isnan(record.sd_seeds)
    assert record.se == record.se_examples == pytest.approx(0.1 * 1.1**0.5)
    assert record.high == pytest.approx(0.5 + 2.2281 * 0.104881, abs=1e-4)  # t with 10 degrees


def test_a_difference_is_paired_by_examples() -> None:
    """Draws that move together cancel; the seeds are left: .1^2 with one degree of freedom, t = 12.706."""
    moving = np.array([[0.1, 0.3, 0.5]])
    first = SeededDraws(np.array([0.2, 0.4]), np.concatenate([moving, moving]), clusters=30)
    second = SeededDraws(np.array([0.7]), moving + 0.4, clusters=30)
    found = difference(first, second)
    assert found.value == pytest.approx(-0.4)
    assert found.high - found.value == pytest.approx(12.7062 * 0.1, rel=1e-3)
    assert found.low == -1.0


def test_equal_scores_without_any_spread() -> None:
    still = SeededDraws(np.array([0.0, 0.0]), np.zeros((2, 5)), clusters=4)
    assert still.record().low == still.record().high == 0.0


def test_the_interval_covers_as_often_as_it_says() -> None:
    """600 worlds of 4 seeds and 25 examples: score = .5 + seed effect + example effect; 95 % +- 3 % must cover .5."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(25, np.full(25, 1 / 25), size=200) / 25
    covered = 0
    for _ in range(600):
        values = 0.5 + 0.05 * rng.normal(size=(4, 1)) + 0.1 * rng.normal(size=(1, 25))
        record = SeededDraws(values.mean(axis=1), values @ weights.T, clusters=25).record()
        covered += record.low <= 0.5 <= record.high
    assert 0.92 <= covered / 600 <= 0.98


def test_the_mean_curve_over_seeds_by_hand() -> None:
    """Two seeds that keep 1 - a and leave 1 - a and 1 - a / 2: at tau .6 they leave .6 and .8, mean .7, sd .1414.

    Areas 1/2 and 3/4: mean .625, sd .1768. All examples are alike, so that examples add no spread.
    """

    runs = [seeded(1.0), seeded(0.5)]
    found = mean_frontier(runs, taus=(0.6, 1.0))
    first, last = found.curve
    assert (first.tau, first.mean, first.sd_seeds) == pytest.approx((0.6, 0.7, 0.1 * 2**0.5))
    assert first.se_examples == pytest.approx(0.0, abs=1e-12) and first.se == pytest.approx(0.1)
    assert (last.mean, last.sd_seeds) == pytest.approx((1.0, 0.0))
    assert (found.area, found.area_sd) == pytest.approx((0.625, 0.25 / 2**0.5))
    assert first.mean == seeded_at(runs, 0.6).mean
    assert np.isnan(mean_frontier(runs[:1]).area_sd)


def seeded(slope: float) -> Frontier:
    """Retention 1 - a, forget score 1 - slope * a, the same for each of four examples."""
    sets = [probed([[1.0] * 4, [1 - s] * 4], name=name) for name, s in (("retain", 1.0), ("forget", slope))]
    return frontier_of(*sets)


def test_methods_by_their_mean_and_pairs_by_their_draws() -> None:
    """At tau .6: `a` leaves .6 and .8, mean .7; `b` .6; all examples are alike, so that the pair is certain."""
    runs = {"a": {"a@0": seeded(1.0), "a@1": seeded(0.5)}, "b": {"b": seeded(1.0)}}
    members = {name: {run: {"forget": f} for run, f in of.items()} for name, of in runs.items()}
    first, second = seed_groups(members, 0.6)
    assert (first.name, second.name) == ("b", "a") and second.runs == ("a@0", "a@1")
    assert first.mean == pytest.approx(0.6) and second.mean == pytest.approx(0.7)
    assert first.next is not None and first.next.value == pytest.approx(-0.1) and second.next is None
    assert first.minus == {"a": first.next}
    assert second.minus["b"].value == pytest.approx(0.1) and list(second.minus) == ["b"]
    assert second.frontier["forget"].area == pytest.approx(0.625)
    pairs = pair_confidences({"x": seeded(1.0), "y": seeded(0.5)}, 0.6)
    assert pairs["x"]["y"] > 0.9 and pairs["x"]["y"] == pytest.approx(1 - pairs["y"]["x"])
    assert pair_confidences({}, 0.6) == {}
