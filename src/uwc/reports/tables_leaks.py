"""Tables of the leakage of sampled answers."""

from collections.abc import Sequence

from uwc.reports.format import MISSING, Table, stacked
from uwc.reports.tables import model_label
from uwc.results import LeakCurve, LeakPoint, StudyResults


def leak_tables(results: StudyResults) -> list[Table]:
    """leak@k of every model for k = 1, 2, 4, ..., a table for each set with samples, and E[max of k] below it."""
    by_set: dict[str, list[LeakCurve]] = {}
    for curve in results.leaks:
        by_set.setdefault(curve.set, []).append(curve)
    order = {key: place for place, (key, _) in enumerate(results.scored())}
    found = []
    for name in sorted(by_set, key=lambda name: list(results.sets).index(name) if name in results.sets else 0):
        curves = sorted(by_set[name], key=lambda curve: order.get(curve.model, len(order)))
        found.append(_table(results, name, curves))
    return found


def _table(results: StudyResults, name: str, curves: Sequence[LeakCurve]) -> Table:
    first = curves[0]
    tries = sorted({point.k for curve in curves for point in curve.points})
    rows = []
    for curve in curves:
        points = {point.k: point for point in curve.points}
        cells = [_cell(points.get(k)) for k in tries]
        rows.append((model_label(curve.model), *cells, f"{curve.bound:.3f}", f"{curve.largest_bound:.3f}"))
    score = results.metric_label(first.metric)
    caption = (
        f"The probability that at least one of k sampled answers leaks, with the 95% interval, and below it in "
        f"parentheses the expected largest {score} of k. A sample leaks if its {score} is at least {first.at_least:g}; "
        f"{first.samples} samples of each of {first.n} questions at temperature {first.temperature:g}, top-p "
        f"{first.top_p:g}. The last columns bound, at 95% and for these questions together (Clopper-Pearson, "
        "Bonferroni), the mean and the largest probability that a single sample leaks."
    )
    columns = ("model", *(f"k = {k}" for k in tries), "mean\nat most", "largest\nat most")
    about = tuple(curve.model.run or "" for curve in curves)
    return Table(f"Sampled answers: {results.set_label(name)}", columns, tuple(rows), caption, about)


def _cell(point: LeakPoint | None) -> str:
    if point is None:
        return MISSING
    return f"{stacked(point.leak)}\n({point.largest.value:.2f})"
