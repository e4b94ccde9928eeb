"""The training record in a study's results: the log, thinned for plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uwc.results import GradientEffects, StopScores, TrainingLog, TrainingRecord
from uwc.studies.step import Outcome
from uwc.studies.steps import EFFECTS, LOG

POINTS = 50
"""The most steps of a run in the record."""

DIGITS = 5

_MEASURES = ("loss", "gradient_norm", "lr")
_SCORE, _DUAL = "stop_score", "dual "

Entry = Mapping[str, Any]


def training_record(folder: Path, outcome: Outcome) -> TrainingRecord:
    """The record of one run, from the logs of its step.

    Args:
        folder: the folder of the step's result.
        outcome: the step's outcome.
    """
    log: list[Entry] = json.loads((folder / LOG).read_text(encoding="utf-8"))
    path = folder / EFFECTS
    effects: list[Entry] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return TrainingRecord(
        steps=log[-1]["step"] if log else 0,
        log=_log(thinned(log)),
        scores=_scores([entry for entry in log if _SCORE in entry]),
        effects=_effects(thinned(effects)),
        stopped=outcome.stopped,
        diverged=outcome.diverged,
        collapse=outcome.collapse,
    )


def thinned(entries: Sequence[Entry], *, points: int = POINTS) -> list[Entry]:
    """At most `points` of the entries, evenly spaced, including the first and the last."""
    if len(entries) <= points:
        return list(entries)
    last = len(entries) - 1
    return [entries[round(i * last / (points - 1))] for i in range(points)]


def _log(log: Sequence[Entry]) -> TrainingLog:
    names = list(dict.fromkeys(name for entry in log for name in entry))
    duals = [name for name in names if name.startswith(_DUAL)]
    terms = [name for name in names if name not in (*_MEASURES, "step", _SCORE, *duals)]
    return TrainingLog(
        step=tuple(entry["step"] for entry in log),
        terms={name: _column(log, name) for name in terms},
        duals={name.removeprefix(_DUAL): _column(log, name) for name in duals},
        **{name: _column(log, name) for name in _MEASURES if name in names},
    )


def _scores(measured: Sequence[Entry]) -> StopScores | None:
    kept = thinned(measured)
    return StopScores(step=tuple(entry["step"] for entry in kept), score=_column(kept, _SCORE)) if kept else None


def _effects(effects: Sequence[Entry]) -> GradientEffects | None:
    if not effects:
        return None
    risks = [name for name in effects[0] if name != "step"]
    return GradientEffects(
        step=tuple(entry["step"] for entry in effects),
        risks={
            risk: {group: _column([entry[risk] for entry in effects], group) for group in effects[0][risk]}
            for risk in risks
        },
    )


def _column(entries: Sequence[Entry], name: str) -> tuple[float, ...]:
    return tuple(float("nan") if entry.get(name) is None else float(f"{entry[name]:.{DIGITS}g}") for entry in entries)
