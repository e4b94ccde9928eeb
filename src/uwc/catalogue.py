"""Lists of the registered methods, metrics, attacks and others."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from uwc.attacks.registry import attacks
from uwc.data.benchmarks import benchmarks
from uwc.errors import ConfigError
from uwc.metrics.registry import INPUTS, metrics, set_metrics
from uwc.metrics.suites import SUITES, entry_of, is_set_metric
from uwc.objectives.methods import METHODS
from uwc.objectives.registry import terms, tricks
from uwc.objectives.rules import rules
from uwc.objectives.spaces import COMMON
from uwc.published import published, published_names
from uwc.registry import Entry, unknown_name
from uwc.studies.config_file import shipped_configs
from uwc.studies.policy import in_words as in_sentence
from uwc.studies.policy import load_policy

REQUIRED = "required"
"""Takes the place of the default of a required setting."""


def catalogue(kind: str) -> list[dict[str, Any]]:
    """Name, summary, settings and source of all entries of a kind; or the rows of a published table, or the
    requirements of a shipped policy.

    Raises:
        ConfigError: there is no such kind.
    """
    listings: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "methods": lambda: [
            {
                "name": m.name,
                "summary": m.summary,
                "formula": m.formula,
                "searched": [f"{key}: {values}" for key, values in m.space.items() if key not in COMMON],
                "source": m.source,
            }
            for m in METHODS.values()
        ],
        "terms": lambda: [_describe(e, "side", "formula") for e in terms],
        "metrics": lambda: [_describe(e, "needs", "range", "higher_remembers") for e in (*metrics, *set_metrics)],
        "rules": lambda: [_describe(e, "formula") for e in rules],
        "tricks": lambda: [_describe(e, "formula", "neutral") for e in tricks],
        "attacks": lambda: [_describe(e, "kind", "needs", "touches_weights") for e in attacks],
        "benchmarks": lambda: [_describe(e) for e in benchmarks],
        "policies": _policies,
        "published": _published,
    }
    if kind in published_names():
        return [dict(row) for row in published(kind).rows]
    if kind in shipped_configs("policy"):
        return _requirements(kind)
    if kind not in listings:
        raise ConfigError(unknown_name("kind", kind, list(listings)))
    return listings[kind]()


def _published() -> list[dict[str, Any]]:
    tables = map(published, published_names())
    return [
        {"name": t.name, "summary": t.title, "rows": len(t.rows), "setting": t.setting, "source": t.source}
        for t in tables
    ]


def _policies() -> list[dict[str, Any]]:
    loaded = map(load_policy, shipped_configs("policy"))
    return [{"name": p.name, "summary": p.title, "requirements": len(p.requirements)} for p in loaded]


def _requirements(policy: str) -> list[dict[str, Any]]:
    asked = load_policy(policy).requirements
    return [{"name": r.name, "requirement": in_sentence(r), "optional": r.optional} for r in asked]


def in_words(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the catalogue for a table: lists and settings as text."""
    return {name: _text(value) for name, value in row.items()}


def explanation(metric: str) -> dict[str, Any]:
    """Definition, range, direction, needs, settings, suites and source of a metric.

    Args:
        metric: its name or label.

    Raises:
        ConfigError: there is no such metric.
    """
    entry = entry_of(metric)
    return {
        "name": entry.name,
        "label": entry.facts["label"],
        "definition": inspect.getdoc(entry.function) or "",
        "range": list(entry.facts["range"]),
        "higher_remembers": entry.facts["higher_remembers"],
        "needs": list(entry.facts["needs"]),
        "average": entry.facts.get("average", "set"),
        "settings": _settings_of(entry),
        "suites": [*(name for name, names in SUITES.items() if entry.name in names), "all"],
        "source": entry.source,
    }


def explain(metric: str) -> str:
    """`explanation` as text.

    Raises:
        ConfigError: there is no such metric.
    """
    found = explanation(metric)
    low, high = found["range"]
    direction = {
        True: "high values mean that the answers are remembered",
        False: "low values mean that the answers are remembered",
        None: "neither end means that the answers are remembered; see the definition",
    }[found["higher_remembers"]]
    of_sets = is_set_metric(found["name"])
    optional = [f"{n} (optional)" for n in entry_of(metric).facts.get("optional", ())]
    needs = [*found["needs"], *optional] if of_sets else list(filter(None, (INPUTS[n] for n in found["needs"])))
    facts = {
        "label": found["label"],
        "range": f"{low:g} to {high:g}",
        "direction": direction,
        "needs": ("; ", ", ")[of_sets].join(needs) or "questions and answers",
        "average": "one number for the whole set" if found["average"] == "set" else found["average"],
        "settings": _text(found["settings"]) or "none",
        "suites": ", ".join(found["suites"]),
        "source": found["source"],
    }
    return "\n".join([found["name"], "", found["definition"], "", *(f"{k:<10} {v}" for k, v in facts.items())])


def _settings_of(entry: Entry[Any]) -> dict[str, Any]:
    """Setting -> its default, or `REQUIRED`."""
    return {n: REQUIRED if p.default is p.empty else p.default for n, p in entry.settings.items()}


def _describe(entry: Entry[Any], *facts: str) -> dict[str, Any]:
    return {
        "name": entry.name,
        "summary": entry.summary,
        **{fact: _plain(entry.facts[fact]) for fact in facts},
        "settings": _plain(_settings_of(entry)),
        "source": entry.source,
    }


def _plain(value: Any) -> Any:
    """A declaration as plain data."""
    if isinstance(value, Mapping):
        return {name: _plain(of) for name, of in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _text(value: Any) -> Any:
    """A declaration as text for a table."""
    if isinstance(value, Mapping):
        return ", ".join(n if of == REQUIRED else f"{n}={of!r}" for n, of in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value) if isinstance(value, bool) else value
