"""Aggregation of the values of an example's rows."""

import numpy as np

from uwc.models.token_scores import Floats, TokenScores


def sum_by_example(values: Floats, rows: TokenScores, examples: TokenScores) -> Floats:
    """[E] the sum of the values of an example's rows; NaN for an example without rows.

    Args:
        values: one for each of `rows`.
        rows: several rows an example.
        examples: one row an example; gives the order of the result.
    """
    place = {identity: i for i, identity in enumerate(examples.ids)}
    at = np.array([place[identity] for identity in rows.ids], dtype=np.int64)
    total: Floats = np.bincount(at, weights=values, minlength=len(examples)).astype(np.float64)
    total[np.bincount(at, minlength=len(examples)) == 0] = np.nan
    return total


def mean_by_example(values: Floats, rows: TokenScores, examples: TokenScores) -> Floats:
    """[E] the mean of the values of an example's rows; NaN for an example without rows."""
    return sum_by_example(values, rows, examples) / sum_by_example(np.ones(len(rows)), rows, examples)
