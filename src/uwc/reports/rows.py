"""The numbers of a study as long tables: one plain row for each number, for data frames."""

from typing import Any

from uwc.reports.records import Record, ordered_methods


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


def method_curve_rows(results: Record) -> list[dict[str, Any]]:
    """One row for each method with several seeds, set and tau: the mean over seeds and its spread, and the area's."""
    return [
        {
            "method": group["name"], "seeds": len(group["runs"]), "set": set_name, **point, "area": frontier["area"],
            "area_sd": frontier["area_sd"],
        }
        for group in results["groups"]
        for set_name, frontier in group["frontier"].items()
        for point in frontier["curve"]
    ]  # fmt: skip


def attack_rows(results: Record) -> list[dict[str, Any]]:
    """One row for each attacked model, attack, set and metric: before, after, difference; over the control."""
    return [
        {
            "model": model["run"], "kind": model["kind"], "attack": chain, "set": set_name, "metric": metric,
            "before": model["before"][set_name][metric]["mean"], "after": outcome["after"]["mean"],
            **{k: (outcome["difference"] or {}).get(v) for k, v in _DIFFERENCE.items()},
            "over_control": (outcome.get("over_control") or {}).get("mean"),
            "strongest": (outcome.get("strongest") or {}).get("mean"),
        }
        for model in (results.get("attacks") or {}).get("models", [])
        for chain, sets in model["outcomes"].items()
        for set_name, by_metric in sets.items()
        for metric, outcome in by_metric.items()
    ]  # fmt: skip


_DIFFERENCE = {"difference": "mean", "low": "low", "high": "high"}


def _plain(aggregate: Record) -> dict[str, Any]:
    return {k: v for k, v in aggregate.items() if k != "why"}
