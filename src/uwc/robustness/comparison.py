"""The agreement of every metric under every attack, and the ranking of metrics."""

from collections.abc import Sequence

import numpy as np

from uwc.errors import DataError
from uwc.results import Agreement, Cell, Point, Rank
from uwc.robustness.agreement import agreement


def compare(points: Sequence[Point], *, log_metrics: Sequence[str] = ("perplexity",), seed: int = 0) -> list[Cell]:
    """One cell for each metric, attack and split, in the order of the points.

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
        touches = group[0].touches_weights
        cells.append(
            Cell(
                metric=metric,
                attack=attack,
                split=split,
                touches_weights=touches,
                on_logarithms=logged,
                agreement=agreement(before, after, seed=seed),
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
        raise DataError(f"{where}: {value} has no logarithm; values of this metric must be positive")
    return float(np.log(value)) if logged else value
