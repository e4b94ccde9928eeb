"""What there is to choose from, read from the registries."""

import inspect
from collections.abc import Callable
from typing import Any

from uwc.attacks.registry import attacks
from uwc.data.benchmarks import benchmarks
from uwc.errors import ConfigError
from uwc.metrics.registry import INPUTS, metrics, set_metrics
from uwc.metrics.suites import SUITES, entry_of, is_set_metric
from uwc.objectives.methods import METHODS
from uwc.objectives.registry import terms, tricks
from uwc.objectives.rules import rules
from uwc.published.tables import published, published_names
from uwc.registry import Entry, unknown_name


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Name, summary and source of everything of a kind, and the settings it takes; or the rows of a published table.

    Raises:
        ConfigError: there is no such kind.
    """
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: [
            {"name": m.name, "summary": m.summary, "formula": m.formula, "source": m.source} for m in METHODS.values()
        ],
        "terms": lambda: [_describe(e, "side", "formula") for e in terms],
        "metrics": lambda: [_describe(e, "needs", "range", "higher_remembers") for e in (*metrics, *set_metrics)],
        "rules": lambda: [_describe(e, "formula") for e in rules],
        "tricks": lambda: [_describe(e, "formula", "neutral") for e in tricks],
        "attacks": lambda: [_describe(e, "kind", "needs", "touches_weights") for e in attacks],
        "benchmarks": lambda: [_describe(e) for e in benchmarks],
        "published": _published,
    }
    if kind in published_names():
        return [dict(row) for row in published(kind).rows]
    if kind not in listings:
        raise ConfigError(unknown_name("kind", kind, list(listings)))
    return listings[kind]()


def _published() -> list[dict[str, Any]]:
    tables = map(published, published_names())
    return [
        {"name": t.name, "summary": t.title, "rows": len(t.rows), "setting": t.setting, "source": t.source}
        for t in tables
    ]


def explain(metric: str) -> str:
    """Definition, range, direction, needs, settings, suites and source of a metric, for people.

    Raises:
        ConfigError: there is no such metric.
    """
    entry = entry_of(metric)
    metric = entry.name
    low, high = entry.facts["range"]
    direction = {
        True: "high values mean that the answers are remembered",
        False: "low values mean that the answers are remembered",
        None: "values near 0 mean that nothing gives the data away",
    }[entry.facts["higher_remembers"]]
    if is_set_metric(metric):
        needs = ", ".join(entry.facts["needs"])
    else:
        needs = "; ".join(filter(None, (INPUTS[n] for n in entry.facts["needs"]))) or "questions and answers"
    facts = {
        "label": entry.facts["label"],
        "range": f"{low:g} to {high:g}",
        "direction": direction,
        "needs": needs,
        "average": entry.facts.get("average", "one number for the whole set"),
        "settings": _settings_of(entry) or "none",
        "suites": ", ".join([n for n, names in SUITES.items() if metric in names] + ["all"]),
        "source": entry.source,
    }
    lines = [metric, "", inspect.getdoc(entry.function) or "", "", *(f"{k:<10} {v}" for k, v in facts.items())]
    return "\n".join(lines)


def _settings_of(entry: Entry[Any]) -> str:
    return ", ".join(f"{n}={p.default!r}" if p.default is not p.empty else n for n, p in entry.settings.items())


def _describe(entry: Entry[Any], *facts: str) -> dict[str, Any]:
    return {
        "name": entry.name, "summary": entry.summary,
        **{fact: _plain(entry.facts[fact]) for fact in facts}, "settings": _settings_of(entry), "source": entry.source,
    }  # fmt: skip


def _plain(fact: Any) -> str:
    """A declared fact in words."""
    if isinstance(fact, tuple):
        return ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in fact)
    return str(fact)
