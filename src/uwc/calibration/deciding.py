"""Whether the mean over a finite set of examples reaches a bar, decided before all of them are scored."""

import numpy as np

from uwc.models.token_scores import Floats

ERROR = 1e-3
"""The chance of a wrong early decision in each direction, for one probe."""
_LARGEST_BET = 0.75


class MeanTest:
    """Is ``sum_i d_i >= 0`` over E examples, when they are seen one after another in random order?

    Two bounds are watched. One is certain: what the examples not yet seen can add at the least and at the most. The
    other is a bet (arXiv:2010.09686, sampling without replacement): with values scaled to 0..1 and m_t the mean that
    the examples not yet seen would have if the whole mean were exactly at the bar, the capital ``prod_t (1 + b_t (y_t -
    m_t))`` exceeds ``1 / error`` with a chance of at most `error` if the bar is not reached, however often one looks;
    likewise with the sign turned around. The bet b_t depends on earlier examples only.

    Args:
        low: [E] the least value that each d_i can have, in the order in which they are seen.
        high: [E] the greatest.
        error: the chance of a wrong decision in each direction.
    """

    def __init__(self, low: Floats, high: Floats, *, error: float = ERROR) -> None:
        self._rest_low = np.append(np.cumsum(low[::-1])[::-1], 0.0)
        self._rest_high = np.append(np.cumsum(high[::-1])[::-1], 0.0)
        self._least, self._scale = float(low.min()), float(high.max() - low.min())
        self._size, self._error = len(low), error
        self._tolerance = 1e-9 * (1.0 + self._scale) * self._size
        self._seen, self._total = 0, 0.0
        self._sum, self._squares = 0.5, 0.25  # of the scaled values; begin as if one had been seen in the middle
        self._log_reached = self._log_missed = 0.0

    def see(self, values: Floats) -> bool | None:
        """Take the next values into account: True or False if it is decided whether the bar is reached, else None."""
        bar = -self._least / self._scale if self._scale else 0.5
        for value in values:
            self._bet((float(value) - self._least) / self._scale if self._scale else 0.5, bar)
        self._total += float(values.sum())
        if self._total + self._rest_low[self._seen] > self._tolerance:
            return True
        if self._total + self._rest_high[self._seen] < -self._tolerance:
            return False
        if max(self._log_reached, self._log_missed) < -np.log(self._error):
            return None
        return self._log_reached > self._log_missed

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


def looks(size: int, *, first: int = 16, growth: float = 1.5) -> list[int]:
    """After how many examples one looks: 16, then half as many again each time, and at the end."""
    counts = [min(first, size)]
    while counts[-1] < size:
        counts.append(min(size, int(counts[-1] * growth)))
    return counts
