"""Reading what a study's results hold."""

import math
from collections.abc import Mapping
from typing import Any

ES = "extraction_strength"
Record = Mapping[str, Any]


def known(value: Any) -> bool:
    """Whether a stored number is there: neither absent, null nor NaN."""
    return value is not None and not math.isnan(value)


def aggregate_of(scores: Record | None, set_name: str, metric: str = ES) -> Record:
    """The stored aggregate of one metric on one set of questions; empty where there is none."""
    return ((scores or {}).get(set_name) or {}).get(metric) or {}


def calibrated_forget(method: Record, metric: str = ES, name: str = "forget") -> Record:
    """A method's score at tau on a set to be forgotten, with its interval through alpha; by another metric than that of
    the ranking, the mixture's score."""
    after = aggregate_of(method.get("after"), name, metric)
    if not after or method["calibration"]["metric"] != metric:
        return after
    low, high = method["intervals"][name]
    return {**after, "mean": method["at_tau"][name], "low": low, "high": high}


def calibrated_retain(method: Record, metric: str = ES) -> Record:
    """A method's score at tau on the retain set, where this is what is held fixed; else that of the mixture."""
    after = aggregate_of(method.get("after"), "retain", metric)
    if not after or method["calibration"]["set"] != "retain":
        return after
    return {**after, "mean": method["at_tau"]["retain"]}


def unranked(method: Record) -> str:
    """Why an unlearned model has no rank, in brackets behind its name; empty for one that is well."""
    reasons = {"ok": "", "diverged": " (diverged)", "not_finite": " (logits not finite)"}
    return reasons[method["status"]]


def ordered_methods(results: Record) -> list[Record]:
    """The unlearned models as the study ranks them, then those without a rank, then those that diverged."""
    rank = {name: place for place, name in enumerate(results["ranking"])}
    return sorted(results["unlearned"], key=lambda m: (m["status"] != "ok", rank.get(m["name"], len(rank))))


def label_of(results: Record, metric: str) -> str:
    """What tables call a metric."""
    return str((results["metrics"].get(metric) or {}).get("label", metric))


def method_of_runs(results: Record) -> dict[str, str]:
    """Run -> its method; runs of one method count as one row where there are several."""
    return {record["name"]: record["method"] or record["name"] for record in results["unlearned"]}


def reference_scores(results: Record, name: str) -> Record | None:
    """The scores of the model called `name` ("original" or "retrained"); None if the study has no such model."""
    return next((model["scores"] for model in results["models"] if model["name"] == name), None)


def tau_of(results: Record) -> float | None:
    """The share of the original's retain score that calibration had to keep; None if nothing was calibrated."""
    searches = (method.get("calibration") or {} for method in results["unlearned"])
    return next((search["tau"] for search in searches if known(search.get("tau"))), None)


def all_scores(results: Record) -> list[tuple[str, Record]]:
    """Every scored model with its scores: the references, then each method before and after calibration."""
    scored = [(model["name"], model["scores"]) for model in results["models"]]
    for method in ordered_methods(results):
        scored += [(f"{method['name']}, {when}", method[when]) for when in ("before", "after") if method.get(when)]
    return scored
