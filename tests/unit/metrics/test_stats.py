"""Means, standard errors and intervals, against numbers worked out by hand."""

import tracemalloc

import numpy as np
import pytest

from uwc.metrics import stats
from uwc.metrics.stats import aggregate


def test_independent_examples_have_the_usual_standard_error() -> None:
    """1, 2, 4: mean 7/3, sample variance 7/3, so se = sqrt(7/3 / 3) = sqrt(7) / 3."""
    result = aggregate(np.array([1.0, 2.0, 4.0]), ["", "", ""])
    assert (result.mean, result.n, result.clusters) == (pytest.approx(7 / 3), 3, 3)
    assert result.se == pytest.approx(7**0.5 / 3)
    assert 1.0 <= result.low < result.mean < result.high <= 4.0


def test_clusters_by_hand() -> None:
    """Clusters {0, 0}, {1, 1}: m = 1/2, residual sums -1 and 1, C/(C-1) = 2: se^2 = 2 (1 + 1) / 16 = 1/4."""
    result = aggregate(np.array([0.0, 1.0, 0.0, 1.0]), ["a", "b", "a", "b"])
    assert (result.mean, result.clusters) == (0.5, 2)
    assert result.se == pytest.approx(0.5)
    assert (result.low, result.high) == (0.0, 1.0)


def test_not_scored_examples_are_counted_not_dropped_silently() -> None:
    result = aggregate(np.array([0.5, np.nan, 1.0]), ["", "", ""])
    assert (result.mean, result.n, result.not_scored) == (0.75, 2, 1)


def test_nothing_scored_gives_nan() -> None:
    result = aggregate(np.array([np.nan, np.nan]), ["", ""])
    assert (result.n, result.not_scored) == (0, 2)
    assert np.isnan(result.mean)


def test_one_cluster_has_no_interval() -> None:
    result = aggregate(np.array([0.2, 0.4]), ["a", "a"])
    assert result.mean == pytest.approx(0.3)
    assert np.isnan(result.se)
    assert np.isnan(result.low)


def test_geometric_mean_by_hand() -> None:
    result = aggregate(np.array([1.0, 100.0]), ["", ""], average="geometric")
    assert result.mean == pytest.approx(10.0)
    assert (result.low, result.high) == (pytest.approx(1.0), pytest.approx(100.0))
    assert result.se == pytest.approx(10.0 * np.log(100) / 2)  # delta method: mean x se of the logs


def test_same_seed_same_bits() -> None:
    values = np.random.default_rng(3).random(40)
    subjects = [str(i // 4) for i in range(40)]
    assert aggregate(values, subjects, seed=5) == aggregate(values, subjects, seed=5)
    assert aggregate(values, subjects, seed=5).low != aggregate(values, subjects, seed=6).low


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [8, 30])
def test_bootstrap_interval_covers_the_truth(clusters: int) -> None:
    """Over 400 simulated data sets a 95 % interval should cover the true mean 90 to 98 % of times."""
    rng = np.random.default_rng(0)
    subjects = [str(i // 4) for i in range(4 * clusters)]
    covered = 0
    for trial in range(400):
        values = np.repeat(rng.normal(0, 1, clusters), 4) + rng.normal(0, 1, 4 * clusters)
        result = aggregate(values, subjects, seed=trial, resamples=500)
        covered += result.low <= 0.0 <= result.high
    assert 0.90 <= covered / 400 <= 0.98


def test_draws_of_many_clusters_are_not_kept_and_give_the_usual_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40,000 clusters, 400 draws would take 16 MB as bytes; a block of them takes 4 MB (twice, with its copy)."""
    monkeypatch.setattr(stats, "KEPT", 1 << 20)
    monkeypatch.setattr(stats, "BLOCK", 1 << 19)
    values = np.random.default_rng(1).exponential(size=40_000)
    tracemalloc.start()
    found = aggregate(values, [""] * 40_000, resamples=400)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    few = aggregate(values[:20_000], [""] * 20_000, resamples=400)
    assert found == aggregate(values, [""] * 40_000, resamples=400), "drawn again, to the bit"
    assert found.low == pytest.approx(found.mean - 1.96 * found.se, abs=0.3 * found.se)
    assert found.high == pytest.approx(found.mean + 1.96 * found.se, abs=0.3 * found.se)
    assert few.se == pytest.approx(found.se * 2**0.5, rel=0.1)
    assert peak < 40 << 20, "subjects and their numbers are a part of it"


def test_every_draw_of_many_clusters_has_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "KEPT", 10)
    monkeypatch.setattr(stats, "BLOCK", 12)
    blocks = list(stats.draw_blocks(5, seed=3, resamples=7))
    assert [part for part, _ in blocks] == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    drawn = np.concatenate([counts for _, counts in blocks])
    assert drawn.shape == (7, 5) and (drawn.sum(axis=1) == 5).all()
    random = np.random.default_rng(3)
    first = [int(i) for i in random.integers(5, size=5)]
    assert drawn[0].tolist() == [first.count(i) for i in range(5)]
