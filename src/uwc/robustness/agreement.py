"""Agreement of a metric before and after an attack, over checkpoints."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from uwc.metrics.stats import bootstrap_interval
from uwc.results import Agreement, Estimate

Floats = NDArray[np.float64]
FEW_POINTS = 10
LITTLE_SPREAD = 1e-3
LEVELLED = 0.05
RESAMPLES = 2000


def agreement(
    before: Sequence[float], after: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Agreement:
    """Statistics of the metric after an attack against before it.

    Args:
        before: [n] one value a checkpoint.
        after: [n] in the same order; pairs with a value that is not finite are left out.
        resamples: bootstrap draws of n checkpoints with replacement; the interval is over the draws in which the
            statistic exists.
        seed: of the draws.

    Raises:
        ValueError: the two differ in length.

    Source: arXiv:2406.09179.
    """
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"before and after have shapes {x.shape} and {y.shape}; one value a checkpoint is needed")
    finite = np.isfinite(x) & np.isfinite(y)
    dropped = int((~finite).sum())
    x, y = x[finite], y[finite]
    draws = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x))) if len(x) else None

    def estimate(statistic: Callable[[Floats, Floats], Floats]) -> Estimate:
        if draws is None:
            return Estimate(value=np.nan, low=np.nan, high=np.nan)
        value = float(statistic(x[None], y[None])[0])
        drawn = statistic(x[draws], y[draws])
        drawn = drawn[np.isfinite(drawn)]
        if len(x) < 3 or not np.isfinite(value) or not len(drawn):
            return Estimate(value=value, low=np.nan, high=np.nan)
        low, high = bootstrap_interval(drawn, clusters=len(x))
        return Estimate(value=value, low=low, high=high)

    names = ("pcc", "spearman", "slope", "intercept", "distance")
    statistics = (pearson, spearman, slope, intercept, distance)
    estimates = {name: estimate(f) for name, f in zip(names, statistics, strict=True)}
    return Agreement(n=len(x), warnings=_warnings(x, y, dropped), **estimates)


def pearson(x: Floats, y: Floats) -> Floats:
    """[R] Pearson's correlation of each of R rows of [R, n]; NaN if either is constant."""
    return _ratio(_covariance(x, y), np.sqrt(_covariance(x, x) * _covariance(y, y)))


def spearman(x: Floats, y: Floats) -> Floats:
    """[R] Pearson's correlation of the ranks, ties sharing their mean rank."""
    return pearson(stats.rankdata(x, axis=1), stats.rankdata(y, axis=1))


def slope(x: Floats, y: Floats) -> Floats:
    """[R] the slope of the least-squares line of y on x; NaN if x is constant."""
    return _ratio(_covariance(x, y), _covariance(x, x))


def intercept(x: Floats, y: Floats) -> Floats:
    """[R] the intercept of that line."""
    return np.asarray(y.mean(axis=1) - slope(x, y) * x.mean(axis=1), dtype=np.float64)


def distance(x: Floats, y: Floats) -> Floats:
    """[R] the mean distance of the points from the line y = x."""
    return np.asarray(np.abs(y - x).mean(axis=1) / np.sqrt(2.0), dtype=np.float64)


def _covariance(x: Floats, y: Floats) -> Floats:
    centred = (x - x.mean(axis=1, keepdims=True)) * (y - y.mean(axis=1, keepdims=True))
    return np.asarray(centred.mean(axis=1), dtype=np.float64)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    ratio = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 1e-24)
    return ratio


def _warnings(x: Floats, y: Floats, dropped: int) -> tuple[str, ...]:
    found = []
    if dropped:
        found.append(f"{dropped} checkpoints without a finite value left out")
    if len(x) < FEW_POINTS:
        found.append(f"only {len(x)} checkpoints; a correlation needs at least {FEW_POINTS}")
    for name, values in (("before", x), ("after", y)):
        if len(values) and float(values.std()) < LITTLE_SPREAD * max(1.0, float(np.abs(values).max())):
            found.append(f"no spread {name} the attack; a correlation is meaningless")
    if len(x) and not found and float(y.std()) < LEVELLED * float(x.std()):
        found.append(
            f"the attack makes the checkpoints nearly alike: their spread after it is {y.std() / x.std():.1%} of that "
            "before; a correlation rests on little"
        )
    return tuple(found)
