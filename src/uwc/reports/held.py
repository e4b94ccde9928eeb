"""What a study holds fixed and what its models are ranked by, in the words of tables and figures."""

from collections.abc import Mapping
from typing import Any

from uwc.reports.records import ES, label_of
from uwc.reports.words import listed


def ranked_metric(results: Mapping[str, Any]) -> tuple[str, str]:
    """The metric of the forget set that models are ranked by: its name and its label."""
    name = results["retention"]["ranked_by"] if results["retention"] else ES
    return name, label_of(results, name)


def held_fixed(results: Mapping[str, Any]) -> str:
    """What is held fixed, ``retain ES``, or several things: ``retain ROUGE-L, maths ROUGE-L and mmlu``."""
    names = results["retention"]["held"] if results["retention"] else [f"retain {ranked_metric(results)[1]}"]
    return listed(names)


def held_plainly(results: Mapping[str, Any]) -> bool:
    """Whether it is the ranking's own metric on the retain set, so that the score kept says all."""
    return results["retention"] is None or bool(results["retention"]["plain"])


def held_as_share(results: Mapping[str, Any]) -> bool:
    """Whether the retention of a frontier is the least share kept of what is held fixed."""
    return results["retention"] is not None and bool(results["retention"]["share"])


def intervals_in_words(results: Mapping[str, Any]) -> str:
    """What the intervals of calibrated scores are made of."""
    held = results["retention"] or {}
    silent = held.get("without_spread") or []
    if not silent:
        how = "with alpha found anew in each draw"
    elif len(silent) == len(held["held"]):
        how = f"with alpha as it is, for {' and '.join(silent)} has no values by example to draw from"
    else:
        how = f"with alpha found anew in each draw, and {' and '.join(silent)} as it is"
    return f"95%, bootstrap over whole subjects, {how}"


def share_kept(method: Mapping[str, Any]) -> float | None:
    """The least share of what is held fixed that a calibrated model keeps; None where it was not calibrated."""
    kept = (method.get("calibration") or {}).get("kept") or []
    shares = [k["share"] for k in kept]
    return min(shares) if shares and None not in shares else None
