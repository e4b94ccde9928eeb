"""Traces of unlearning: how well a linear probe classifies the states of two models on unrelated questions."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from uwc.metrics.registry import set_metrics
from uwc.metrics.regression import standardisation
from uwc.metrics.set_metrics import auc
from uwc.models.token_scores import Floats

FOLDS = 5
TRACE_SETS = ("retain", "world_facts")
_REFERENCES = {"original": "{}:@reference_states", "retrained": "retrained/{}:@states"}
Scoring = Callable[[Floats], Floats]
"""From [E, d] features to [E] scores."""


def ridge(features: Floats, labels: Floats) -> Scoring:
    """Ridge regression of labels on features, which are standardised by their mean and standard deviation.

    ``f(x) = k(x)^T (K + I)^-1 y`` with the kernel ``x^T x' / d``.

    Args:
        features: [E, d].
        labels: [E] +1 or -1.
    """
    mean, scale = standardisation(features)
    fitted = (features - mean) / scale
    weights = fitted.T @ np.linalg.solve(fitted @ fitted.T + np.eye(len(fitted)), labels)
    return lambda states: ((states - mean) / scale) @ weights


def out_of_fold(
    ours: Floats,
    others: Floats,
    clusters: NDArray[np.int64],
    *,
    folds: int = FOLDS,
    fit: Callable[[Floats, Floats], Scoring] = ridge,
) -> tuple[Floats, Floats]:
    """Scores of a probe for two models' states, each from a probe that was not fitted to its cluster.

    Cluster c is in fold ``c mod K``, K the number of folds, or of clusters if that is less. In each fold the probe is
    fitted to +1 (our states) and -1 (the others) on the states of all other folds.

    Args:
        ours: [E, d] states of the model; an example with one that is not finite is left out.
        others: [E, d] those of the other model on the same examples.
        clusters: [E] the number of each example's cluster, from 0.
        folds: the number of folds.
        fit: from [E, d] states and [E] labels to the probe.

    Returns:
        [E] the scores of our states, and [E] those of the others; NaN if left out, or with fewer than two clusters.
    """
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(others).all(axis=1)
    places = np.full(len(ours), -1, dtype=np.int64)
    places[finite] = np.unique(clusters[finite], return_inverse=True)[1]
    folds = min(folds, int(places.max(initial=-1)) + 1)
    scores = np.full((2, len(ours)), np.nan)
    for fold in range(folds if folds > 1 else 0):
        held = finite & (places % folds == fold)
        used = finite & ~held
        probe = fit(np.concatenate([ours[used], others[used]]), np.repeat([1.0, -1.0], int(used.sum())))
        for row, states in zip(scores, (ours, others), strict=True):
            row[held] = probe(states[held])
    return scores[0], scores[1]


def trace_auc(ours: Floats, others: Floats) -> float:
    """How well a linear probe distinguishes the model from another one by its states on questions of other subjects.

    ``AUC = P(f(ours) > f(other)) + P(equal) / 2`` of a probe f that is fitted to the states of other subjects
    (cross-validated, five folds of whole clusters): ridge regression on the standardised states that predict the first
    answer token, after the middle block. 0.5 if the states do not differ, 1 if the probe is always right. The interval
    is over clusters; the probes are not fitted again in each draw.

    Args:
        ours: [E] scores of the probe for the model's states, see `out_of_fold`.
        others: [E] those for the other model's, on the same questions.
    """
    return auc(others, ours)


for _reference, _others in _REFERENCES.items():
    for _set in TRACE_SETS:
        set_metrics.register(
            f"trace_auc_{_reference}_{_set}",
            source="arXiv:2506.14003",
            needs=(f"{_set}:@states", _others.format(_set)),
            prepare=out_of_fold,
            range=(0.0, 1.0),
            higher_remembers=None,
            label=f"trace AUC: {_reference}, {_set.replace('_', ' ')}",
            interval=True,
        )(trace_auc)
