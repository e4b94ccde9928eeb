"""The figure of the robustness study: each metric before against after each attack, a point for each checkpoint."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from uwc.reports.figures import AXIS, COLOURS, FAINT, GRID, INK, figure_layout
from uwc.reports.format import known
from uwc.reports.tables_attacks import method_of_runs, shown
from uwc.results import Cell, Point, Robustness, StudyResults

_ROW, _COLUMN, _TOP = 118, 125, 74
_FITTING = 7  # columns that a page has room for; more are scrolled
_DECADES = 2.0


def panels_figure(results: StudyResults, split: str) -> go.Figure | None:
    """A grid of panels, a row for each metric and a column for each attack; None without points on that set.

    Each panel has the identity line (dashed) and the least-squares line (solid), with its PCC.
    """
    found = results.robustness
    cells = {(c.metric, c.attack): c for c in found.cells if c.split == split} if found else {}
    if found is None or not cells:
        return None
    metrics, attacks = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    figure = make_subplots(
        rows=len(metrics),
        cols=len(attacks),
        horizontal_spacing=0.09 / len(attacks),
        vertical_spacing=0.16 / len(metrics),
    )
    methods = method_of_runs(results)
    colours = {m: COLOURS[i % len(COLOURS)] for i, m in enumerate(dict.fromkeys(methods.values()))}
    for (metric, attack), cell in cells.items():
        points = [
            point
            for point in found.points
            if (point.metric, point.attack, point.split) == (metric, attack, split) and _drawable(point, found)
        ]
        if points:
            place = {"row": metrics.index(metric) + 1, "col": attacks.index(attack) + 1}
            _draw_panel(figure, place, points, cell, {run: colours[method] for run, method in methods.items()})
    _name_rows_and_columns(figure, [results.metric_label(m) for m in metrics], attacks)
    for method, colour in colours.items():
        marker = {"color": colour, "size": 9}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=escape(method), marker=marker))
    height = _TOP + _ROW * len(metrics) + 40
    figure.update_layout(figure_layout(height, {"l": 118, "r": 8, "t": _TOP, "b": 40}))
    if len(attacks) > _FITTING:
        figure.update_layout(width=126 + _COLUMN * len(attacks))
    figure.update_layout(legend={"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0})
    return figure


def _drawable(point: Point, found: Robustness) -> bool:
    logged = point.metric in found.log_metrics
    return all(known(value) and (value > 0 or not logged) for value in (point.before, point.after))


def _draw_panel(
    figure: go.Figure, place: Mapping[str, int], points: Sequence[Point], cell: Cell, colours: Mapping[str, str]
) -> None:
    logged = cell.on_logarithms
    low, high = _span([value for point in points for value in (point.before, point.after)], logged)
    ends = [10.0**low, 10.0**high] if logged else [low, high]
    figure.add_trace(_line(ends, ends, "dash", FAINT), **place)
    slope, intercept = cell.agreement.slope.value, cell.agreement.intercept.value
    if known(slope) and known(intercept):
        xs = [f([point.before for point in points]) for f in (min, max)]
        fitted = [math.exp(intercept + slope * math.log(x)) if logged else intercept + slope * x for x in xs]
        figure.add_trace(_line(xs, fitted, "solid", INK), **place)
    figure.add_trace(
        go.Scatter(
            x=[point.before for point in points],
            y=[point.after for point in points],
            mode="markers",
            showlegend=False,
            marker={"size": 5, "opacity": 0.8, "color": [colours[point.checkpoint] for point in points]},
            text=[escape(point.checkpoint) for point in points],
            hovertemplate="%{text}<br>before %{x:.3g}, after %{y:.3g}<extra></extra>",
        ),
        **place,
    )
    axis = {
        "type": "log" if logged else "linear",
        "range": [low, high],
        "nticks": 3,
        "tickfont": {"size": 9},
        "gridcolor": GRID,
        "zeroline": False,
        "showline": True,
        "linecolor": AXIS,
        "ticks": "",
        "exponentformat": "power",
        "minor": {"ticks": ""},
    }
    if logged and high - low > _DECADES:
        axis["dtick"] = math.ceil((high - low) / _DECADES)
    figure.update_xaxes(**axis, **place)
    figure.update_yaxes(**axis, **place)
    pcc = cell.agreement.pcc.value
    figure.add_annotation(
        text=f"{pcc:.2f}" if known(pcc) else "no PCC",
        x=0.03,
        y=0.99,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"size": 10, "color": INK},
        bgcolor="rgba(255,255,255,0.7)",
        **place,
    )


def _span(values: Sequence[float], logged: bool) -> tuple[float, float]:
    """The range of both axes, with a margin; of logarithms where they are drawn on such."""
    scaled = [math.log10(v) for v in values] if logged else list(values)
    low, high = min(scaled), max(scaled)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _line(xs: Sequence[float], ys: Sequence[float], dash: str, colour: str) -> go.Scatter:
    line: dict[str, Any] = {"color": colour, "width": 1.1, "dash": dash}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _name_rows_and_columns(figure: go.Figure, rows: Sequence[str], columns: Sequence[str]) -> None:
    for number, name in enumerate(columns, start=1):
        (low, high) = next(figure.select_xaxes(row=1, col=number)).domain
        figure.add_annotation(
            text=escape(shown(name)).replace(" + ", "<br>+ "),
            x=(low + high) / 2,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="center",
            yanchor="bottom",
            showarrow=False,
            font={"size": 12, "color": INK},
            yshift=4,
        )
    for number, name in enumerate(rows, start=1):
        (low, high) = next(figure.select_yaxes(row=number, col=1)).domain
        figure.add_annotation(
            text=escape(name).replace(" ", "<br>"),
            x=0,
            y=(low + high) / 2,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="middle",
            align="right",
            showarrow=False,
            font={"size": 12, "color": INK},
            xshift=-34,
        )
