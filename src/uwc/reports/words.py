"""Numbers and names as text."""

import math
from collections.abc import Sequence
from typing import Any

from uwc.reports.records import ES, Record, known

MISSING = "—"
RETRAINED_MEANING = "trained like the original, but without the forget data"


def number(value: Any, metric: str = ES) -> str:
    """A score as text: three significant digits for perplexity, else three decimals; a dash if it is not available."""
    if not known(value):
        return MISSING
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if metric != "perplexity":
        return f"{value:.3f}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if 100 <= rounded < 1e6 else f"{rounded:#.3g}"


def with_interval(aggregate: Record, metric: str = ES) -> str:
    """A mean and its interval, ``0.212 [0.160, 0.270]``; the mean alone if no interval could be computed."""
    mean = number(aggregate.get("mean"), metric)
    if not known(aggregate.get("low")) or not known(aggregate.get("high")):
        return mean
    return f"{mean} [{number(aggregate['low'], metric)}, {number(aggregate['high'], metric)}]"


def with_error(aggregate: Record, metric: str = ES) -> str:
    """A mean and its standard error, ``0.212 ± 0.030``, and how many examples the metric did not apply to."""
    text = number(aggregate.get("mean"), metric)
    if known(aggregate.get("se")):
        text += f" ± {number(aggregate['se'], metric)}"
    return f"{text} ({aggregate['not_scored']} not scored)" if aggregate.get("not_scored") else text


def setting(value: Any) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else MISSING if value is None else str(value)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else ""
