"""Whether the mean over a finite set of examples reaches a bar, decided before all of them are scored."""

import numpy as np
from numpy.typing import NDArray

from uwc.models.token_scores import Floats

ERROR = 1e-3
"""The chance of a wrong early decision in each direction, for one probe."""
_LARGEST_BET = 0.75


class MeanTest:
    """Is ``sum_i d_i >= 0`` over E examples, when they are seen one after another?

    Two bounds are watched. One is certain: what the examples not yet seen can add at the least and at the most. The
    other is a bet, for examples seen in random order (arXiv:2010.09686, sampling without replacement): with values
    scaled to 0..1 and m_t the mean that the examples not yet seen would have if the whole mean were exactly at the bar,
    the capital ``prod_t (1 + b_t (y_t - m_t))`` exceeds ``1 / error`` with a chance of at most `error` if the bar is
    not reached, however often one looks; likewise with the sign turned around. The bet b_t depends on earlier examples
    only.

    Args:
        low: [E] the least value that each d_i can have.
        high: [E] the greatest.
        error: the chance of a wrong decision in each direction.
    """

    def __init__(self, low: Floats, high: Floats, *, error: float = ERROR) -> None:
        self._low, self._high = low, high
        self._rest_low, self._rest_high = float(low.sum()), float(high.sum())
        self._least, self._scale = float(low.min()), float(high.max() - low.min())
        self._size, self._error = len(low), error
        self._tolerance = 1e-9 * (1.0 + self._scale) * self._size
        self._seen, self._total = 0, 0.0
        self._sum, self._squares = 0.5, 0.25  # of the scaled values; begin as if one had been seen in the middle
        self._log_reached = self._log_missed = 0.0

    def see(self, which: NDArray[np.int64], values: Floats, *, random: bool = True) -> bool | None:
        """Take examples into account: True or False if it is decided whether the bar is reached, else None.

        Args:
            which: the examples seen now, by their places in `low`; in the order drawn, if that is random.
            values: their d.
            random: whether they are a random choice of those not yet seen; once they are not, nothing is bet any more.
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
    """After how many examples one looks: 16, then a quarter more each time, and at the end."""
    counts = [min(first, size)]
    while counts[-1] < size:
        grown = int(counts[-1] * growth)
        counts.append(size if grown * growth > 1.2 * size else grown)
    return counts
