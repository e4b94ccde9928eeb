"""Every metric under every attack: one agreement each, and the metrics ranked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from uwc.errors import DataError
from uwc.robustness.agreement import Agreement, agreement


@dataclass(frozen=True)
class Point:
    """One checkpoint under one attack, by one metric on one split.

    Attributes:
        checkpoint: its name.
        metric: the metric.
        attack: the attack, or chain.
        split: "forget" or "retain".
        before: the metric's average without the attack.
        after: under attack.
        touches_weights: whether the attack may add knowledge.
    """

    checkpoint: str
    metric: str
    attack: str
    split: str
    before: float
    after: float
    touches_weights: bool = False


@dataclass(frozen=True)
class Cell:
    """A metric's agreement under an attack on a split, and whether it was taken on logarithms."""

    metric: str
    attack: str
    split: str
    touches_weights: bool
    on_logarithms: bool
    agreement: Agreement


@dataclass(frozen=True)
class Rank:
    """A metric's place among the metrics.

    Attributes:
        place: from 1, the most robust.
        metric: the metric.
        touches_weights: over which attacks: those that may add knowledge, or those that leave the weights alone.
        pcc: the mean PCC over attacks and splits.
        worst: the lowest of them.
        distance_from_one: the mean ``|slope - 1|``, which matters where the weights are left alone.
        cells: how many attacks and splits it is over.
        missing: in how many the PCC does not exist.
    """

    place: int
    metric: str
    touches_weights: bool
    pcc: float
    worst: float
    distance_from_one: float
    cells: int
    missing: int


def compare(points: Sequence[Point], *, log_metrics: Sequence[str] = ("perplexity",), seed: int = 0) -> list[Cell]:
    """One cell for each metric, attack and split, in the order of the points.

    Args:
        points: one for each checkpoint, metric, attack and split.
        log_metrics: metrics that span magnitudes; their logarithms are compared.
        seed: of the bootstraps.

    Raises:
        DataError: a checkpoint occurs twice in a cell, or a logarithm of a value that is not positive is needed.
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
        touches = group[0].touches_weights
        cells.append(Cell(metric, attack, split, touches, logged, agreement(before, after, seed=seed)))
    return cells


def rank(cells: Sequence[Cell]) -> list[Rank]:
    """The metrics by mean PCC, apart for attacks that leave the weights alone and those that do not.

    A PCC that does not exist counts as 0: a metric that is the same for every checkpoint tells nothing.
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
                    place, metric, touches, float(pccs.mean()), float(pccs.min()),
                    float(slopes.mean()) if len(slopes) else float("nan"), len(group),
                    sum(bool(np.isnan(a.pcc.value)) for a in group),
                )
            )  # fmt: skip
    return ranks


def _value(value: float, logged: bool, where: str) -> float:
    if logged and value <= 0:
        raise DataError(f"{where}: {value} has no logarithm; values of this metric must be positive")
    return float(np.log(value)) if logged else value
