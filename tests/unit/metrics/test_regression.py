"""Logistic regression, and standardisation."""

import numpy as np
import pytest
from scipy.special import expit

from uwc.metrics.regression import fit_logistic, standardisation


def test_logistic_regression_is_that_of_newtons_method() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(40, 3))
    y = np.where(random.random(40) < expit(x @ [1.0, -2.0, 0.5]), 1.0, -1.0)
    w = np.zeros(3)
    for _ in range(30):
        p = expit(x @ w)
        gradient = x.T @ (p - (y + 1) / 2) + 0.3 * w
        w -= np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]) + 0.3 * np.eye(3), gradient)
    assert fit_logistic(x, y, penalty=0.3) == pytest.approx(w, abs=1e-5)
    assert fit_logistic(x, y, penalty=0.3, start=10 * w) == pytest.approx(w, abs=1e-5)


def test_one_example_by_hand() -> None:
    """x = 1, y = 1, penalty 1/2: w solves w / 2 = 1 / (1 + e^w)."""
    w = float(fit_logistic(np.ones((1, 1)), np.ones(1), penalty=0.5)[0])
    assert w / 2 == pytest.approx(1 / (1 + np.exp(w)), abs=1e-6)


def test_a_weight_counts_an_example_so_often_and_a_feature_may_have_no_penalty() -> None:
    """Twice the weight is twice the example; a constant alone without a penalty is the log-odds, log 3."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(12, 2)), np.where(np.arange(12) % 3 > 0, 1.0, -1.0)
    weights = np.arange(12) % 2 + 1.0
    repeated = np.repeat(np.arange(12), weights.astype(int))
    expected = fit_logistic(x[repeated], y[repeated], penalty=0.2)
    assert fit_logistic(x, y, penalty=0.2, weights=weights) == pytest.approx(expected, abs=1e-5)
    labels = np.array([1.0, 1.0, 1.0, -1.0])
    found = fit_logistic(np.ones((4, 2)), labels, penalty=np.array([1.0, 0.0]))
    assert found == pytest.approx([0.0, np.log(3)], abs=1e-5)


def test_standardised_states_have_variance_one_over_d_and_a_constant_is_zero() -> None:
    states = np.array([[1.0, 5.0], [3.0, 5.0]])
    mean, scale = standardisation(states)
    assert (states - mean) / scale == pytest.approx(np.array([[-1, 0], [1, 0]]) / np.sqrt(2))
