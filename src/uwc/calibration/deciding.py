"""Sequential test whether the mean over a finite set of examples reaches a bar."""

import numpy as np
from numpy.typing import NDArray

from uwc.models.token_scores import Floats

ERROR = 1e-3
"""The probability of a wrong early decision in each direction, for one probe."""
_LARGEST_BET = 0.75


class MeanTest:
    """Sequential test of ``sum_i d_i >= 0`` over E examples that are seen one after another.

    Two bounds are used. One is certain: the least and the greatest sum of the examples not yet seen. The other is a
    betting martingale for examples in random order (arXiv:2010.09686, sampling without replacement): with values scaled
    to 0..1 and m_t the mean of the examples not yet seen if the whole mean were exactly at the bar, the capital
    ``prod_t (1 + b_t (y_t - m_t))`` exceeds ``1 / error`` with probability at most `error` if the bar is not reached,
    at any time; likewise with the opposite sign. The bet b_t depends on earlier examples only.

    Args:
        low: [E] the least possible value of each d_i.
        high: [E] the greatest.
        error: the probability of a wrong decision in each direction.
    """

    def __init__(self, low: Floats, high: Floats, *, error: float = ERROR) -> None:
        self._low, self._high = low, high
        self._rest_low, self._rest_high = float(low.sum()), float(high.sum())
        self._least, self._scale = float(low.min()), float(high.max() - low.min())
        self._size, self._error = len(low), error
        self._tolerance = 1e-9 * (1.0 + self._scale) * self._size
        self._seen, self._total = 0, 0.0
        self._sum, self._squares = 0.5, 0.25  # of the scaled values; the prior is one value of 0.5
        self._log_reached = self._log_missed = 0.0

    def see(self, which: NDArray[np.int64], values: Floats, *, random: bool = True) -> bool | None:
        """Add examples. Returns True or False if it is decided whether the bar is reached, else None.

        Args:
            which: the new examples, by their indices in `low`; in the order drawn, if that is random.
            values: their d.
            random: whether they are a random choice of those not yet seen; the first that are not end the betting.
        """
        self._total += float(values.sum())
        self._rest_low -= float(self._low[which].sum())
        self._rest_high -= float(self._high[which].sum())
        if self._total + self._rest_low > self._tolerance:
            return True
        if self._total + self._rest_high < -self._tolerance:
            return False
        if random and self._scale:
            bar = -self._least / self._scale
            for value in values:
                self._bet((float(value) - self._least) / self._scale, bar)
            if max(self._log_reached, self._log_missed) >= -np.log(self._error):
                return self._log_reached > self._log_missed
        return None

    def _bet(self, scaled: float, bar: float) -> None:
        count = self._seen + 1
        left = self._size - self._seen
        expected = (self._size * bar - (self._sum - 0.5)) / left
        if 0.0 < expected < 1.0:
            mean = self._sum / count
            variance = max(self._squares / count, 1e-8)
            edge = mean - expected
            bet = edge / (variance + edge**2)
            self._log_reached += float(np.log1p(min(max(bet, 0.0), _LARGEST_BET / expected) * (scaled - expected)))
            self._log_missed += float(
                np.log1p(min(max(-bet, 0.0), _LARGEST_BET / (1.0 - expected)) * (expected - scaled))
            )
        before = self._sum / count
        self._seen, self._sum = count, self._sum + scaled
        self._squares += (scaled - before) * (scaled - self._sum / (count + 1))


def looks(size: int, *, first: int = 16, growth: float = 1.25) -> list[int]:
    """The numbers of examples after which the test is evaluated: 16, then a quarter more each time, and the last."""
    counts = [min(first, size)]
    while counts[-1] < size:
        grown = int(counts[-1] * growth)
        counts.append(size if grown * growth > 1.2 * size else grown)
    return counts
