"""The figures of a study's results: ranking, trade-off, tau curve, frontier, and the search for each alpha."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from uwc.reports.format import known, listed, number, with_interval
from uwc.reports.tables import Curve, curves, frontiers, trained
from uwc.reports.tables_attacks import method_of_runs, shown
from uwc.results import (
    FORGET,
    Calibration,
    Cell,
    Frontier,
    GradientEffects,
    MetricInfo,
    Point,
    RankedModel,
    ReferenceModel,
    Retention,
    Robustness,
    Score,
    SeededPoint,
    StudyResults,
    TrainingRecord,
    UnlearnedModel,
    find,
)

# Okabe and Ito's colours, which differ in any colour vision; without their yellow, too pale on white, and black.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagram")
INK, FAINT, GRID, AXIS = "#1c1c1c", "#6b6b6b", "#e8e8e8", "#b0b0b0"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
RETENTION = "retention (ratio to the original's value)"
KEY = "<br>○ as delivered<br>● at tau"
_AROUND, _ROW = 96, 26


@dataclass(frozen=True)
class Style:
    """The colour and symbol of a model in every figure; models of one colour have different symbols."""

    colour: str
    symbol: str


def model_styles(results: StudyResults) -> dict[str, Style]:
    """Unlearned model -> its colour and symbol, the same in every figure and table; seeds share the colour."""
    groups = list(dict.fromkeys(run.group or run.name for run in results.unlearned))
    return {
        run.name: Style(COLOURS[groups.index(run.group or run.name) % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)])
        for i, run in enumerate(results.unlearned)
    }


def ranking_figure(results: StudyResults) -> go.Figure | None:
    """A row for each ranked model: its residual forget score and the 95 % interval through alpha; None without a
    ranking. Dashed lines are the original and, where there is one, the retrained model."""
    models = [model for model in results.ranked() if known(model.forget.value)]
    if not models:
        return None
    figure, styles, info = go.Figure(), model_styles(results), results.metrics.get(results.rank_by)
    for model in models:
        figure.add_trace(_bar(model, styles[model.name], info))
    for reference in results.references:
        score = find(reference.scores, FORGET, results.rank_by)
        if score and known(score.mean):
            figure.add_vline(x=score.mean, line={"color": FAINT, "width": 1, "dash": "dash"})
            figure.add_annotation(x=score.mean, y=1, yref="paper", yanchor="bottom", **_remark(reference.role))
    figure.update_layout(figure_layout(_AROUND + _ROW * len(models), {"l": 12, "r": 24, "t": 26, "b": 46}))
    figure.update_layout(showlegend=False)
    label = results.metric_label(results.rank_by)
    figure.update_xaxes(**score_axis(f"residual forget {label} (lower is better)", info))
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, ticks="", linecolor=AXIS)
    return figure


def _bar(model: RankedModel, style: Style, metric: MetricInfo | None) -> go.Scatter:
    score, name, interval = model.forget, escape(model.name), None
    if known(score.low) and known(score.high):
        interval = {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, score.high - score.value)],
            "arrayminus": [max(0.0, score.value - score.low)],
            "color": style.colour,
            "thickness": 1.6,
            "width": 4,
        }
    text = f"<b>{model.rank}. {name}</b> {with_interval(score, metric)}<br>alpha {number(model.alpha.value)}"
    return go.Scatter(
        x=[score.value],
        y=[name],
        mode="markers",
        name=name,
        error_x=interval,
        marker={"symbol": style.symbol, "color": style.colour, "size": 11},
        text=[text],
        hovertemplate="%{text}<extra></extra>",
    )


@dataclass(frozen=True)
class _Point:
    """A model in the trade-off figure."""

    x: float
    y: float
    hover: str


def tradeoff_figure(results: StudyResults) -> go.Figure:
    """Forget score over retention: each model as delivered (open) and at tau (filled), and the original.

    The bar is tau; the retrained model, whose retention is not measured, is a line at its forget score. Where nothing
    was calibrated, the horizontal axis is the retain score, and the retrained model a point.
    """
    figure, styles, retention = go.Figure(), model_styles(results), results.retention
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    for run in results.by_rank():
        style = styles[run.name]
        delivered = _at_end(results, run) if retention else _by_retain_score(results, run.scores)
        at_tau = _at_tau(results, run)
        if delivered and at_tau:
            figure.add_trace(_joining_line(run.name, delivered, at_tau, style))
        if delivered:
            when = "as delivered" if retention else ""
            figure.add_trace(_marker(run.name, when, delivered, style, filled=not retention, in_legend=not at_tau))
        if at_tau:
            figure.add_trace(_marker(run.name, "at tau", at_tau, style))
    for model in results.references:
        _add_reference(figure, results, model)
    if retention:
        _mark_bar(figure, retention)
    key = "<b>Lower right is better ↘</b>" + (KEY if retention else "")
    place = {"xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top", "align": "left"}
    figure.add_annotation(x=0.02, y=0.98, **place, **_remark(key, size=13))
    figure.update_layout(figure_layout(height=540, margin={"l": 62, "r": 12, "t": 34, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.14, "yanchor": "top", "x": 0, "itemwidth": 30})
    if retention:
        figure.update_xaxes(**retention_axis([x for trace in figure.data for x in trace.x]))
    else:
        figure.update_xaxes(**score_axis(f"retain {label} (higher: more is retained)", info))
    figure.update_yaxes(**score_axis(f"forget {label} (lower: more is forgotten)", info))
    return figure


def _add_reference(figure: go.Figure, results: StudyResults, model: ReferenceModel) -> None:
    forget = find(model.scores, FORGET, results.rank_by)
    point = _by_retain_score(results, model.scores)
    if results.retention and forget and known(forget.mean):
        if model.role == "retrained":
            figure.add_hline(y=forget.mean, line={"color": FAINT, "width": 1, "dash": "dot"})
            figure.add_annotation(
                x=0, xref="paper", xanchor="left", y=forget.mean, yanchor="bottom", **_remark("retrained")
            )
            return
        point = _Point(1.0, forget.mean, f"forget {_hover(results, forget)}")
    if point:
        figure.add_trace(_marker(model.role, "", point, Style("#000000", "x" if model.role == "retrained" else "star")))


def _by_retain_score(results: StudyResults, scores: tuple[Score, ...]) -> _Point | None:
    retain, forget = find(scores, "retain", results.rank_by), find(scores, FORGET, results.rank_by)
    if not retain or not forget or not known(retain.mean) or not known(forget.mean):
        return None
    text = f"retain {_hover(results, retain)}<br>forget {_hover(results, forget)}"
    return _Point(retain.mean, forget.mean, text)


def _at_end(results: StudyResults, run: UnlearnedModel) -> _Point | None:
    """The unlearned model as delivered: its retention is that of the probe at alpha = 1."""
    forget = find(run.scores, FORGET, results.rank_by)
    probes = run.calibration.probes if run.calibration else ()
    retention = next((probe.retention for probe in probes if probe.alpha == 1), None)
    if not forget or not known(forget.mean) or not known(retention):
        return None
    return _Point(retention, forget.mean, f"retention {number(retention)}<br>forget {_hover(results, forget)}")


def _at_tau(results: StudyResults, run: UnlearnedModel) -> _Point | None:
    found = run.calibration.at_tau if run.calibration else None
    score = run.residual(FORGET, results.rank_by)
    if not found or not score or not known(score.mean):
        return None
    return _Point(
        found.retention, score.mean, f"retention {number(found.retention)}<br>forget {_hover(results, score)}"
    )


def _hover(results: StudyResults, score: Score) -> str:
    return f"{with_interval(score, results.metrics.get(results.rank_by))}, n = {score.n}"


def _joining_line(name: str, first: _Point, second: _Point, style: Style) -> go.Scatter:
    return go.Scatter(
        x=[first.x, second.x],
        y=[first.y, second.y],
        mode="lines",
        line={"color": style.colour, "width": 1},
        name=escape(name),
        legendgroup=escape(name),
        showlegend=False,
        hoverinfo="skip",
    )


def _marker(
    name: str, when: str, point: _Point, style: Style, *, filled: bool = True, in_legend: bool = True
) -> go.Scatter:
    """One model: filled, or a larger open marker that stays visible around a filled one; its intervals on hovering."""
    marker = {
        "symbol": style.symbol,
        "color": style.colour if filled else "#ffffff",
        "size": 11 if filled else 13,
        "line": {"color": style.colour, "width": 0 if filled else 2},
    }
    return go.Scatter(
        x=[point.x],
        y=[point.y],
        mode="markers",
        marker=marker,
        name=escape(name),
        legendgroup=escape(name),
        showlegend=in_legend,
        text=[f"<b>{escape(name)}</b> {when}<br>{point.hover}"],
        hovertemplate="%{text}<extra></extra>",
    )


def _remark(text: str, size: int = 12) -> dict[str, Any]:
    return {"text": text, "showarrow": False, "font": {"size": size, "color": FAINT}}


def _mark_bar(figure: go.Figure, retention: Retention) -> None:
    figure.add_vline(x=retention.tau, line={"color": FAINT, "width": 1, "dash": "dash"})
    place = {"x": retention.tau, "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
    figure.add_annotation(**place, **_remark(f"tau = {retention.tau:g}"))


def tau_figure(results: StudyResults, name: str = FORGET) -> go.Figure:
    """The residual score of the set `name` over tau, one line a method.

    A method with several seeds has the mean, a band of one standard deviation between seeds, and thin lines for runs.
    """
    figure, styles = go.Figure(), model_styles(results)
    for curve in curves(results, name):
        style = styles[curve.runs[0][0]]
        for _, frontier in curve.runs if curve.averaged else ():
            figure.add_trace(_thin(curve, frontier, style))
        if curve.averaged:
            figure.add_trace(_band(curve, style))
        figure.add_trace(_curve_line(curve, style))
    _lay_out_lines(figure, results, name)
    measures = listed(results.retention.measures) if results.retention else ""
    figure.update_xaxes(**axis(f"tau: least ratio to the original's {measures}", [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]))
    figure.update_xaxes(range=[1.01, 0.39])
    return figure


def _lay_out_lines(figure: go.Figure, results: StudyResults, name: str) -> None:
    figure.update_layout(figure_layout(height=420, margin={"l": 62, "r": 12, "t": 24, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0}, showlegend=True)
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    figure.update_yaxes(**score_axis(f"{label}: {results.set_label(name)}", info))


def _curve_line(curve: Curve, style: Style) -> go.Scatter:
    mean = f", mean over {len(curve.runs)} seeds" if curve.averaged else ""
    return go.Scatter(
        name=escape(curve.name + mean),
        legendgroup=escape(curve.name),
        x=[point.tau for point in curve.points],
        y=curve.scores,
        mode="lines+markers",
        line={"color": style.colour, "width": 2},
        marker={"symbol": style.symbol, "size": 7, "color": style.colour},
        customdata=[(point.low, point.high) for point in curve.points],
        hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}] at tau %{x}",
    )


def _thin(curve: Curve, frontier: Frontier, style: Style) -> go.Scatter:
    return go.Scatter(
        legendgroup=escape(curve.name),
        showlegend=False,
        x=[point.tau for point in frontier.curve],
        y=[point.value for point in frontier.curve],
        mode="lines",
        line={"color": style.colour, "width": 0.8, "dash": "dot"},
        hoverinfo="skip",
    )


def _band(curve: Curve, style: Style) -> go.Scatter:
    points = [point for point in curve.points if isinstance(point, SeededPoint) and known(point.sd_seeds)]
    lower = [(p.tau, max(0.0, p.mean - p.sd_seeds)) for p in points]
    upper = [(p.tau, p.mean + p.sd_seeds) for p in reversed(points)]
    red, green, blue = (int(style.colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        legendgroup=escape(curve.name),
        showlegend=False,
        x=[tau for tau, _ in (*lower, *upper)],
        y=[score for _, score in (*lower, *upper)],
        fill="toself",
        mode="lines",
        line={"width": 0},
        fillcolor=f"rgba({red}, {green}, {blue}, 0.15)",
        hoverinfo="skip",
    )


def frontier_figure(results: StudyResults, name: str = FORGET) -> go.Figure:
    """The score of the set `name` over the retention ratio as alpha runs from 0 to 1, one line a model; the bar is
    tau."""
    figure, styles = go.Figure(), model_styles(results)
    for run, frontier in frontiers(results, name):
        style = styles[run.name]
        figure.add_trace(
            go.Scatter(
                name=escape(run.name),
                x=[point.retention for point in frontier.path],
                y=[point.forget for point in frontier.path],
                mode="lines+markers",
                line={"color": style.colour, "width": 2},
                marker={"symbol": style.symbol, "size": 7, "color": style.colour},
                customdata=[point.alpha for point in frontier.path],
                hovertemplate="forget %{y:.3f}, retention %{x:.3f} at alpha %{customdata:.3f}",
            )
        )
    if results.retention:
        _mark_bar(figure, results.retention)
    _lay_out_lines(figure, results, name)
    figure.update_xaxes(**retention_axis([x for trace in figure.data for x in trace.x]))
    return figure


def alpha_figures(results: StudyResults) -> dict[str, go.Figure]:
    """Calibrated model -> retention and forget score of the probed mixtures over alpha, with tau and the alpha."""
    styles = model_styles(results)
    return {
        run.name: _alpha_figure(run.name, run.calibration, styles[run.name], results)
        for run in results.by_rank()
        if run.calibration
    }


def _alpha_figure(name: str, calibration: Calibration, style: Style, results: StudyResults) -> go.Figure:
    probes = sorted(calibration.probes, key=lambda probe: probe.alpha)
    label, info = results.metric_label(calibration.metric), results.metrics.get(calibration.metric)
    figure = go.Figure()
    for side, dash, fill, values in (
        ("retention", "solid", style.colour, [probe.retention for probe in probes]),
        (f"forget {label}", "dot", "#ffffff", [probe.forget for probe in probes]),
    ):
        figure.add_trace(
            go.Scatter(
                name=escape(side),
                x=[probe.alpha for probe in probes],
                y=values,
                mode="lines+markers",
                connectgaps=True,
                line={"color": style.colour, "width": 2, "dash": dash},
                marker={"color": fill, "size": 7, "line": {"color": style.colour, "width": 1.5}},
                hovertemplate=f"{escape(side)} %{{y:.3f}} at alpha %{{x:.3f}}<extra></extra>",
            )
        )
    figure.add_hline(y=calibration.tau, line={"color": FAINT, "width": 1, "dash": "dash"})
    figure.add_vline(x=calibration.alpha, line={"color": INK, "width": 1.2})
    title = f"<b>{escape(name)}</b>  alpha = {number(calibration.alpha)}"
    figure.update_layout(figure_layout(height=270, margin={"l": 48, "r": 8, "t": 34, "b": 42}), showlegend=False)
    figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0, "xref": "paper", "y": 0.97})
    figure.update_xaxes(**axis_of_share("alpha"))
    figure.update_yaxes(**score_axis(f"retention; forget {label}", info))
    if any(probe.retention > 1 for probe in probes):
        figure.update_yaxes(range=None, tickvals=None)
    return figure


def figure_layout(height: int, margin: Mapping[str, int]) -> dict[str, Any]:
    """The layout that all figures share."""
    return {
        "template": "none",
        "height": height,
        "margin": dict(margin),
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "hoverlabel": {"bgcolor": "#ffffff", "font": {"color": INK}},
        "dragmode": False,
    }


def axis(title: str, tickvals: list[float] | None = None) -> dict[str, Any]:
    """An axis, with ticks at `tickvals` if they are given."""
    return {
        "title": {"text": escape(title), "standoff": 8},
        "tickvals": tickvals,
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": AXIS,
        "showline": True,
    }


def axis_of_share(title: str) -> dict[str, Any]:
    """An axis from 0 to 1."""
    return {**axis(title, [0, 0.2, 0.4, 0.6, 0.8, 1]), "range": [-0.03, 1.03]}


def score_axis(title: str, metric: MetricInfo | None) -> dict[str, Any]:
    """An axis of a metric: from 0 to 1 where these are its bounds, else as wide as its values."""
    return axis_of_share(title) if metric is None or metric.range == (0, 1) else axis(title)


def retention_axis(ratios: list[float]) -> dict[str, Any]:
    """An axis of the retention ratio: from 0 to 1, or to the largest of the ratios drawn."""
    return axis_of_share(RETENTION) if all(ratio <= 1 for ratio in ratios if known(ratio)) else axis(RETENTION)


_CELL_HEIGHT, _CELL_WIDTH, _TOP = 118, 125, 74
_FITTING = 7  # columns that fit on a page; more are scrolled
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
    height = _TOP + _CELL_HEIGHT * len(metrics) + 40
    figure.update_layout(figure_layout(height, {"l": 118, "r": 8, "t": _TOP, "b": 40}))
    if len(attacks) > _FITTING:
        figure.update_layout(width=126 + _CELL_WIDTH * len(attacks))
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
    figure.add_trace(_fit_line(ends, ends, "dash", FAINT), **place)
    slope, intercept = cell.agreement.slope.value, cell.agreement.intercept.value
    if known(slope) and known(intercept):
        xs = [f([point.before for point in points]) for f in (min, max)]
        fitted = [math.exp(intercept + slope * math.log(x)) if logged else intercept + slope * x for x in xs]
        figure.add_trace(_fit_line(xs, fitted, "solid", INK), **place)
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


def _fit_line(xs: Sequence[float], ys: Sequence[float], dash: str, colour: str) -> go.Scatter:
    line: dict[str, Any] = {"color": colour, "width": 1.1, "dash": dash}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _name_rows_and_columns(figure: go.Figure, rows: Sequence[str], columns: Sequence[str]) -> None:
    for place, name in enumerate(columns, start=1):
        (low, high) = next(figure.select_xaxes(row=1, col=place)).domain
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
    for place, name in enumerate(rows, start=1):
        (low, high) = next(figure.select_yaxes(row=place, col=1)).domain
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


DASHES = ("dash", "dot", "dashdot", "longdash")
GROUPS = {group: COLOURS[i] for i, group in enumerate(("embedding", "early", "middle", "late", "head"))}
"""Layer group -> colour, in the order of depth."""

LEGEND_LETTERS = 26
"""The most letters of names side by side above a small figure."""

STOPPED, DIVERGED = "#0072B2", "#D55E00"


def training_figures(results: StudyResults) -> dict[str, go.Figure]:
    """For each model its loss, each term's share of it and the gradient's norm over the steps, with marks for ends."""
    styles = model_styles(results)
    return {name: _training_figure(name, training, styles[name].colour) for name, training in trained(results)}


def _training_figure(name: str, training: TrainingRecord, colour: str) -> go.Figure:
    log = training.log
    rows = 2 if log.gradient_norm else 1
    figure = make_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    lines = [("loss", log.loss, colour, "solid", 2.4)]
    if len(log.terms) > 1:
        lines += [(n, v, INK, DASHES[i % len(DASHES)], 1.4) for i, (n, v) in enumerate(log.terms.items())]
    for label, values, shade, dash, width in lines:
        line: dict[str, str | float] = {"color": shade, "dash": dash, "width": width}
        figure.add_trace(_training_line(label, log.step, values, line), row=1, col=1)
    if log.gradient_norm:
        line = {"color": colour, "width": 1.6}
        figure.add_trace(_training_line("gradient norm", log.step, log.gradient_norm, line, legend=False), row=2, col=1)
        figure.update_yaxes(title={"text": "gradient norm", "standoff": 4}, type="log", row=2, col=1)
        figure.update_yaxes(nticks=4, exponentformat="power", row=2, col=1)
    for step, mark in ((training.stopped, STOPPED), (training.diverged, DIVERGED)):
        if step is not None:
            figure.add_vline(x=step, line={"color": mark, "width": 1.6, "dash": "dash"})
    lines_of_legend = len(lines) if sum(len(label) for label, *_ in lines) > LEGEND_LETTERS else 1
    _finish(figure, name, top=36 + 16 * lines_of_legend, height=314 + 16 * lines_of_legend)
    figure.update_yaxes(title={"text": "loss", "standoff": 4}, row=1, col=1)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=rows, col=1)
    return figure


def effect_figures(results: StudyResults) -> dict[str, go.Figure]:
    """For each model that recorded it, the gradient effect on the forget and on the retain risk by layer group."""
    return {name: _effect_figure(name, training.effects) for name, training in trained(results) if training.effects}


def _effect_figure(name: str, effects: GradientEffects) -> go.Figure:
    figure = make_subplots(rows=len(effects.risks), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for row, (risk, groups) in enumerate(effects.risks.items(), start=1):
        for group, colour in GROUPS.items():
            if group in groups:
                line: dict[str, str | float] = {"color": colour, "width": 1.8}
                trace = _training_line(group, effects.step, groups[group], line, legend=False, markers=True)
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": f"{risk} risk", "standoff": 4}, row=row, col=1)
    _finish(figure, name, top=30)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT, exponentformat="power", nticks=5)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=len(effects.risks), col=1)
    return figure


def _training_line(
    name: str,
    steps: Sequence[int],
    values: Sequence[float],
    line: Mapping[str, str | float],
    *,
    legend: bool = True,
    markers: bool = False,
) -> go.Scatter:
    return go.Scatter(
        name=escape(name),
        x=steps,
        y=values,
        mode="lines+markers" if markers or len(steps) == 1 else "lines",
        line=dict(line),
        marker={"size": 5, "color": line["color"]},
        showlegend=legend,
        hovertemplate=f"{escape(name)} %{{y:.4g}} at step %{{x}}<extra></extra>",
    )


def _finish(figure: go.Figure, name: str, *, top: int, height: int = 330) -> None:
    title = {"text": f"<b>{escape(name)}</b>", "font": {"size": 14}, "x": 0, "xref": "paper", "y": 0.97}
    figure.update_layout(figure_layout(height=height, margin={"l": 64, "r": 8, "t": top, "b": 42}), title=title)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "font": {"size": 11}})
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor=AXIS, showline=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor=AXIS, showline=True)
    figure.update_yaxes(tickfont={"size": 11}, title={"font": {"size": 12}})
