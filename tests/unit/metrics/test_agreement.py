"""Cohen's kappa, by hand and against a slow count."""

import numpy as np
import pytest

from uwc.metrics.agreement import agreement, cohen_kappa


def test_kappa_of_a_table_worked_out_by_hand() -> None:
    """20, 5, 10, 15: p_o = .7, p_e = .5 * .6 + .5 * .4 = .5, kappa = .4 (Wikipedia's example)."""
    assert cohen_kappa(np.array([20, 5, 10, 15])) == pytest.approx(0.4)
    several = cohen_kappa(np.array([[10, 0, 0, 10], [5, 5, 5, 5], [0, 10, 10, 0], [7, 0, 0, 0]]))
    assert several == pytest.approx([1.0, 0.0, -1.0, np.nan], nan_ok=True)


def test_kappa_is_that_of_a_slow_count() -> None:
    """Chance as the share of equal answers among all pairs of a verdict with any label."""
    random = np.random.default_rng(3)
    verdicts, labels = random.integers(0, 2, (2, 60)).astype(float)
    observed = sum(v == label for v, label in zip(verdicts, labels, strict=True)) / 60
    chance = sum(v == label for v in verdicts for label in labels) / 3600
    found = agreement(verdicts, labels, [""] * 60, resamples=50)
    assert found.kappa.value == pytest.approx((observed - chance) / (1 - chance))


def test_agreement_counts_cells_and_answers_without_a_verdict() -> None:
    verdicts, labels = np.array([1, 1, 0, 0, np.nan, 1]), np.array([1, 0, 1, 0, 1, 1])
    found = agreement(verdicts, labels, list("abcdef"))
    cells = found.confusion
    assert (cells.both_yes, cells.judge_yes, cells.label_yes, cells.both_no) == (2, 1, 1, 1)
    assert found.share.mean == pytest.approx(3 / 5) and found.share.not_scored == 1 and found.share.clusters == 5
    one, other = 3 / 5, 3 / 5
    chance = one * other + (1 - one) * (1 - other)
    assert found.kappa.value == pytest.approx((3 / 5 - chance) / (1 - chance))
    assert found.kappa.low < found.kappa.value < found.kappa.high


def test_the_interval_draws_whole_clusters() -> None:
    """Wider for six clusters of two equal answers than for twelve answers of their own; none for one cluster."""
    verdicts, labels = np.tile([1.0, 1, 0, 0, 1, 0], 2), np.tile([1.0, 0, 0, 1, 1, 0], 2)
    alone, paired = (agreement(verdicts, labels, s) for s in ([""] * 12, [str(i % 6) for i in range(12)]))
    assert alone.kappa.value == paired.kappa.value
    assert paired.kappa.high - paired.kappa.low > alone.kappa.high - alone.kappa.low
    assert np.isnan(agreement(verdicts, labels, ["x"] * 12).kappa.low)


def test_without_any_verdict_there_is_no_kappa() -> None:
    found = agreement(np.array([np.nan, np.nan]), np.array([1.0, 0.0]), ["", ""])
    assert np.isnan(found.kappa.value) and found.share.n == 0 and found.share.not_scored == 2
