"""The observer of answers: honest where two models do not differ, and right where they do."""

from itertools import product

import numpy as np
import pytest

from uwc.metrics.observer import GRID, Half, advantages, aucs, observed, sum_auc
from uwc.metrics.set_metrics import auc

WORDS = [f"word{i}" for i in range(40)]


def answers(seed: int, tilt: float, *, subjects: int = 20, each: int = 2) -> tuple[list[str], list[str], list[str]]:
    """Answers of two models, with words of each subject's own frequencies; the first prefers three words by `tilt`."""
    random = np.random.default_rng(seed)
    ours, others, about = [], [], []
    for subject in range(subjects):
        frequencies = random.dirichlet(np.full(len(WORDS), 0.3))
        tilted = frequencies + tilt * (np.arange(len(WORDS)) < 3)
        for _ in range(each):
            for of_model, p in ((ours, tilted / tilted.sum()), (others, frequencies)):
                of_model.append(" ".join(random.choice(WORDS, size=random.integers(3, 8), p=p)))
            about.append(str(subject))
    return ours, others, about


def test_the_auc_of_sums_is_that_of_all_pairs_of_triples() -> None:
    ours, others = [0, 2, 3, 3], [1, 1, 0, 2, 4]
    sums = [[sum(drawn) for drawn in product(values, repeat=3)] for values in (ours, others)]
    frequencies = [np.bincount(values, minlength=5).astype(float) for values in (ours, others)]
    assert sum_auc(*frequencies, 3) == pytest.approx(auc(np.array(sums[1]), np.array(sums[0])))
    assert sum_auc(*frequencies, 1) == pytest.approx(auc(np.array(others), np.array(ours)))


def test_sums_of_normal_log_odds_have_the_advantage_of_the_formula() -> None:
    """Means that differ by d standard deviations: AUC_n = Phi(d sqrt(n / 2))."""
    from scipy.stats import norm

    grid = np.arange(GRID)
    frequencies = [norm.pdf(grid, 128 + shift, 20) for shift in (8, 0)]
    for n in (1, 4, 16):
        assert sum_auc(*frequencies, n) == pytest.approx(norm.cdf(0.4 * np.sqrt(n / 2)), abs=2e-4)


def test_halves_count_by_their_answers_and_clusters_by_their_weights() -> None:
    """AUC 1 in a half of three answers, 0 in one of a single one; without the first cluster the second half alone."""
    first = np.zeros((2, 4))
    first[0, 3], first[1, 0] = 3, 1
    halves = [Half(first, np.array([[3.0, 0, 0, 0], [0, 1.0, 0, 0]]))]
    ours, others = np.zeros((2, 4)), np.zeros((2, 4))
    ours[0, 3], others[0, 0] = 3, 3
    high = Half(ours, others)
    ours, others = np.zeros((2, 4)), np.zeros((2, 4))
    ours[1, 0], others[1, 3] = 1, 1
    low = Half(ours, others)
    found = aucs([high, low], np.array([[1.0, 1.0], [0.0, 1.0], [2.0, 1.0]]), 1)
    assert found == pytest.approx([0.75, 0.0, 6 / 7])
    assert aucs(halves, np.ones((1, 2)), 1) == pytest.approx([(3 * 4 + 3 / 2) / 16])


def test_equal_answers_have_no_advantage() -> None:
    ours, _, about = answers(0, 0.0)
    for point in advantages(observed(ours, ours, about), resamples=50):
        assert point.advantage.value == pytest.approx(0, abs=1e-9)
        assert point.advantage.low <= 0 <= point.advantage.high


def test_a_difference_is_found_the_more_surely_the_more_answers_there_are() -> None:
    ours, others, about = answers(1, 0.15)
    points = advantages(observed(ours, others, about), resamples=200)
    assert [point.n for point in points] == [1, 2, 4, 8], "a half has ten subjects"
    values = [point.advantage.value for point in points]
    assert values == sorted(values) and values[-1] > 0.9 and points[0].advantage.low > 0.2
    assert advantages(observed(ours, others, about), resamples=200) == points


def test_no_discriminator_sees_the_subject_that_it_scores() -> None:
    """Each subject's answers differ by a word of its own, which says nothing on other subjects."""
    letters = np.random.default_rng(0).permutation([a + b for a in "abcdefghij" for b in "klmnopqrst"])
    ours, others = ([f"it is {word}" for word in letters[part].repeat(2)] for part in (slice(20), slice(20, 40)))
    by_subject, each = [str(i // 2) for i in range(40)], [""] * 40
    unseen, seen = (advantages(observed(ours, others, s), resamples=50)[0] for s in (by_subject, each))
    assert abs(unseen.advantage.value) < 0.3 and seen.advantage.value > 0.4


def test_few_clusters_show_no_difference_however_large() -> None:
    """0.025^(1/5) < 1/2 < 0.025^(1/6) = 0.541."""
    for subjects, least in ((5, False), (6, True)):
        about = [str(i // 4) for i in range(4 * subjects)]
        point = advantages(observed(["yes"] * len(about), ["no"] * len(about), about), resamples=50)[0]
        assert point.advantage.value == pytest.approx(1) and (point.advantage.low > 0) == least
    assert point.advantage.low == pytest.approx(2 * 0.025 ** (1 / 6) - 1)


@pytest.mark.slow
def test_intervals_hold_zero_where_two_models_do_not_differ() -> None:
    """40 pairs of models of one distribution: the AUC is 1/2 on average, and nearly all intervals hold it; plain
    bootstrap intervals, which take the discriminators as given, would not."""
    found = []
    for seed in range(40):
        ours, others, about = answers(100 + seed, 0.0)
        points = advantages(observed(ours, others, about, seed=seed), resamples=200)
        found.append([(p.advantage.value, p.advantage.low, p.advantage.high) for p in points])
    values, lows, highs = np.moveaxis(np.array(found), 2, 0)
    assert np.abs(values.mean(axis=0)).max() < 3 * values.std() / np.sqrt(40)
    assert ((lows <= 0) & (highs >= 0)).mean(axis=0).min() >= 0.85


def test_the_excess_over_two_retrained_models_is_of_the_same_draws() -> None:
    ours, others, about = answers(2, 0.1)
    halves = observed(ours, others, about)
    for point in advantages(halves, control=halves, resamples=50):
        assert point.control == point.advantage and point.excess is not None
        assert (point.excess.value, point.excess.low, point.excess.high) == (0, 0, 0)
