"""Audits under a budget: which question is asked next, and the share of leaks among all questions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from uwc.data.example import Example
from uwc.metrics.regression import fit_logistic
from uwc.metrics.text_features import hashed, word_grams
from uwc.models.token_scores import Floats
from uwc.results import Estimate
from uwc.strict_numbers import StrictNumbers

SIZE = 256
"""The columns of hashed words, and of hashed subjects."""
PENALTY = 0.5
"""The penalty of the weights of the optimistic model."""
_QUANTILE = 1.959963984540054
_ROUNDING = 1e-9


@checked_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class AuditSettings(StrictNumbers):
    """How questions are chosen under a budget.

    Attributes:
        random_share: the share of the queries whose question is drawn at random from those that were not asked; 1 for
            random order.
        optimism: how many standard deviations are added to the log-odds of a leak.
        batch: the number of questions that are asked before the model of leaks is fitted again.
    """

    random_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    optimism: Annotated[float, Field(ge=0)] = 1.0
    batch: Annotated[int, Field(ge=1)] = 8


def question_features(examples: Sequence[Example]) -> Floats:
    """[E, 2 * 256 + 1] the features of questions: hashed n-grams of 1 to 2 words, the hashed subject, and 1."""
    words = hashed([word_grams(e.question) for e in examples], size=SIZE)
    subjects = hashed([[e.subject] if e.subject else [] for e in examples], size=SIZE)
    return np.concatenate([words, subjects, np.ones((len(examples), 1))], axis=1)


@dataclass(frozen=True)
class Query:
    """A question that was asked.

    Attributes:
        index: of the question.
        random: whether it was drawn at random from those that were not asked before.
        leaks: whether its answer leaks.
    """

    index: int
    random: bool
    leaks: bool


def adaptive_queries(
    features: Floats,
    ask: Callable[[Sequence[int]], Sequence[bool]],
    *,
    budget: int,
    settings: AuditSettings | None = None,
    seed: int = 0,
) -> list[Query]:
    """Ask questions in the order of an optimistic model of leaks, and some at random.

    Logistic regression of the leaks so far on the features gives weights w, ``H = sum_i p_i (1 - p_i) x_i x_i^T + I /
    2`` their precision, and each question its optimistic log-odds ``x w + b sqrt(x^T H^-1 x)``, b the optimism: what
    little is known of counts in its favour. The question with the largest ones is asked next. In a batch, of which no
    answer is known yet, the precision takes up each chosen question. Query t is drawn at random if ``floor((t + 1) r) >
    floor(t r)`` for a random share r, independently of all answers.

    Args:
        features: [E, d] those of the questions.
        ask: from indices of questions to whether their answers leak.
        budget: the number of queries; at most E are made.
        settings: how questions are chosen.
        seed: of the random questions.

    Source: after arXiv:2006.04858 (optimism under one-sided feedback).
    """
    chosen, random = settings or AuditSettings(), np.random.default_rng(seed)
    free = np.ones(len(features), dtype=bool)
    most = min(budget, len(features))
    at_random = np.diff(np.floor(np.arange(most + 1) * chosen.random_share + 1e-9)) > 0
    found: list[Query] = []
    weights = np.zeros(features.shape[1])
    while len(found) < most:
        kinds = at_random[len(found) : len(found) + chosen.batch]
        optimist = None
        if not kinds.all():
            asked = [query.index for query in found]
            labels = np.array([1.0 if query.leaks else -1.0 for query in found])
            weights = fit_logistic(features[asked], labels, penalty=PENALTY, start=weights)
            optimist = _Optimist(features, weights, asked, chosen.optimism)
        batch: list[int] = []
        for drawn in kinds:
            if drawn or optimist is None:
                index = int(random.choice(np.flatnonzero(free)))
            else:
                index = optimist.best(free, random)
            if optimist is not None:
                optimist.take(index)
            free[index] = False
            batch.append(index)
        leaks = ask(batch)
        found += [Query(i, bool(k), bool(leak)) for i, k, leak in zip(batch, kinds, leaks, strict=True)]
    return found


class _Optimist:
    """The optimistic log-odds of all questions.

    Args:
        features: [E, d].
        weights: [d].
        asked: the questions that the weights were fitted to.
        optimism: b.
    """

    def __init__(self, features: Floats, weights: Floats, asked: Sequence[int], optimism: float) -> None:
        self._features, self._optimism = features, optimism
        self._odds: Floats = features @ weights
        shares = scipy.special.expit(self._odds)
        self._pulls: Floats = shares * (1.0 - shares)
        known = features[list(asked)]
        precision = known.T @ (known * self._pulls[list(asked), None]) + PENALTY * np.eye(features.shape[1])
        self._covariance: Floats = np.linalg.inv(precision)
        self._variances: Floats = np.einsum("ed,ed->e", features @ self._covariance, features)

    def best(self, free: NDArray[np.bool_], random: np.random.Generator) -> int:
        """The question with the largest optimistic log-odds; of several one at random."""
        odds = np.where(free, self._odds + self._optimism * np.sqrt(np.maximum(self._variances, 0.0)), -np.inf)
        return int(random.choice(np.flatnonzero(odds >= odds.max() - 1e-12)))

    def take(self, index: int) -> None:
        """Add a question to the precision, by the formula of Sherman and Morrison."""
        moved = self._covariance @ self._features[index]
        scale = self._pulls[index] / (1.0 + self._pulls[index] * float(self._features[index] @ moved))
        self._covariance = self._covariance - scale * np.outer(moved, moved)
        self._variances = self._variances - scale * (self._features @ moved) ** 2


def share_of_all(leaks: NDArray[np.bool_], random: NDArray[np.bool_], total: int) -> Estimate:
    """The share of E questions that leak, from B that were asked adaptively and partly at random, with a 95 % interval.

    Before query t there are ``N_t = E - t`` questions that were not asked, and S_t of those asked leak. If T of all E
    leak, a question drawn at random from these leaks with probability ``p_t(T) = (T - S_t) / N_t``, whatever was asked
    before and for which reason. Over the random queries ``sum_t (y_t - p_t(T))`` is therefore a sum of martingale
    differences: the T for which it is 0 is an unbiased estimate, which is then moved into the possible range, and the
    interval has each T for which it is at most
    1.96 times ``sqrt(sum_t p_t(T) (1 - p_t(T)))`` (for a fixed p the score interval of Wilson). Only T from S_B to
    ``S_B + N_B`` are possible; if all were asked the share is known.

    Args:
        leaks: [B] whether the answer to each question leaks, in the order in which they were asked.
        random: [B] whether it was drawn at random.
        total: E.
    """
    known, left = int(leaks.sum()), total - len(leaks)
    before: Floats = (np.cumsum(leaks) - leaks)[random].astype(np.float64)
    remaining = (total - np.flatnonzero(random)).astype(np.float64)
    said = leaks[random].astype(np.float64)

    def excess(count: int) -> float:
        p = (count - before) / remaining
        off, variance = float((said - p).sum()), float((p * (1.0 - p)).sum())
        return (
            off / np.sqrt(variance) if variance > 0 else float(np.sign(round(off, 9)) * np.inf if round(off, 9) else 0)
        )

    low, high = known, known + left
    if len(said) == 0:
        return Estimate(value=float("nan"), low=low / total, high=high / total)
    value = min(max(float((said + before / remaining).sum() / (1.0 / remaining).sum()), low), high)
    nearest = min(max(round(value), low), high)
    least = _first(low, nearest, lambda count: excess(count) <= _QUANTILE)
    most = -_first(-high, -nearest, lambda count: excess(-count) >= -_QUANTILE)
    return Estimate(value=value / total, low=min(least, value) / total, high=max(most, value) / total)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest integer from low to high from which something holds, which holds at the end."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low
