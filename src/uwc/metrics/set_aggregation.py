"""Numbers for whole sets with their sample count, standard error and bootstrap interval."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from uwc.metrics.aggregation import Aggregate, bootstrap_interval, cluster_codes
from uwc.models.token_scores import Floats

RESAMPLES = 500


def aggregate_sets(
    function: Callable[..., float],
    values: Sequence[Floats],
    subjects: Sequence[Sequence[str]],
    *,
    groups: Sequence[str],
    interval: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[Aggregate, int]:
    """A set metric with its spread under resampling of clusters; inputs of one group are resampled together.

    Args:
        function: from the arrays of values to one number.
        values: the arguments, each [E_i], NaN where not scored; such examples are left out of that argument.
        subjects: for each argument [E_i]; examples that share one are drawn together.
        groups: for each argument the set that its examples come from; arguments of one set hold the same examples.
        interval: whether a standard error and a 95 % interval (see `bootstrap_interval`) are wanted.
        seed: of the bootstrap.
        resamples: number of draws.

    Returns:
        The aggregate, with n the number of distinct examples, and how many values were left out. Its mean is NaN where
        an argument has no value at all.
    """
    sizes = {group: len(v) for group, v in zip(groups, values, strict=True)}
    clusters = {group: _members(cluster_codes(s)) for group, s in zip(groups, subjects, strict=True)}
    missing = int(sum(np.isnan(v).sum() for v in values))
    number = sum(len(c) for c in clusters.values())

    def measure(chosen: dict[str, NDArray[np.int64]] | None) -> float:
        drawn = [v if chosen is None else v[chosen[g]] for v, g in zip(values, groups, strict=True)]
        kept = [v[~np.isnan(v)] for v in drawn]
        return function(*kept) if all(len(v) for v in kept) else float("nan")

    mean = measure(None)
    se = low = high = float("nan")
    fewest = min(len(c) for c in clusters.values())
    if interval and np.isfinite(mean) and fewest > 1:
        random = np.random.default_rng(seed)
        draws = [measure({g: _resampled(c, random) for g, c in clusters.items()}) for _ in range(resamples)]
        finite = np.array([d for d in draws if np.isfinite(d)])
        if len(finite) > 1:
            se = float(finite.std(ddof=1))
            low, high = bootstrap_interval(finite, clusters=fewest)
    return Aggregate(mean, sum(sizes.values()), missing, number, se, low, high), missing


def _members(codes: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The indices of each cluster's examples."""
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]) if len(codes) else []


def _resampled(clusters: list[NDArray[np.int64]], random: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the examples of as many clusters as there are, drawn with replacement."""
    return np.concatenate([clusters[c] for c in random.integers(0, len(clusters), len(clusters))])
