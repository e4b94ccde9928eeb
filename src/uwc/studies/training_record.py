"""The training record in a study's results: the log, thinned for plots."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from uwc.results import GradientEffects, StopScores, TrainingLog, TrainingRecord
from uwc.studies.step import Outcome
from uwc.studies.steps import EFFECTS, LOG

POINTS = 50
"""The most steps of a run in the record."""

DIGITS = 5

_MEASURES = ("loss", "gradient_norm", "lr")
_SCORE, _DUAL = "stop_score", "dual "

Entry = Mapping[str, Any]


class Logged(TypedDict):
    """The fields of `TrainingRecord` that a training's log gives."""

    steps: int
    log: TrainingLog
    scores: StopScores | None
    effects: GradientEffects | None


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
        **logged(log, effects, thin=True),
        stopped=outcome.stopped,
        diverged=outcome.diverged,
        collapse=outcome.collapse,
    )


def logged(log: Sequence[Entry], effects: Sequence[Entry], *, thin: bool = False) -> Logged:
    """The log of a training, by quantity.

    Args:
        log: one entry a step.
        effects: one entry a recorded step.
        thin: keep at most `POINTS` steps, and `DIGITS` digits.
    """
    kept = thinned if thin else list
    digits = DIGITS if thin else None
    return {
        "steps": log[-1]["step"] if log else 0,
        "log": _log(kept(log), digits),
        "scores": _scores(kept([entry for entry in log if _SCORE in entry]), digits),
        "effects": _effects(kept(effects), digits),
    }


def thinned(entries: Sequence[Entry], *, points: int = POINTS) -> list[Entry]:
    """At most `points` of the entries, evenly spaced, including the first and the last."""
    if len(entries) <= points:
        return list(entries)
    last = len(entries) - 1
    return [entries[round(i * last / (points - 1))] for i in range(points)]


def _log(log: Sequence[Entry], digits: int | None) -> TrainingLog:
    names = list(dict.fromkeys(name for entry in log for name in entry))
    duals = [name for name in names if name.startswith(_DUAL)]
    terms = [name for name in names if name not in (*_MEASURES, "step", _SCORE, *duals)]
    return TrainingLog(
        step=tuple(entry["step"] for entry in log),
        terms={name: _column(log, name, digits) for name in terms},
        duals={name.removeprefix(_DUAL): _column(log, name, digits) for name in duals},
        **{name: _column(log, name, digits) for name in _MEASURES if name in names},
    )


def _scores(kept: Sequence[Entry], digits: int | None) -> StopScores | None:
    if not kept:
        return None
    return StopScores(step=tuple(entry["step"] for entry in kept), score=_column(kept, _SCORE, digits))


def _effects(effects: Sequence[Entry], digits: int | None) -> GradientEffects | None:
    if not effects:
        return None
    risks = [name for name in effects[0] if name != "step"]
    return GradientEffects(
        step=tuple(entry["step"] for entry in effects),
        risks={
            risk: {group: _column([entry[risk] for entry in effects], group, digits) for group in effects[0][risk]}
            for risk in risks
        },
    )


def _column(entries: Sequence[Entry], name: str, digits: int | None) -> tuple[float, ...]:
    def read(value: float | None) -> float:
        if value is None:
            return float("nan")
        return float(value) if digits is None else float(f"{value:.{digits}g}")

    return tuple(read(entry.get(name)) for entry in entries)
