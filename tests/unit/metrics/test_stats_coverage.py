"""Do the intervals hold the truth as often as they say? Simulated data sets of known truth, clustered by subject."""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from tests.helpers.probed_sets import frontier_of

from uwc.calibration.frontier import confidence_lower
from uwc.calibration.probed import ProbedSet
from uwc.metrics.set_metrics import auc, harmonic_mean
from uwc.metrics.stats import aggregate_sets, bootstrap_confidence, bootstrap_interval

ALPHAS = np.linspace(0, 1, 9)
QUESTIONS = 4
TOKENS = 10
TRIALS = 300
RETAIN, FORGET = 0.7, 0.45
"""At which alpha half of an average answer is lost."""


def probed(middles: NDArray[np.float64]) -> ProbedSet:
    """Extraction strength of answers of ten tokens along alpha; each [S, M] answer is lost around its own alpha."""
    kept = 1 / (1 + np.exp(12 * (ALPHAS[:, None] - middles.ravel())))
    names = tuple(str(i) for i in range(middles.size))
    subjects = tuple(f"subject {i // middles.shape[1]}" for i in range(middles.size))
    return ProbedSet("a set", "extraction_strength", ALPHAS, names, subjects, np.round(kept * TOKENS) / TOKENS)


def middles(random: np.random.Generator, subjects: int, center: float) -> NDArray[np.float64]:
    """[S, M] where each answer is lost: a part that its subject shares, and a part of its own."""
    shared = 0.15 * random.standard_normal((subjects, 1))
    return center + shared + 0.1 * random.standard_normal((subjects, QUESTIONS))


@cache
def truth(tau: float) -> float:
    """The forget score at tau of the whole population: the mean curves of 400,000 answers."""
    random = np.random.default_rng(99)
    curves = [
        probed(middles(random, 100_000, center)).values.mean(axis=1, keepdims=True) for center in (RETAIN, FORGET)
    ]
    sets = [ProbedSet("all", "extraction_strength", ALPHAS, ("all",), ("",), curve) for curve in curves]
    return frontier_of(*sets).forget_at(tau)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau", "retain", "forget"),
    [(0.9, 5, 5), (0.9, 20, 20), (0.6, 10, 10), (0.9, 40, 8), (0.9, 8, 40)],
)
def test_the_calibrated_score(tau: float, retain: int, forget: int) -> None:
    """Both sets are drawn, and alpha is searched in each draw: the true score is in 90 to 98 % of the intervals."""
    random = np.random.default_rng(retain + 100 * forget)
    covered = 0
    for trial in range(TRIALS):
        sets = probed(middles(random, retain, RETAIN)), probed(middles(random, forget, FORGET))
        found = frontier_of(*sets).estimate(tau, seed=trial)
        covered += found.low <= truth(tau) <= found.high
    assert 0.90 <= covered / TRIALS <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [5, 20])
def test_two_methods_that_are_equally_good_rarely_differ_significantly(subjects: int) -> None:
    """Two methods of the same truth on the same questions: at most 8 % of pairs differ significantly, nominally 5 %."""
    random = np.random.default_rng(subjects)
    mistaken = 0
    for trial in range(TRIALS):
        common = [middles(random, subjects, center) for center in (RETAIN, FORGET)]
        draws = []
        for _ in range(2):
            own = [
                m + 0.1 * random.standard_normal((subjects, 1)) + 0.05 * random.standard_normal(m.shape) for m in common
            ]
            frontier = frontier_of(*map(probed, own))
            draws.append(frontier.resampled_forget_at(0.9, seed=trial))
        sure = confidence_lower(*draws, clusters=subjects)
        mistaken += sure >= 0.975 or sure <= 0.025
    assert mistaken / TRIALS <= 0.08


def test_a_method_that_is_better_is_found() -> None:
    """The second method keeps each forget answer a tenth of alpha longer: significant in nearly every data set."""
    random = np.random.default_rng(3)
    found = 0
    for trial in range(50):
        retain, forget = middles(random, 20, RETAIN), middles(random, 20, FORGET)
        draws = [
            frontier_of(probed(retain), probed(forget + more)).resampled_forget_at(0.9, seed=trial)
            for more in (0.0, 0.1)
        ]
        found += confidence_lower(*draws, clusters=20) >= 0.975
    assert found >= 48


