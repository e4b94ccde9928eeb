"""The figures of training: losses and gradients over steps, with stops, and the gradient effect by layer group."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from uwc.reports.figures import AXIS, COLOURS, FAINT, GRID, INK, figure_layout, model_styles
from uwc.reports.tables_training import trained
from uwc.results import GradientEffects, StudyResults, TrainingRecord

DASHES = ("dash", "dot", "dashdot", "longdash")
GROUPS = {group: COLOURS[i] for i, group in enumerate(("embedding", "early", "middle", "late", "head"))}
"""Layer group -> colour, in the order of depth."""

LEGEND_LETTERS = 26
"""How many letters of names stand side by side above a small figure."""

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
        figure.add_trace(_line(label, log.step, values, line), row=1, col=1)
    if log.gradient_norm:
        line = {"color": colour, "width": 1.6}
        figure.add_trace(_line("gradient norm", log.step, log.gradient_norm, line, legend=False), row=2, col=1)
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
                trace = _line(group, effects.step, groups[group], line, legend=False, markers=True)
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": f"{risk} risk", "standoff": 4}, row=row, col=1)
    _finish(figure, name, top=30)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT, exponentformat="power", nticks=5)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=len(effects.risks), col=1)
    return figure


def _line(
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
