"""Prediction of the values of examples at a mixture from those at other mixtures."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import Entry

POWER = 1.5
"""Numbers are interpolated linearly in alpha to this power, since they change slowly near alpha = 0."""
DRAWS = 8
"""Number of random matchings over which a prediction is averaged."""
_COLUMNS = ("logprob", "mean_logprob", "var_logprob", "margin")
_STRIDE = 37


class Expectation:
    """The expected values of examples at any mixture, given those at others.

    For a metric of token scores, the numbers of each token are interpolated between two mixtures, including its margin;
    a token is greedy if its margin is positive. For other metrics the values themselves are interpolated.

    Args:
        entry: the metric.
        values: [E] its values on the original.
        tokens: the original's token scores with margins, if the metric reads only these.

    Attributes:
        by_token: whether tokens are interpolated.
    """

    def __init__(self, entry: Entry[Any], values: Floats, tokens: TokenScores | None) -> None:
        self._entry, self._tokens, self.by_token = entry, tokens, tokens is not None
        self._owner = np.arange(len(values)) if tokens is None else tokens.rows
        self._known: dict[float, Floats] = {}
        self.add(0.0, np.arange(len(values)), values, tokens)

    def add(self, alpha: float, which: NDArray[np.int64], values: Floats, tokens: TokenScores | None) -> None:
        """Add the values of the examples `which`, ascending, at a mixture."""
        found = values[None] if tokens is None else np.stack([getattr(tokens, name) for name in _COLUMNS])
        known = self._known.setdefault(alpha, np.full((len(found), len(self._owner)), np.nan))
        known[:, np.isin(self._owner, which)] = found

    def values(self, alpha: float) -> Floats:
        """[E] the expected values at a mixture; for examples scored there their own."""
        path = Path(self._known, alpha)
        draws = [self._values(path.numbers(draw)) for draw in range(DRAWS if path.models.size else 1)]
        values: Floats = np.mean(draws, axis=0)
        return values

    def _values(self, numbers: Floats) -> Floats:
        values: Floats
        if self._tokens is None:
            values = numbers[0]
            return values
        columns = dict(zip(_COLUMNS, numbers.astype(np.float32), strict=True))
        values = self._entry.function(replace(self._tokens, **columns, greedy=columns["margin"] > 0))
        return values


class Path:
    """Numbers at a mixture, each interpolated linearly between the two nearest mixtures at which it is known.

    These are one on either side, or else the two nearest below, on the scale ``alpha ** POWER``. A number that is known
    at 0 only changes like a random one of those that are known at most mixtures.

    Args:
        known: mixture -> [C, N] numbers, NaN if unknown; all are known at 0.
        alpha: the mixture.

    Attributes:
        models: indices of the numbers that others change like; empty if there are none.
    """

    def __init__(self, known: dict[float, Floats], alpha: float) -> None:
        alphas = np.array(sorted(known))
        stacked = np.stack([known[a] for a in alphas])
        seen = ~np.isnan(stacked[:, 0])
        low, before, high = (np.full(stacked.shape[2], -1) for _ in range(3))
        for k in np.flatnonzero(alphas <= alpha):
            before[seen[k]] = low[seen[k]]
            low[seen[k]] = k
        for k in np.flatnonzero(alphas > alpha)[::-1]:
            high[seen[k]] = k
        second = np.where(high >= 0, high, before)
        alone = second < 0
        second[alone] = low[alone]
        places, scale = np.arange(stacked.shape[2]), alphas**POWER
        near, far = stacked[low, :, places].T, stacked[second, :, places].T
        share = (alpha**POWER - scale[low]) / np.where(alone, 1.0, scale[second] - scale[low])
        self._numbers = near + share * (far - near)
        self._moved = self._numbers - stacked[0]
        self._alone = np.flatnonzero(alone)
        count = np.where(alone, 0, seen.sum(axis=0))
        self.models = np.flatnonzero(count == count.max()) if alone.any() and count.any() else np.zeros(0, np.int64)

    def numbers(self, draw: int) -> Floats:
        """[C, N] the numbers, for one random matching."""
        numbers: Floats = self._numbers.copy()
        if self.models.size:
            numbers[:, self._alone] += self._moved[:, np.resize(np.roll(self.models, _STRIDE * draw), len(self._alone))]
        return numbers
