"""Robustness of metrics: agreement before and after attacks, faithfulness, and published correlations."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported on first use
from numpy.typing import NDArray

from uwc.data.tables import Table, read_table
from uwc.errors import DataError
from uwc.metrics.registry import metrics
from uwc.metrics.stats import bootstrap_interval
from uwc.metrics.suites import few_clusters
from uwc.published import published
from uwc.results import (
    ENOUGH_MODELS,
    Agreement,
    Attacks,
    Cell,
    Estimate,
    Faithfulness,
    Order,
    Point,
    Rank,
    Robustness,
    Warning,
)

Floats = NDArray[np.float64]
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
    return pearson(scipy.stats.rankdata(x, axis=1), scipy.stats.rankdata(y, axis=1))


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
    if len(x) < ENOUGH_MODELS:
        found.append(f"only {len(x)} checkpoints; a correlation needs at least {ENOUGH_MODELS}")
    for name, values in (("before", x), ("after", y)):
        if len(values) and float(values.std()) < LITTLE_SPREAD * max(1.0, float(np.abs(values).max())):
            found.append(f"no spread {name} the attack; a correlation is meaningless")
    if len(x) and not found and float(y.std()) < LEVELLED * float(x.std()):
        found.append(
            f"the attack makes the checkpoints nearly alike: their spread after it is {y.std() / x.std():.1%} of that "
            "before; a correlation rests on little"
        )
    return tuple(found)


def few_checkpoints(found: Robustness) -> tuple[Warning, ...]:
    """The warning on correlations over fewer than five checkpoints, if there are any."""
    count = min((cell.agreement.n for cell in found.cells), default=0)
    few = few_clusters("The points of a correlation", count, kind="checkpoint")
    return tuple(Warning(code=code, text=text) for code, text in few)


def compare(points: Sequence[Point], *, log_metrics: Sequence[str] = ("perplexity",), seed: int = 0) -> list[Cell]:
    """One cell for each metric, attack and split, in the order of the points; none where no checkpoint has values.

    Args:
        points: one for each checkpoint, metric, attack and split.
        log_metrics: metrics whose logarithms are compared.
        seed: of the bootstraps.

    Raises:
        DataError: a checkpoint occurs twice in a cell, or a value of `log_metrics` is not positive.
    """
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.metric, point.attack, point.split), []).append(point)
    cells = []
    for (metric, attack, split), group in groups.items():
        where = f"{metric} under {attack} on {split}"
        names = [p.checkpoint for p in group]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise DataError(f"{where}: the checkpoint {twice!r} occurs twice; give each one once")
        logged = metric in log_metrics
        before = [_value(p.before, logged, where) for p in group]
        after = [_value(p.after, logged, where) for p in group]
        found = agreement(before, after, seed=seed)
        if not found.n:
            continue
        cells.append(
            Cell(
                metric=metric,
                attack=attack,
                split=split,
                touches_weights=group[0].touches_weights,
                on_logarithms=logged,
                agreement=found,
            )
        )
    return cells


def rank(cells: Sequence[Cell]) -> list[Rank]:
    """The metrics by mean PCC, separately for attacks that may add knowledge and for others.

    A PCC that does not exist, as for a constant metric, counts as 0.
    """
    ranks: list[Rank] = []
    for touches in (False, True):
        groups: dict[str, list[Agreement]] = {}
        for cell in cells:
            if cell.touches_weights == touches:
                groups.setdefault(cell.metric, []).append(cell.agreement)
        rows = [(metric, np.nan_to_num([a.pcc.value for a in group]), group) for metric, group in groups.items()]
        rows.sort(key=lambda row: (-float(row[1].mean()), row[0]))
        for place, (metric, pccs, group) in enumerate(rows, start=1):
            slopes = np.array([a.slope.value for a in group])
            slopes = np.abs(slopes[np.isfinite(slopes)] - 1.0)
            ranks.append(
                Rank(
                    place=place,
                    metric=metric,
                    touches_weights=touches,
                    pcc=float(pccs.mean()),
                    worst=float(pccs.min()),
                    distance_from_one=float(slopes.mean()) if len(slopes) else float("nan"),
                    cells=len(group),
                    missing=sum(bool(np.isnan(a.pcc.value)) for a in group),
                )
            )
    return ranks


def _value(value: float, logged: bool, where: str) -> float:
    if logged and value <= 0:
        raise DataError(
            f"{where}: {value} has no logarithm; values of this metric must be positive: leave it out of --log-metric"
        )
    return float(np.log(value)) if logged else value


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
    wins = float(scipy.stats.mannwhitneyu(first, second).statistic) / (len(first) * len(second))
    return wins if higher_remembers else 1.0 - wins


Values = Sequence[float]


def faithfulness(known: Mapping[tuple[str, str], tuple[Values, Values]]) -> list[Faithfulness]:
    """`faithfulness_auc` of each metric on each set.

    Args:
        known: (metric, set) -> the values of models, or subjects of a model, that know, and of those that do not.

    Raises:
        ConfigError: there is no such metric.
    """
    return [
        Faithfulness(
            metric=metric,
            set=of_set,
            knowing=len(knowing),
            ignorant=len(ignorant),
            auc=faithfulness_auc(knowing, ignorant, higher_remembers=metrics.get(metric).facts["higher_remembers"]),
        )
        for (metric, of_set), (knowing, ignorant) in known.items()
    ]


def robustness(
    points: Sequence[Point],
    known: Mapping[tuple[str, str], tuple[Values, Values]],
    *,
    log_metrics: Sequence[str] = ("perplexity",),
    chains: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Robustness:
    """Robustness of metrics: before against after every attack over checkpoints, their ranking, and faithfulness.

    Args:
        points: the metric of each checkpoint before and after each attack.
        known: as in `faithfulness`.
        log_metrics: metrics that are compared on logarithms.
        chains: attack -> its chain, whose published correlations are compared; by default its own name.
        seed: of the bootstrap over checkpoints.

    Raises:
        ConfigError: there is no such metric.
        DataError: a metric on logarithms has a value that is not positive.
    """
    cells = compare(points, log_metrics=log_metrics, seed=seed)
    published = {c: published_pcc(c[0], (chains or {}).get(c[1], c[1]), c[2]) for c in map(_place, cells)}
    spanning = [p for p in points if p.metric in log_metrics]
    return Robustness(
        checkpoints=len({p.checkpoint for p in points}),
        points=tuple(points),
        cells=tuple(c.model_copy(update={"published": published[_place(c)]}) for c in cells),
        ranking=tuple(rank(cells)),
        without_logarithms=tuple(rank(compare(spanning, log_metrics=(), seed=seed))),
        log_metrics=tuple(log_metrics),
        orders=tuple(compared_orders(cells, chains)),
        faithfulness=tuple(faithfulness(known)),
    )


def _place(cell: Cell) -> tuple[str, str, str]:
    return cell.metric, cell.attack, cell.split


_NEEDED = ("checkpoint", "metric", "attack", "split", "before", "after")
_TRUE, _FALSE = {"true", "1", "yes"}, {"false", "0", "no", ""}


def points_of(attacks: Attacks, checkpoint: str = "") -> list[Point]:
    """One point for each attack, set and metric of the unlearned models.

    Args:
        attacks: the outcomes.
        checkpoint: the model's name, where it has none.
    """
    touching = {info.name: info.touches_weights for info in attacks.attacks}
    return [
        Point(
            checkpoint=model.model.run or checkpoint,
            metric=outcome.metric,
            attack=info.name,
            split=outcome.set,
            before=outcome.before.mean,
            after=outcome.after.mean,
            touches_weights=touching[info.name],
        )
        for info in attacks.attacks
        for model in attacks.models
        if model.model.role == "unlearned"
        for outcome in model.outcomes
        if outcome.attack == info.name
    ]


def read_points(path: Path) -> list[Point]:
    """Read points from a JSONL, JSON, CSV, TSV or Parquet file with the columns of `Point`.

    Raises:
        DataError: a column is missing, or a value is not a number; the message names the row.
    """
    table = read_table(path)
    for name in _NEEDED:
        if name not in table.columns:
            raise DataError(f"{path}: there is no column {name!r}; {', '.join(_NEEDED)} are needed")
    return [
        Point(
            checkpoint=str(row.get("checkpoint", "")),
            metric=str(row.get("metric", "")),
            attack=str(row.get("attack", "")),
            split=str(row.get("split", "")),
            before=_number(row, "before", table.at(number)),
            after=_number(row, "after", table.at(number)),
            touches_weights=_flag(row.get("touches_weights", False), "touches_weights", table.at(number)),
        )
        for number, row in table.rows
    ]


def read_known(path: Path) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """Read a metric's values for models that know and models that do not.

    The columns are metric, split, value and knows (true or false).

    Returns:
        (metric, split) -> the values of models that know, and of those that do not.

    Raises:
        DataError: as `read_points`.
    """
    table: Table = read_table(path)
    for name in ("metric", "split", "value", "knows"):
        if name not in table.columns:
            raise DataError(f"{path}: there is no column {name!r}; metric, split, value and knows are needed")
    values: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for number, row in table.rows:
        sides = values.setdefault((str(row["metric"]), str(row["split"])), ([], []))
        side = sides[0] if _flag(row["knows"], "knows", table.at(number)) else sides[1]
        side.append(_number(row, "value", table.at(number)))
    return values


def _number(row: Any, name: str, where: str) -> float:
    value = row.get(name)
    if value is None or value == "":
        return float("nan")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: {name} is {value!r}; it must be a number") from None


def _flag(value: Any, name: str, where: str) -> bool:
    text = str(value if value is not None else "").lower()
    if text not in _TRUE | _FALSE:
        raise DataError(f"{where}: {name} is {value!r}; it must be true or false")
    return text in _TRUE


class PublishedPcc(NamedTuple):
    """A published PCC of a metric before against after an attack.

    Attributes:
        metric: our name of the metric.
        attack: the published name of the attack.
        retain: PCC over checkpoints on retain data.
        forget: PCC over checkpoints on forget data.
        source: the place of publication.
    """

    metric: str
    attack: str
    retain: float
    forget: float
    source: str


_TABLE = published("robustness-pcc")

PUBLISHED_PCC: tuple[PublishedPcc, ...] = tuple(PublishedPcc(**row, source=_TABLE.source) for row in _TABLE.rows)

OUR_NAMES: dict[str, str] = {
    "jailbreak": "jailbreak",
    "relearning": "relearn_original",
    "probing": "probe",
    "token noising": "token_noise",
    "GCG": "gcg",
    "relearning + probing": "relearn_original+probe",
}
"""The published name of an attack -> our chain."""


def published_pcc(metric: str, attack: str, split: str) -> float | None:
    """The published PCC of our metric under our chain on a split; None where there is none."""
    if split not in ("retain", "forget"):
        return None
    found = [getattr(p, split) for p in PUBLISHED_PCC if (p.metric, OUR_NAMES[p.attack]) == (metric, attack)]
    return found[0] if found else None


def compared_orders(cells: Sequence[Cell], chains: Mapping[str, str] | None = None) -> list[Order]:
    """All pairs of metrics with different published PCC under one attack and split, with both orders.

    Args:
        cells: our correlations; pairs with one that does not exist are left out.
        chains: name of an attack in the cells -> our chain, if the two differ.
    """
    chains = chains or {}
    groups: dict[tuple[str, str], list[tuple[float, float, str]]] = {}
    for cell in cells:
        attack = chains.get(cell.attack, cell.attack)
        published, ours = published_pcc(cell.metric, attack, cell.split), cell.agreement.pcc.value
        if published is not None and ours == ours:
            groups.setdefault((attack, cell.split), []).append((published, ours, cell.metric))
    orders = []
    for (attack, split), group in groups.items():
        for high, low in combinations(sorted(group, reverse=True), 2):
            if high[0] > low[0]:
                orders.append(
                    Order(
                        attack=attack,
                        split=split,
                        first=high[2],
                        second=low[2],
                        published=(high[0], low[0]),
                        ours=(high[1], low[1]),
                        same=high[1] > low[1],
                    )
                )
    return orders
