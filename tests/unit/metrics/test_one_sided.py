"""Audits under a budget: more leaks where they depend on the questions, and an honest share of all."""

from itertools import combinations

import numpy as np
import pytest

from uwc.data.example import Example
from uwc.metrics.one_sided import AuditSettings, adaptive_queries, question_features, share_of_all

TOPICS = ("born", "prize", "novel", "mother", "teacher", "house")


def questions(subjects: int = 30) -> list[Example]:
    return [
        Example(id=f"{s}/{t}", question=f"What of the {t} of Name{s}?", answer="a", subject=f"Name{s}")
        for s in range(subjects)
        for t in TOPICS
    ]


FEATURES = question_features(questions())


def leaks(seed: int, *, depend: bool) -> np.ndarray:
    """Five of 30 people leak most of their questions and the others 3 %; or all questions 15 %."""
    random = np.random.default_rng(seed)
    chances = np.where(np.isin(np.arange(180) // 6, random.choice(30, 5, replace=False)), 0.75, 0.03)
    return np.asarray(random.random(180) < (chances if depend else 0.15))


def found(truth: np.ndarray, seed: int, share: float) -> int:
    settings = AuditSettings(random_share=share)
    queries = adaptive_queries(FEATURES, lambda asked: truth[list(asked)], budget=60, settings=settings, seed=seed)
    assert len({query.index for query in queries}) == 60, "no question is asked twice"
    assert sum(query.random for query in queries) == round(60 * share)
    return sum(query.leaks for query in queries)


@pytest.mark.slow
def test_more_leaks_are_found_than_in_random_order_where_they_depend_on_the_question() -> None:
    """In 12 populations: significantly more (paired), and not fewer where nothing can be learned."""
    gain = {}
    for depend in (True, False):
        truths = [leaks(seed, depend=depend) for seed in range(12)]
        pairs = [(found(truth, seed, 0.3), found(truth, seed + 500, 1.0)) for seed, truth in enumerate(truths)]
        differences = np.array([ours - theirs for ours, theirs in pairs], dtype=np.float64)
        gain[depend] = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    mean, error = gain[True]
    assert mean > 5 and mean > 4 * error
    mean, error = gain[False]
    assert mean > -2.5 * error


def test_the_optimistic_model_is_that_of_a_direct_solution() -> None:
    """Batches of one: the next question has the largest w x + b sqrt(x H^-1 x), by Newton's method."""
    random = np.random.default_rng(0)
    x = random.normal(size=(12, 3))
    truth = x[:, 0] > 0
    settings = AuditSettings(random_share=0.01, optimism=1.5, batch=1)
    order = [q.index for q in adaptive_queries(x, lambda i: truth[list(i)], budget=12, settings=settings)]
    for t in range(1, 12):
        asked, y = order[:t], np.where(truth[order[:t]], 1.0, 0.0)
        w = np.zeros(3)
        for _ in range(50):
            p = 1 / (1 + np.exp(-x[asked] @ w))
            h = x[asked].T @ (x[asked] * (p * (1 - p))[:, None]) + 0.5 * np.eye(3)
            w -= np.linalg.solve(h, x[asked].T @ (p - y) + 0.5 * w)
        bonus = np.sqrt(np.einsum("ed,dc,ec->e", x, np.linalg.inv(h), x))
        odds = x @ w + 1.5 * bonus
        odds[asked] = -np.inf
        assert order[t] == odds.argmax()


def test_a_batch_takes_up_its_own_questions() -> None:
    """Of two equal questions and another one a batch of two takes one of the equal ones and the other."""
    x = np.array([[1.2, 0.0], [1.2, 0.0], [0.0, 1.0]])
    settings = AuditSettings(random_share=0.01, batch=2)
    for seed in range(5):
        queries = adaptive_queries(x, lambda i: [False] * len(i), budget=2, settings=settings, seed=seed)
        assert {q.index for q in queries} in ({0, 2}, {1, 2})


def test_the_share_of_a_plain_sample_is_by_hand() -> None:
    """Two leaks among four questions drawn from 100 one after the other: T solves
    sum_t (y_t - (T - S_t) / N_t) = 0 with y = 1, 0, 1, 0, S = 0, 1, 1, 2 and N = 100, 99, 98, 97."""
    y = np.array([True, False, True, False])
    weights = 1 / np.array([100.0, 99, 98, 97])
    expected = (2 + weights @ [0, 1, 1, 2]) / weights.sum()
    assert share_of_all(y, np.ones(4, dtype=bool), 100).value == pytest.approx(expected / 100)


def test_the_interval_is_nearly_wilsons_for_a_small_part_of_a_large_population() -> None:
    from scipy.stats import binomtest

    y = np.arange(200) % 10 == 0
    got = share_of_all(y, np.ones(200, dtype=bool), 10**6)
    wilson = binomtest(20, 200).proportion_ci(method="wilson")
    assert (got.low, got.high) == pytest.approx((wilson.low, wilson.high), abs=1e-3)


def test_what_was_asked_is_known() -> None:
    y, drawn = np.array([True, True, False, False, True]), np.array([True, False, True, False, False])
    assert share_of_all(y, drawn, 5).model_dump() == {"value": 0.6, "low": 0.6, "high": 0.6}
    limits = share_of_all(y, np.zeros(5, dtype=bool), 10)
    assert np.isnan(limits.value) and (limits.low, limits.high) == (0.3, 0.8)
    estimate = share_of_all(y, drawn, 6)
    assert 0.5 <= estimate.low <= estimate.value <= estimate.high <= 4 / 6


def test_the_estimate_is_unbiased_over_all_orders() -> None:
    """Random order of three of six questions, of which two leak: the mean over all samples, in all orders, is 1/3."""
    from itertools import permutations

    truth = np.array([True, True, False, False, False, False])
    values = [
        share_of_all(truth[list(order)], np.ones(3, dtype=bool), 6).value
        for chosen in combinations(range(6), 3)
        for order in permutations(chosen)
    ]
    assert len(values) == 120 and np.mean(values) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("rate", "share"), [(None, 0.3), (0.15, 0.3), (0.03, 0.3), (0.5, 0.5), (None, 1.0)])
def test_intervals_cover_the_share_under_adaptive_sampling(rate: float | None, share: float) -> None:
    """120 populations of 240 questions in 12 groups; 80 are asked, most of them where leaks are expected."""
    features = np.concatenate([np.repeat(np.eye(12), 20, axis=0), np.ones((240, 1))], axis=1)
    covered, errors = [], []
    for seed in range(120):
        random = np.random.default_rng(seed)
        bad = np.isin(np.arange(240) // 20, random.choice(12, 2, replace=False))
        truth = random.random(240) < (np.where(bad, 0.7, 0.03) if rate is None else rate)
        settings = AuditSettings(random_share=share)
        queries = adaptive_queries(
            features, lambda asked, truth=truth: truth[list(asked)], budget=80, settings=settings, seed=seed + 1000
        )
        leaked, drawn = (np.array([getattr(q, name) for q in queries]) for name in ("leaks", "random"))
        estimate = share_of_all(leaked, drawn, 240)
        covered.append(estimate.low - 1e-9 <= truth.mean() <= estimate.high + 1e-9)
        errors.append(estimate.value - truth.mean())
    assert np.mean(covered) >= 0.9
    assert abs(np.mean(errors)) < 0.02
