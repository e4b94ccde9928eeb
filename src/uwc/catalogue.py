"""What there is to choose from, read from the registries."""

from collections.abc import Callable
from typing import Any

from uwc.attacks.registry import attacks
from uwc.data.benchmarks import benchmarks
from uwc.errors import ConfigError
from uwc.metrics.registry import metrics
from uwc.objectives.methods import METHODS
from uwc.objectives.registry import terms, tricks
from uwc.registry import Entry, unknown_name


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Name, summary and source of everything of a kind, and the settings it takes.

    Raises:
        ConfigError: there is no such kind.
    """
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: [
            {"name": m.name, "summary": m.summary, "formula": m.formula, "source": m.source} for m in METHODS.values()
        ],
        "terms": lambda: [_describe(e, "side", "formula") for e in terms],
        "metrics": lambda: [_describe(e, "needs", "range", "higher_remembers") for e in metrics],
        "tricks": lambda: [_describe(e, "formula", "neutral") for e in tricks],
        "attacks": lambda: [_describe(e, "kind", "needs", "touches_weights") for e in attacks],
        "benchmarks": lambda: [_describe(e) for e in benchmarks],
    }
    if kind not in listings:
        raise ConfigError(unknown_name("kind", kind, list(listings)))
    return listings[kind]()


def _describe(entry: Entry[Any], *facts: str) -> dict[str, Any]:
    settings = ", ".join(f"{n}={p.default!r}" if p.default is not p.empty else n for n, p in entry.settings.items())
    return {
        "name": entry.name, "summary": entry.summary,
        **{fact: str(entry.facts[fact]) for fact in facts}, "settings": settings, "source": entry.source,
    }  # fmt: skip
