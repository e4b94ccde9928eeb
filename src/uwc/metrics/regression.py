"""Logistic regression, and the standardisation of what it is fitted to."""

import numpy as np
import scipy  # its parts are imported on first use

from uwc.models.token_scores import Floats

_LEAST_SPREAD = 1e-12


def fit_logistic(
    features: Floats,
    labels: Floats,
    *,
    penalty: float | Floats,
    weights: Floats | None = None,
    start: Floats | None = None,
) -> Floats:
    """The coefficients of logistic regression with a quadratic penalty, by L-BFGS.

    ``argmin_w sum_i c_i log(1 + exp(-y_i x_i w)) + sum_j p_j w_j^2 / 2``; the log-odds of x are ``x w``. A constant is
    a feature as any other, with the penalty 0 where it has none.

    Args:
        features: [E, d] x.
        labels: [E] y, each 1 or -1.
        penalty: p, one for all features or [d]; not negative.
        weights: [E] c, the weights of the examples; 1 by default.
        start: [d] coefficients from which the search begins; 0 by default.

    Returns:
        [d] w.
    """
    counts = np.ones(len(labels)) if weights is None else weights

    def loss(w: Floats) -> tuple[float, Floats]:
        margins = labels * (features @ w)
        pulls = -counts * labels * scipy.special.expit(-margins)
        value = counts @ np.logaddexp(0.0, -margins) + np.sum(penalty * w**2) / 2
        return float(value), features.T @ pulls + penalty * w

    first = np.zeros(features.shape[1]) if start is None else start
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6}
    found: Floats = scipy.optimize.minimize(loss, first, jac=True, method="L-BFGS-B", options=options).x
    return found


def standardisation(states: Floats) -> tuple[Floats, Floats]:
    """[d] mean and scale of [N, d] states: ``(states - mean) / scale`` has mean 0 and variance 1 / d in each dimension,
    so that its kernel is about 1 whatever d; a constant dimension becomes 0."""
    mean, spread = states.mean(axis=0), states.std(axis=0)
    return mean, np.where(spread > _LEAST_SPREAD, spread, np.inf) * np.sqrt(states.shape[1])
