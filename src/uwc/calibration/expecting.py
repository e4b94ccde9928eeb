"""What examples are expected to score at a mixture that was not looked at, from the mixtures that were."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uwc.models.token_scores import Floats, TokenScores
from uwc.registry import Entry

POWER = 1.5
"""Numbers are taken for linear in alpha to this power: what unlearning changes, it changes slowly at first."""
DRAWS = 8
"""Over so many choices of which places move alike an expectation is averaged."""
_COLUMNS = ("logprob", "mean_logprob", "var_logprob", "margin")
_STRIDE = 37


class Expectation:
    """The values of examples at any mixture, expected from those scored at others.

    Of a metric of token scores, the numbers of each token are put on a line between two mixtures, by how much its logit
    leads among them; a token is greedy while that is positive. Of other metrics the values themselves are.

    Args:
        entry: the metric.
        values: [E] its values on the original.
        tokens: the original's token scores with margins, where the metric reads these alone.

    Attributes:
        by_token: whether tokens are followed; values alone say little of where a curve bends.
    """

    def __init__(self, entry: Entry[Any], values: Floats, tokens: TokenScores | None) -> None:
        self._entry, self._tokens, self.by_token = entry, tokens, tokens is not None
        self._owner = np.arange(len(values)) if tokens is None else tokens.rows
        self._known: dict[float, Floats] = {}
        self.add(0.0, np.arange(len(values)), values, tokens)

    def add(self, alpha: float, which: NDArray[np.int64], values: Floats, tokens: TokenScores | None) -> None:
        """Take into account what the examples `which`, ascending, scored at a mixture."""
        found = values[None] if tokens is None else np.stack([getattr(tokens, name) for name in _COLUMNS])
        known = self._known.setdefault(alpha, np.full((len(found), len(self._owner)), np.nan))
        known[:, np.isin(self._owner, which)] = found

    def values(self, alpha: float) -> Floats:
        """[E] the values expected at a mixture; those of examples scored there are what they scored."""
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
    """Numbers at a mixture, each on the line through the two nearest mixtures at which it is known.

    One on either side, or else the two nearest below, on the scale ``alpha ** POWER``. A number that is known at 0 only
    moves as one of those does that are known at the most mixtures: of the examples that are scored at each of them.

    Args:
        known: mixture -> [C, N] numbers, NaN in places that were not looked at; that at 0 has all.
        alpha: the mixture asked for.

    Attributes:
        models: the places that others move like; none if there are no others.
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
        """[C, N] the numbers, for one choice of which places move alike."""
        numbers: Floats = self._numbers.copy()
        if self.models.size:
            numbers[:, self._alone] += self._moved[:, np.resize(np.roll(self.models, _STRIDE * draw), len(self._alone))]
        return numbers
