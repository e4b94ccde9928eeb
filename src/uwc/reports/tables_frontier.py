"""The residual forget score at every retention, as tables and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from uwc.reports.format import MISSING, Table, intervals, known, listed, number, setting, with_interval
from uwc.reports.tables_results import PARAPHRASED
from uwc.results import (
    FORGET,
    CurvePoint,
    Frontier,
    MeanFrontier,
    MetricInfo,
    SeededPoint,
    StudyResults,
    UnlearnedModel,
)

SHOWN = (0.9, 0.8, 0.6, 0.4)
ROUNDING = 1e-12
"""Scores that are nearer than this are equal."""


def frontiers(results: StudyResults, name: str = FORGET) -> list[tuple[UnlearnedModel, Frontier]]:
    """The models with a frontier of the set `name`, by rank."""
    return [
        (run, run.calibration.frontier[name])
        for run in results.by_rank()
        if run.calibration and name in run.calibration.frontier
    ]


def probed_sets(results: StudyResults) -> list[str]:
    """The forget sets with a frontier of every calibrated model: as asked and, where given, paraphrased."""
    count = len(frontiers(results))
    return [name for name in (FORGET, PARAPHRASED) if count and len(frontiers(results, name)) == count]


@dataclass(frozen=True)
class Curve:
    """The tau curve of one method: of its one run, or the mean over its runs with several seeds."""

    name: str
    runs: tuple[tuple[str, Frontier], ...]
    found: Frontier | MeanFrontier

    @property
    def averaged(self) -> bool:
        """Whether it is a mean over several runs."""
        return len(self.runs) > 1

    @property
    def points(self) -> Sequence[CurvePoint | SeededPoint]:
        """Its points, by tau."""
        return self.found.curve

    @property
    def scores(self) -> list[float]:
        """The residual score at each of them."""
        return [p.value if isinstance(p, CurvePoint) else p.mean for p in self.points]

    @property
    def area(self) -> str:
        """Its area as text, with the standard deviation between seeds."""
        return number(self.found.area) + (_spread(self.found.area_sd) if isinstance(self.found, MeanFrontier) else "")

    def at(self, tau: float, metric: MetricInfo | None) -> str:
        """The score at one of the curve's tau as text, with its interval and the deviation between seeds."""
        point = next((point for point in self.points if point.tau == tau), None)
        if point is None:
            return MISSING
        return with_interval(point, metric) + (_spread(point.sd_seeds) if isinstance(point, SeededPoint) else "")


def curves(results: StudyResults, name: str = FORGET, *, single: bool = False) -> list[Curve]:
    """The curves of the set `name`, best first: one for a method with several seeds, or one a run if `single`."""
    probed = {run.name: frontier for run, frontier in frontiers(results, name)}
    groups = [] if single else [group for group in results.groups if name in group.frontier]
    if not groups:
        return [Curve(run, ((run, frontier),), frontier) for run, frontier in probed.items()]
    return [Curve(g.name, tuple((run, probed[run]) for run in g.runs), g.frontier[name]) for g in groups]


def _spread(sd: float) -> str:
    """The standard deviation between seeds, as it follows a mean over them."""
    return f"\nsd {number(sd)}" if known(sd) else ""


def tau_table(results: StudyResults, *, single: bool = False) -> Table:
    """The residual forget score at some tau with its interval, and the area of the whole curve: one row a method, or a
    run if `single`."""
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    paraphrased = {curve.name: curve.area for curve in curves(results, PARAPHRASED, single=single)}
    drawn, rows = curves(results, single=single), []
    for curve in drawn:
        scores = [curve.at(tau, info) for tau in SHOWN]
        rows.append((curve.name, *scores, curve.area, paraphrased.get(curve.name, MISSING)))
    remarks = [
        f"Scores between two probed mixtures are interpolated. Intervals: {intervals(results)}.",
        f"area: the mean of the residual forget {label} over tau from 0 to 1; it needs no tau (lower is better).",
    ]
    if any(curve.averaged for curve in drawn):
        remarks.append(
            "Of a method with several seeds: the mean over them, its interval from both sources (Student's t), and sd, "
            "the standard deviation between seeds."
        )
    title = f"Residual forget {label} over tau" + (", every run" if single else "")
    columns = ("run" if single else "method", *(f"at tau {setting(t)}" for t in SHOWN), "area", "area, paraphrased")
    return Table(title, columns, tuple(rows), "\n".join(remarks))


def runs_tau_table(results: StudyResults) -> Table | None:
    """The same for every run, where methods have several; None where the other table has all."""
    return tau_table(results, single=True) if any(curve.averaged for curve in curves(results)) else None


def tau_words(results: StudyResults) -> list[str]:
    """The tau curve in words: which method leaves least where, and the areas; for each set that was probed."""
    sentences = []
    for name in probed_sets(results):
        label, drawn = results.set_label(name), curves(results, name)
        if where := winners(results, name):
            sentences.append(f"{label[0].upper()}{label[1:]}: {where[0].lower()}{where[1:]}")
        by_area = sorted(drawn, key=lambda curve: (curve.found.area, curve.name))
        areas = [f"{curve.name} {curve.area.replace(chr(10), ', ')}" for curve in by_area]
        joined = ("; " if any(curve.averaged for curve in drawn) else ", ").join(areas)
        sentences.append(f"Area under the curve of {label}, over all tau from 0 to 1: {joined}.")
    return sentences


def winners(results: StudyResults, name: str = FORGET) -> str:
    """Which method leaves least in which range of tau, as a sentence; empty where there is nothing to compare."""
    drawn = curves(results, name)
    if len(drawn) < 2:
        return ""
    scores = {curve.name: curve.scores for curve in drawn}
    taus = [point.tau for point in drawn[0].points]
    best = [(tau, _least({method: values[i] for method, values in scores.items()})) for i, tau in enumerate(taus)]
    ranges = []
    for methods, group in groupby(best, key=lambda pair: pair[1]):
        inside = [tau for tau, _ in group]
        where = f"for tau from {inside[0]:g} to {inside[-1]:g}" if len(inside) > 1 else f"at tau {inside[0]:g}"
        ranges.append(f"{listed(methods)} {where}")
    return f"Least is left by {', '.join(ranges)}."


def _least(scores: Mapping[str, float]) -> list[str]:
    """The methods with the least score; several where they are equal."""
    least = min(scores.values())
    return [name for name, score in scores.items() if score - least <= ROUNDING]
