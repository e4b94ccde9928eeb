"""How well a metric tells models that know from models that do not."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def faithfulness_auc(knowing: Sequence[float], ignorant: Sequence[float], *, higher_remembers: bool = True) -> float:
    """The probability that a model that knows has a more knowing value than one that does not; ties count half.

    ``AUC = P(knowing > ignorant) + P(knowing = ignorant) / 2`` (with < where low values mean that answers are
    remembered).

    Args:
        knowing: the metric for models fine-tuned with the data.
        ignorant: for models fine-tuned without it.
        higher_remembers: the metric's direction.

    Returns:
        In 0..1; 0.5 is chance, NaN if either side is empty.
    """
    first = np.asarray(knowing, dtype=np.float64)
    second = np.asarray(ignorant, dtype=np.float64)
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return float("nan")
    wins = float(stats.mannwhitneyu(first, second).statistic) / (len(first) * len(second))
    return wins if higher_remembers else 1.0 - wins