def clustered(random: np.random.Generator, subjects: int, mean: float) -> tuple[NDArray[np.float64], list[str]]:
    """Values of variance 1, half of it shared by a subject's questions."""
    shared, own = random.standard_normal((subjects, 1)), random.standard_normal((subjects, QUESTIONS))
    return (mean + (shared + own) / np.sqrt(2)).ravel(), [str(i // QUESTIONS) for i in range(subjects * QUESTIONS)]


@pytest.mark.slow
def test_the_auc_of_membership() -> None:
    """Members N(0, 1), others N(0.8, 1): the truth is Phi(0.8 / sqrt 2) = 0.714."""
    subjects, random = 10, np.random.default_rng(10)
    true = float(stats.norm.cdf(0.8 / np.sqrt(2)))
    covered = 0
    for trial in range(150):
        (members, a), (others, b) = clustered(random, subjects, 0.0), clustered(random, subjects, 0.8)
        found = aggregate_sets(auc, [members, others], [a, b], groups=["forget", "holdout"], seed=trial, resamples=200)
        covered += found.low <= true <= found.high
    assert 0.90 <= covered / 150 <= 0.98


def quick_harmonic(*parts: NDArray[np.float64]) -> float:
    """The harmonic mean of means."""
    return len(parts) / sum(1 / float(p.sum() / len(p)) for p in parts)


def test_the_quick_harmonic_mean_is_that_of_model_utility() -> None:
    values = [0.3, 0.5, 0.6]
    assert quick_harmonic(*(np.array([v, v]) for v in values)) == pytest.approx(harmonic_mean(values))


@pytest.mark.slow
def test_the_harmonic_mean_of_model_utility() -> None:
    """Three sets of eight subjects, means 0.3, 0.5 and 0.6: the truth is 3 / (1/0.3 + 1/0.5 + 1/0.6) = 3/7."""
    subjects, random = 8, np.random.default_rng(8)
    covered = 0
    for trial in range(150):
        sets = [clustered(random, subjects, 0.0) for _ in range(3)]
        values = [mean + 0.1 * v for mean, (v, _) in zip((0.3, 0.5, 0.6), sets, strict=True)]
        found = aggregate_sets(
            quick_harmonic, values, [s for _, s in sets], groups=["retain", "real_authors", "world_facts"],
            seed=trial, resamples=200,
        )  # fmt: skip
        covered += found.low <= 3 / 7 <= found.high
    assert 0.90 <= covered / 150 <= 0.98


@pytest.mark.parametrize("clusters", [5, 10, 40])
def test_sure_is_where_the_interval_ends(clusters: int) -> None:
    """Of 100,001 evenly spread draws shifted so that the interval ends at 0, the sureness is 0.975."""
    draws = np.linspace(-1, 1, 100_001)
    low, high = bootstrap_interval(draws, clusters=clusters)
    assert low == pytest.approx(-high)
    share = float((draws < high).mean())
    assert bootstrap_confidence(share, clusters=clusters, resamples=len(draws)) == pytest.approx(0.975, abs=1e-3)
    assert bootstrap_confidence(0.5, clusters=clusters, resamples=1000) == pytest.approx(0.5)


def test_many_clusters_give_the_plain_percentiles_and_one_gives_none() -> None:
    draws = np.linspace(0, 1, 10_001)
    low, high = bootstrap_interval(draws, clusters=100_000)
    assert (low, high) == (pytest.approx(0.025, abs=1e-4), pytest.approx(0.975, abs=1e-4))
    assert bootstrap_confidence(0.9, clusters=100_000, resamples=1000) == pytest.approx(0.9, abs=1e-4)
    assert np.isnan(bootstrap_interval(draws, clusters=1)).all()
    assert bootstrap_confidence(1.0, clusters=1, resamples=1000) == 0.5
