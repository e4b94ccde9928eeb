"""The numbers of a study as long tables: one plain row for each number, for data frames."""

from typing import Any

from uwc.reports.tables import Record, ordered_methods


def score_rows(results: Record) -> list[dict[str, Any]]:
    """One row for each model, calibrated or not, set and metric, with mean, n, se, low and high."""
    scored = [(model["name"], "", model["scores"]) for model in results["models"]]
    for method in ordered_methods(results):
        scored += [(method["name"], when, method[when]) for when in ("before", "after") if method.get(when)]
    return [
        {"model": name, "calibration": when, "set": set_name, "metric": metric, **_plain(aggregate)}
        for name, when, scores in scored
        for set_name, by_metric in scores.items()
        for metric, aggregate in by_metric.items()
    ]


def curve_rows(results: Record) -> list[dict[str, Any]]:
    """One row for each model, set and tau: alpha, the forget score left, its interval, and the area of the curve."""
    return [
        {"model": method["name"], "set": set_name, **point, "area": frontier["area"]}
        for method in ordered_methods(results)
        for set_name, frontier in (method.get("frontier") or {}).items()
        for point in frontier["curve"]
    ]


def _plain(aggregate: Record) -> dict[str, Any]:
    return {k: v for k, v in aggregate.items() if k != "why"}
