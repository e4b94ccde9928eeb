"""The figures of the robustness of metrics: scores before against after attacks."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from uwc.reports.drawing import COLOURS, FAINT, INK, PAPER, Drawing, cut, plain, styled
from uwc.reports.format import known
from uwc.reports.tables_attacks import method_of_runs, shown
from uwc.results import Cell, Point, Robustness, StudyResults

_SIDE, _GAP, _LEFT, _TOP, _BOTTOM = 96, 34, 130, 40, 8
"""Sizes in points: of a panel, between two, and of the margins with the names of rows and columns."""


@styled()
def panels_figure(results: StudyResults, split: str) -> Drawing | None:
    """A grid of panels, a row for each metric and a column for each attack; None without points on that set.

    Each panel has the identity line (dashed) and the least-squares line (solid), with its PCC.
    """
    found = results.robustness
    cells = {(c.metric, c.attack): c for c in found.cells if c.split == split} if found else {}
    if found is None or not cells:
        return None
    metrics, attacks = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    methods = method_of_runs(results)
    colours = {m: COLOURS[i % len(COLOURS)] for i, m in enumerate(dict.fromkeys(methods.values()))}
    width = _LEFT + (_SIDE + _GAP) * len(attacks)
    legend = 18 * math.ceil(sum(len(method) * 7 + 30 for method in colours) / width)
    height = _TOP + (_SIDE + _GAP) * len(metrics) + _BOTTOM + legend
    name = f"Scores before (across) against after (up) attacks: {results.set_label(split)}"
    drawing = Drawing(Figure(figsize=(width / 72, height / 72)), name, scaled=False)
    for (metric, attack), cell in cells.items():
        row, column = metrics.index(metric), attacks.index(attack)
        left, top = _LEFT + (_SIDE + _GAP) * column, _TOP + (_SIDE + _GAP) * row
        place = (left / width, 1 - (top + _SIDE) / height, _SIDE / width, _SIDE / height)
        axes = drawing.figure.add_axes(place, label=f"{metric} {attack}")
        _draw_panel(drawing, axes, _points(found, cell), cell, {run: colours[m] for run, m in methods.items()})
        if row == 0:
            axes.set_title(plain(shown(attack)).replace(" + ", "\n+ "), fontsize=11, loc="center", fontweight="normal")
        if column == 0:
            text = cut(results.metric_label(metric)).replace(" ", "\n")
            axes.text(-0.42, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=11)
    handles = [Line2D([], [], linestyle="", marker="o", color=c, label=cut(m)) for m, c in colours.items()]
    columns = max(1, width // (30 + 7 * max((len(cut(m)) for m in colours), default=1)))
    drawing.figure.legend(handles=handles, loc="lower left", ncols=columns, fontsize=11, handlelength=1, borderpad=0)
    return drawing


def _points(found: Robustness, cell: Cell) -> list[Point]:
    """The points of a panel that can be drawn: known and, on logarithms, positive."""
    logged = cell.metric in found.log_metrics
    return [
        point
        for point in found.points
        if (point.metric, point.attack, point.split) == (cell.metric, cell.attack, cell.split)
        and all(known(value) and (value > 0 or not logged) for value in (point.before, point.after))
    ]


def _draw_panel(drawing: Drawing, axes: Axes, points: Sequence[Point], cell: Cell, colours: Mapping[str, str]) -> None:
    if not points:
        axes.set_axis_off()
        return
    logged = cell.on_logarithms
    low, high = _span([value for point in points for value in (point.before, point.after)], logged)
    _scale(axes, low, high, logged)
    axes.plot([low, high], [low, high], color=FAINT, linewidth=1.1, linestyle="--")
    slope, intercept = cell.agreement.slope.value, cell.agreement.intercept.value
    if known(slope) and known(intercept):
        xs = [f([point.before for point in points]) for f in (min, max)]
        fitted = [math.exp(intercept + slope * math.log(x)) if logged else intercept + slope * x for x in xs]
        axes.plot(xs, fitted, color=INK, linewidth=1.1)
    for point in points:
        (marker,) = axes.plot([point.before], [point.after], "o", color=colours[point.checkpoint], markersize=4)
        drawing.tip(marker, [f"{point.checkpoint}\nbefore {point.before:.3g}, after {point.after:.3g}"])
    pcc = cell.agreement.pcc.value
    text = f"{pcc:.2f}" if known(pcc) else "no PCC"
    box = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 1}
    axes.text(0.04, 0.97, text, transform=axes.transAxes, va="top", fontsize=10, bbox=box)


def _span(values: Sequence[float], logged: bool) -> tuple[float, float]:
    """The range of both axes, with a margin; of logarithms where they are drawn on such."""
    scaled = [math.log10(v) for v in values] if logged else list(values)
    low, high = min(scaled), max(scaled)
    margin = 0.06 * (high - low) or 0.5
    low, high = low - margin, high + margin
    return (10.0**low, 10.0**high) if logged else (low, high)


def _scale(axes: Axes, low: float, high: float, logged: bool) -> None:
    """The same range and few ticks on both axes."""
    axes.set(xlim=(low, high), ylim=(low, high), **({"xscale": "log", "yscale": "log"} if logged else {}))
    for axis in (axes.xaxis, axes.yaxis):
        subs = (1, 2, 5) if high < 30 * low else (1,)
        axis.set_major_locator(LogLocator(subs=subs, numticks=3) if logged else MaxNLocator(3))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=9)
