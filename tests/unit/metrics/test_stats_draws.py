"""Bootstrap draws in blocks: those of a single call, in bounded memory."""

import tracemalloc

import numpy as np
import pytest

from uwc.calibration.probed import ProbedSet
from uwc.data.example import Example
from uwc.metrics import stats
from uwc.metrics.stats import aggregate, draw_blocks


def at_once(clusters: int, seed: int, resamples: int) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


@pytest.mark.parametrize("block", [1, 50, 333, 1 << 22])
def test_blocks_are_the_draws_of_a_single_call(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "BLOCK", block)
    seed, found = 1000 + block, np.zeros((40, 17))
    for part, drawn in draw_blocks(17, seed=seed, resamples=40):
        assert drawn.size <= max(block, 17)
        found[part] = drawn
    np.testing.assert_array_equal(found, at_once(17, seed, 40))


class Unlikely:
    """A generator that draws each cluster 300 times."""

    def multinomial(self, clusters: int, _shares: object, size: int) -> np.ndarray:
        return np.full((size, clusters), 300)


def test_more_draws_than_a_byte_holds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np.random, "default_rng", lambda _seed: Unlikely())
    (block,) = [drawn for _, drawn in draw_blocks(2, seed=99, resamples=3)]
    assert block.tolist() == [[300.0, 300.0]] * 3


@pytest.mark.parametrize("block", [64, 1 << 22])
def test_intervals_do_not_depend_on_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "BLOCK", block)
    values, subjects = np.random.default_rng(0).random(30), [f"s{i % 12}" for i in range(30)]
    sums = np.bincount([i % 12 for i in range(30)], weights=values)
    sizes = np.bincount([i % 12 for i in range(30)])
    draws = at_once(12, 7 + block, 500)
    expected = (draws @ sums) / (draws @ sizes)
    low, high = stats.bootstrap_interval(expected, clusters=12)
    found = aggregate(values, subjects, seed=7 + block, resamples=500)
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-12)
    examples = [Example(str(i), "q?", "a", subject=s) for i, s in enumerate(subjects)]
    probed = ProbedSet.of("forget", "m", examples, [0.0, 1.0], [values, values / 2])
    np.testing.assert_allclose(probed.resampled_means(seed=7 + block, resamples=500)[0], expected, rtol=1e-12)


@pytest.mark.slow
def test_many_clusters_take_a_byte_for_each_draw() -> None:
    clusters, resamples = 40_000, 300
    values = np.random.default_rng(0).random(clusters)
    tracemalloc.start()
    aggregate(values, [""] * clusters, seed=3, resamples=resamples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < clusters * resamples + 3 * 8 * stats.BLOCK < 8 * clusters * resamples * 1.2
