"""What training did, as the results of a study keep it: the log thinned to what a plot can show."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POINTS = 50
"""The most steps of a run that are kept."""

DIGITS = 5

_MEASURES = ("loss", "gradient_norm", "lr")
_SCORE, _DUAL = "stop_score", "dual "

Entry = Mapping[str, Any]


def training_record(folder: Path, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The record of one run from its ``log.json`` and ``effects.json`` (where it has one), in columns.

    Args:
        folder: what the run's step left.
        outcome: how it ended, from the step's manifest.

    Returns:
        ``steps`` taken; ``log`` with one list a column: step, each of loss, gradient_norm and lr that was recorded,
        ``terms`` and ``duals`` by name; ``scores`` of early stopping: step and score; ``effects``: step, and risk ->
        layer group -> list; ``stopped``, the step after which early stopping ended it, ``diverged``, the step that was
        not finite, and ``collapse``, the retain perplexity before and after, each None where there is no such thing.
    """
    log: list[Entry] = json.loads((folder / "log.json").read_text(encoding="utf-8"))
    path = folder / "effects.json"
    effects: list[Entry] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {
        "steps": log[-1]["step"] if log else 0,
        "log": _columns(thinned(log)),
        "scores": _scores([entry for entry in log if _SCORE in entry]),
        "effects": _effect_columns(thinned(effects)),
        "stopped": outcome.get("stopped"),
        "diverged": outcome.get("step") if outcome.get("status") == "diverged" else None,
        "collapse": outcome.get("collapse"),
    }


def thinned(entries: Sequence[Entry], *, points: int = POINTS) -> list[Entry]:
    """At most `points` of the entries, evenly spread over them, with the first and the last."""
    if len(entries) <= points:
        return list(entries)
    last = len(entries) - 1
    return [entries[round(i * last / (points - 1))] for i in range(points)]


def _columns(log: Sequence[Entry]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for entry in log for name in entry))
    duals = [name for name in names if name.startswith(_DUAL)]
    terms = [name for name in names if name not in (*_MEASURES, "step", _SCORE, *duals)]
    return {
        "step": [entry["step"] for entry in log],
        **{name: _column(log, name) for name in _MEASURES if name in names},
        "terms": {name: _column(log, name) for name in terms},
        "duals": {name.removeprefix(_DUAL): _column(log, name) for name in duals},
    }


def _scores(measured: Sequence[Entry]) -> dict[str, Any]:
    kept = thinned(measured)
    return {"step": [entry["step"] for entry in kept], "score": _column(kept, _SCORE)} if kept else {}


def _effect_columns(effects: Sequence[Entry]) -> dict[str, Any]:
    if not effects:
        return {}
    risks = [name for name in effects[0] if name != "step"]
    return {"step": [entry["step"] for entry in effects]} | {
        risk: {group: _column([entry[risk] for entry in effects], group) for group in effects[0][risk]}
        for risk in risks
    }


def _column(entries: Sequence[Entry], name: str) -> list[float | None]:
    return [None if entry.get(name) is None else float(f"{entry[name]:.{DIGITS}g}") for entry in entries]
