"""Faithfulness: the separation by a metric of models that know from models that do not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from uwc.metrics.registry import metrics


def faithfulness_auc(knowing: Sequence[float], ignorant: Sequence[float], *, higher_remembers: bool = True) -> float:
    """The area under the ROC curve of a metric as a classifier of models that know.

    ``AUC = P(knowing > ignorant) + P(knowing = ignorant) / 2``, with < if low values mean that answers are remembered.

    Args:
        knowing: the metric for models fine-tuned with the data.
        ignorant: the metric for models fine-tuned without it.
        higher_remembers: the metric's direction.

    Returns:
        In 0..1; 0.5 is chance; NaN if either side is empty.
    """
    first = np.asarray(knowing, dtype=np.float64)
    second = np.asarray(ignorant, dtype=np.float64)
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    if not len(first) or not len(second):
        return float("nan")
    wins = float(stats.mannwhitneyu(first, second).statistic) / (len(first) * len(second))
    return wins if higher_remembers else 1.0 - wins


def faithfulness_rows(
    known: Mapping[tuple[str, str], tuple[Sequence[float], Sequence[float]]],
) -> list[dict[str, Any]]:
    """One row for each metric and split: the numbers of models that know and do not, and `faithfulness_auc`.

    Args:
        known: (metric, split) -> the values of models that know, and of those that do not; see `read_known`.

    Raises:
        ConfigError: there is no such metric.
    """
    return [
        {
            "metric": metric,
            "split": split,
            "knowing": len(knowing),
            "ignorant": len(ignorant),
            "auc": faithfulness_auc(knowing, ignorant, higher_remembers=metrics.get(metric).facts["higher_remembers"]),
        }
        for (metric, split), (knowing, ignorant) in known.items()
    ]
