"""Logging to wandb, TensorBoard and trackio: trainings as they go, and results.

Each training and each scored model is a run of its own, with its settings. Nothing of a tracker enters a result.
The trackers of Accelerate are not used: they need its process state, which a launched process must not set up outside
of training, they name runs as projects, and give trackio no settings.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from uwc import progress
from uwc.errors import ConfigError, shortened
from uwc.paths import path_names, renamed, renaming, texts_of
from uwc.registry import unknown_name
from uwc.results import (
    Aggregate,
    AttackedModel,
    AttackResults,
    CalibrationResults,
    Collapse,
    Estimate,
    ModelKey,
    Result,
    ScoreDifference,
    Scores,
    SetScore,
    StrongestResults,
    StudyResults,
    text_table,
)

TRACKERS = {"wandb": "wandb", "tensorboard": "torch.utils.tensorboard", "trackio": "trackio"}
"""Tracker -> the module that it needs."""
PROJECT = "uwc"
"""The project of the runs, unless ``WANDB_PROJECT`` or ``TRACKIO_PROJECT`` names another."""

Values = Mapping[str, float]
OnStep = Callable[[Values], None]
"""Is called with each entry of a training's log."""
Plain = dict[str, str | int | float | bool]


class Run(Protocol):
    """An open run of one tracker."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers."""

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Log a table."""

    def finish(self) -> None:
        """End the run."""


class _Service:
    """A run of wandb or trackio, which share an interface."""

    def __init__(self, library: str, name: str, group: str, settings: Plain) -> None:
        self._library = import_module(library)
        project = os.environ.get(f"{library.upper()}_PROJECT", PROJECT)
        own = {"reinit": "create_new"} if library == "wandb" else {}  # a run of the user's own stays open
        self._run = self._library.init(project=project, name=name, group=group or None, config=settings, **own)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        import pandas as pd

        self._run.log({"table": self._library.Table(dataframe=pd.DataFrame(rows))}, step=0)

    def finish(self) -> None:
        if self._library.__name__ == "wandb":
            self._run.finish()
        else:
            self._library.finish()  # which forgets the current run, too


class _TensorBoard:
    """Event files in a folder; those of an earlier run in it are superseded."""

    def __init__(self, folder: Path, settings: Plain) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=0, flush_secs=10)
        self._settings, self._logged = settings, dict[str, float]()

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._logged |= values

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        self._writer.add_text("table", "\n".join(f"    {line}" for line in text_table(rows).splitlines()), 0)

    def finish(self) -> None:
        summaries: Any = import_module("torch.utils.tensorboard.summary")
        for summary in summaries.hparams(self._settings, self._logged):
            self._writer.file_writer.add_summary(summary)
        self._writer.close()


class Trackers:
    """The trackers of one command; none by default. A tracker that fails is left out from there on, with a warning.

    Args:
        names: wandb, tensorboard, trackio.
        folder: the folder of the results; TensorBoard's files go to its sub-folder ``tensorboard``, or to
            ``TENSORBOARD_LOGGING_DIR``.
        group: the study that the runs belong to.

    Raises:
        ConfigError: a name is unknown, or a library is not installed.
    """

    def __init__(self, names: str | Iterable[str] = (), *, folder: str | Path | None = None, group: str = "") -> None:
        names = dict.fromkeys([names] if isinstance(names, str) else names)
        for name in names:
            _require(name)
        self._working = list(names) if progress.first_process() else []
        self._folder, self._group, self._told = Path(folder or "."), group, False
        given = os.environ.get("TENSORBOARD_LOGGING_DIR")
        self._events = Path(given) / group if given else self._folder / "tensorboard"

    @contextmanager
    def run(self, name: str, settings: Mapping[str, Any]) -> Iterator["Runs"]:
        """A run with its settings, open for the time of the block; absolute paths in settings are replaced by names."""
        runs = Runs(self._fails)
        if self.used:
            rename = renaming(path_names(texts_of(dict(settings)), self._folder))
            plain = dict(_plain(renamed(dict(settings), rename)))
            for tracker in list(self._working):
                runs.open(tracker, partial(self._start, tracker, name, plain))
        try:
            yield runs
        finally:
            runs.finish()

    def results(self, result: Result) -> None:
        """Log the numbers of a result: a run for each model, and one with the table of a study."""
        if self.used:
            for name, settings, values in _models(result):
                with self.run(name, settings) as run:
                    for step, of_step in enumerate(values):
                        run.log(of_step, step)
            if isinstance(result, StudyResults):
                with self.run(result.study.name, result.study.config) as run:
                    run.table(result.table())

    @property
    def used(self) -> bool:
        """Whether anything is logged."""
        return bool(self._working)

    def _start(self, tracker: str, name: str, settings: Plain) -> Run:
        if tracker == "tensorboard":
            if not self._told:
                progress.note(f"logs to TensorBoard; see them with: tensorboard --logdir {self._events}")
            self._told = True
            return _TensorBoard(self._events / (re.sub(r"[^\w.,@+ -]", "_", name).strip(". ") or "run"), settings)
        return _Service(tracker, name, self._group, settings)

    def _fails(self, tracker: str, error: Exception) -> None:
        self._working.remove(tracker)
        why = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 300)
        progress.warn(f"logging to {tracker} failed and ends here; the command continues without it ({why})")


class Runs:
    """The open runs, one in each tracker, of one training or model."""

    def __init__(self, fails: Callable[[str, Exception], None]) -> None:
        self._fails, self._opened, self._step = fails, dict[str, Run](), 0

    def open(self, tracker: str, start: Callable[[], Run]) -> None:
        """Start a tracker's run."""

        def add() -> None:
            self._opened[tracker] = start()

        self._try(tracker, add)

    def log(self, values: Mapping[str, float | None], step: int) -> None:
        """Log numbers; those that are missing or not finite are left out."""
        known = {_tag(name): float(v) for name, v in values.items() if v is not None and isfinite(v)}
        if known:
            self._each(lambda run: run.log(dict(known), step))

    def step(self, entry: Mapping[str, float | None]) -> None:
        """Log an entry of a training's log."""
        self._step = int(entry["step"] or 0)
        self.log({f"train/{name}": v for name, v in entry.items() if name != "step"}, self._step)

    def end(self, *, stopped: int | None = None, diverged: int | None = None, collapse: Collapse | None = None) -> None:
        """Log the end of a training: the step of early stopping or of divergence, and retain perplexity."""
        before, after = (None, None) if collapse is None else (collapse.before, collapse.after)
        ends = {"stopped": stopped, "diverged": diverged, "perplexity_before": before, "perplexity_after": after}
        self.log({f"train/{name}": value for name, value in ends.items()}, self._step)

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Log a table."""
        self._each(lambda run: run.table(rows))

    def finish(self) -> None:
        """End the runs."""
        self._each(lambda run: run.finish())

    def _each(self, act: Callable[[Run], None]) -> None:
        for tracker, run in list(self._opened.items()):
            self._try(tracker, partial(act, run))

    def _try(self, tracker: str, act: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                act()
        except Exception as error:
            self._opened.pop(tracker, None)
            self._fails(tracker, error)


def _require(name: str) -> None:
    if name not in TRACKERS:
        raise ConfigError(f"--log-to (log_to in Python): {unknown_name('tracker', name, sorted(TRACKERS))}")
    try:
        import_module(TRACKERS[name])
    except ImportError as error:
        raise ConfigError(
            f"cannot log to {name} ({error}); install its library with: pip install 'uwc[{name}]'"
        ) from None


def _plain(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Nested settings as pairs of a dotted name and a plain value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{within}{name}.")
        elif isinstance(value, str | int | float):
            yield f"{within}{name}", value
        elif value is not None:
            yield f"{within}{name}", json.dumps(value, default=str, ensure_ascii=False)


def _tag(name: str) -> str:
    """A name of a number as all trackers take it: ``nll(forget)`` as ``nll_forget``."""
    return "/".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in name.split("/"))


def _estimate(name: str, found: Aggregate | Estimate) -> dict[str, float]:
    mean = found.value if isinstance(found, Estimate) else found.mean
    return {name: mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _scores(scores: Iterable[SetScore | ScoreDifference], within: str = "") -> dict[str, float]:
    """The numbers of scores: ``SET/METRIC``, and the ends of its interval."""
    return {k: v for s in scores for k, v in _estimate(f"{within}{s.set}/{s.metric}", s).items()}


def _attacked(model: AttackedModel) -> dict[str, float]:
    """The numbers of a model under attack: ``ATTACK/SET_METRIC``, the worst case, and what the attack recovers."""
    found: dict[str, float] = {}
    for o in model.outcomes:
        name = f"{o.attack}/{o.set}_{o.metric}"
        found |= {**_estimate(name, o.after), **_estimate(f"{name}_recovery", o.recovery)}
        found |= {} if o.worst_case is None else _estimate(f"{name}_worst_case", o.worst_case)
    return found


def _models(result: Result) -> Iterator[tuple[str, dict[str, Any], list[dict[str, float]]]]:
    """Each model of a result: its name, its settings, and its numbers at successive steps."""
    settings: dict[str, Any]
    if isinstance(result, StudyResults):
        for key, scores in result.scored():
            yield key.label, _settings(result, key), [{**_scores(scores), **_of_study(result, key)}]
    elif isinstance(result, Scores):
        compared = _scores(result.differences, f"minus {_last(result.compared_with)}/")
        settings = {"model": result.model, "sets": {name: s.model_dump() for name, s in result.sets.items()}}
        yield _last(result.model), settings, [{**_scores(result.scores), **compared}]
    elif isinstance(result, CalibrationResults):
        found = result.calibration
        settings = {"original": result.original, "unlearned": result.unlearned, "tau": found.tau}
        for condition in dict.fromkeys(s.condition for s in result.scores):
            name = _last(result.original if condition == "original" else result.unlearned)
            more = {"alpha": found.alpha} if condition == "calibrated" else {}
            numbers = _scores(s for s in result.scores if s.condition == condition)
            label = name if condition == "original" else f"{name}, {condition}"
            yield label, {**settings, "condition": condition}, [{**numbers, **more}]
    elif isinstance(result, StrongestResults):
        best = result.strongest
        averages = {"before": best.before, "after": best.after, "over_control": best.over_control}
        numbers = {key: v for name, of in averages.items() if of is not None for key, v in _estimate(name, of).items()}
        yield _last(result.model), {"metric": best.metric, "candidates": best.candidates}, [numbers]
    elif isinstance(result, AttackResults):
        settings = {a.name: a.settings for a in result.attacks.attacks}
        for attacked in result.attacks.models:
            yield _last(attacked.model.run) or "control", settings, [_attacked(attacked)]
        for curve in result.curves:
            points = zip(curve.efforts, curve.scores, strict=True)
            name = ", ".join(filter(None, (_last(curve.model.run) or "control", curve.attack, curve.select)))
            yield name, settings, [{f"curve/{curve.over}": e, f"curve/{curve.metric}": s} for e, s in points]


def _of_study(result: StudyResults, key: ModelKey) -> dict[str, float]:
    """Besides the scores of a study's model: those under attack, and of a calibrated one its place in the ranking."""
    attacked = result.attacks.models if result.attacks else ()
    found = {name: value for model in attacked if model.model == key for name, value in _attacked(model).items()}
    for ranked in result.ranked() if key.role == "calibrated" else ():
        if ranked.name == key.run:
            found |= {"ranking/rank": ranked.rank, "ranking/retention": ranked.retention}
            found |= {**_estimate("ranking/forget", ranked.forget), **_estimate("ranking/alpha", ranked.alpha)}
            found |= {} if ranked.confidence is None else {"ranking/confidence": ranked.confidence}
    return found


def _settings(result: StudyResults, key: ModelKey) -> dict[str, Any]:
    tau = {} if result.retention is None else {"tau": result.retention.tau}
    if not key.run:
        return {"role": key.role, **tau}
    run = result.run(key.run).model_dump(include={"method", "group", "formula", "settings", "rule", "tricks", "status"})
    return {"role": key.role, **tau, **run}


def _last(path: str) -> str:
    return Path(path).name
