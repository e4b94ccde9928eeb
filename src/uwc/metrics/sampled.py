"""Leakage of sampled answers: leak@k, the expected largest of k scores, and bounds on leakage."""

import numpy as np
import scipy  # its parts are imported on first use

from uwc.errors import ConfigError
from uwc.models.token_scores import Floats


def leak_at_k(leaks: int, samples: int, k: int) -> float:
    """The probability that at least one of k samples leaks, without bias, from n samples of which c leak.

    ``1 - C(n - c, k) / C(n, k)``, with log-gamma.

    Args:
        leaks: c, in 0..n.
        samples: n, at least 1.
        k: the number of tries, at least 1.

    Returns:
        In 0..1; NaN for k > n, for which n samples say nothing without bias.

    Raises:
        ConfigError: a number is out of its range.

    Source: arXiv:2511.04934; arXiv:2107.03374 for the estimator.
    """
    _require_counts(leaks, samples)
    _require_tries(k)
    if k > samples:
        return float("nan")
    if k > samples - leaks:
        return 1.0
    return float(-np.expm1(_log_choose(samples - leaks, k) - _log_choose(samples, k)))


def expected_largest(scores: Floats, k: int) -> float:
    """The expected largest of k scores, without bias, from n of them.

    ``E[max of k] = sum_{i=1..n} s_(i) C(i - 1, k - 1) / C(n, k)`` with ``s_(1) <= ... <= s_(n)``: the mean of the
    largest over all subsets of size k. For scores of 0 and 1 it is `leak_at_k`.

    Args:
        scores: [n] one for each sample.
        k: the number of tries, at least 1.

    Returns:
        The expectation; NaN for k > n, or if a score is NaN.

    Raises:
        ConfigError: k is less than 1.

    Source: arXiv:2511.04934.
    """
    _require_tries(k)
    n = len(scores)
    if k > n or np.isnan(scores).any():
        return float("nan")
    ranks = np.arange(k, n + 1, dtype=np.float64)
    weights = np.exp(_log_choose(ranks - 1, k - 1) - _log_choose(n, k))
    return float(np.sort(scores)[k - 1 :] @ weights / weights.sum())


def leak_bound(leaks: int, samples: int, *, level: float = 0.95) -> float:
    """The one-sided upper confidence bound of the probability that a sample leaks (Clopper and Pearson).

    ``Beta^-1(level; c + 1, n - c)`` for c of n samples that leak; 1 for c = n.

    Args:
        leaks: c, in 0..n.
        samples: n, at least 1.
        level: of confidence, between 0 and 1.

    Raises:
        ConfigError: a number is out of its range.

    Source: arXiv:2410.03523.
    """
    _require_counts(leaks, samples)
    _require_level(level)
    return 1.0 if leaks == samples else float(scipy.stats.beta.ppf(level, leaks + 1, samples - leaks))


def exceedance_bound(scores: Floats, x: float, *, level: float = 0.95) -> float:
    """The upper confidence bound of the probability that a score exceeds x, for all x at once.

    ``P(X > x) <= 1 - F_n(x) + e``, at most 1, with F_n the empirical distribution function and
    ``e = sqrt(ln(1 / (1 - level)) / (2 n))`` (Dvoretzky, Kiefer, Wolfowitz; Massart), for a level of at least 1/2.

    Args:
        scores: [n] one for each sample, at least one.
        x: a score.
        level: of confidence, at least 0.5 and less than 1.

    Raises:
        ConfigError: there is no score, or a number is out of its range.

    Source: arXiv:2410.03523.
    """
    return min(1.0, float((scores > x).mean()) + _dkw(scores, level))


def mean_bound(scores: Floats, *, level: float = 0.95) -> float:
    """The upper confidence bound of the mean of scores in 0..1.

    ``int_0^1 min(1, 1 - F_n(x) + e) dx``, the integral of `exceedance_bound`; exact, since F_n is a step function.

    Args:
        scores: [n] one for each sample, at least one, in 0..1.
        level: of confidence, at least 0.5 and less than 1.

    Raises:
        ConfigError: there is no score, or a number is out of its range.

    Source: arXiv:2410.03523.
    """
    gap = _dkw(scores, level)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ConfigError("the bound of a mean is for scores in 0..1; scale them to 0..1, and leave out missing ones")
    widths = np.diff(np.concatenate(([0.0], np.sort(scores), [1.0])))
    above = 1.0 - np.arange(len(scores) + 1) / len(scores)
    return float(widths @ np.minimum(1.0, above + gap))


def _dkw(scores: Floats, level: float) -> float:
    if len(scores) == 0:
        raise ConfigError("a bound needs at least one score; sample at least one answer")
    if not 0.5 <= level < 1.0:
        raise ConfigError(f"level = {level}; a one-sided bound of a distribution needs a level in 0.5..1, less than 1")
    return float(np.sqrt(np.log(1.0 / (1.0 - level)) / (2 * len(scores))))


def _log_choose(n: "Floats | int", k: int) -> "Floats":
    """log C(n, k), by log-gamma."""
    gammaln = scipy.special.gammaln
    found: Floats = gammaln(np.add(n, 1.0)) - gammaln(k + 1.0) - gammaln(np.add(n, 1.0 - k))
    return found


def _require_counts(leaks: int, samples: int) -> None:
    if samples < 1 or not 0 <= leaks <= samples:
        raise ConfigError(f"{leaks} of {samples} samples leak; there must be at least 1 sample, and 0 to all may leak")


def _require_tries(k: int) -> None:
    if k < 1:
        raise ConfigError(f"k = {k}; the number of tries must be at least 1")


def _require_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level = {level}; it is a confidence, and must be between 0 and 1")
