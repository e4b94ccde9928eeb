"""The study's figures: the trade-off between forgetting and retention, and the way each alpha was found."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from uwc.reports.held import ranked_metric
from uwc.reports.records import (
    Record,
    aggregate_of,
    calibrated_forget,
    calibrated_retain,
    known,
    ordered_methods,
    reference_scores,
    tau_of,
)
from uwc.reports.words import number, setting, with_interval

# Okabe and Ito's colours, told apart with any colour vision; without their yellow, too pale on white, and black.
COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "hexagram")
INK, FAINT, GRID = "#1c1c1c", "#6b6b6b", "#e8e8e8"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


Point = tuple[Record, Record]


@dataclass(frozen=True)
class Style:
    """How a method looks in every figure; the symbol tells methods apart where the colours come round again."""

    colour: str
    symbol: str


CALIBRATION_KEY = "<br>○ before calibration<br>● calibrated"


def method_styles(results: Record) -> dict[str, Style]:
    """One colour and symbol for each method's name, the same in every figure and table; seeds share the colour."""
    groups = list(dict.fromkeys(method["group"] or method["name"] for method in results["unlearned"]))
    return {
        method["name"]: Style(
            COLOURS[groups.index(method["group"] or method["name"]) % len(COLOURS)], SYMBOLS[i % len(SYMBOLS)]
        )
        for i, method in enumerate(results["unlearned"])
    }


def tradeoff_figure(results: Record) -> go.Figure:
    """Forget over retain score: each method before (open) and after calibration (filled), and the reference models."""
    figure = go.Figure()
    styles, (metric, label) = method_styles(results), ranked_metric(results)
    for method in ordered_methods(results):
        name, style = method["name"], styles[method["name"]]
        before, after = _point(method.get("before"), metric), _point(method.get("after"), metric)
        if after:
            after = calibrated_retain(method, metric), calibrated_forget(method, metric)  # as the tables have them
        if before and after:
            figure.add_trace(_joining_line(name, before, after, style))
        if before:
            when = "before calibration" if after else "as it was left"
            figure.add_trace(_marker(name, when, before, style, filled=False, in_legend=not after))
        if after:
            figure.add_trace(_marker(name, "calibrated", after, style))
    for name, symbol in (("original", "star"), ("retrained", "x")):
        if point := _point(reference_scores(results, name), metric):
            figure.add_trace(_marker(name, "", point, Style("#000000", symbol)))
    _mark_threshold(figure, results)
    figure.add_annotation(
        x=0.02, y=0.98, xref="paper", yref="paper", xanchor="left", yanchor="top", align="left", showarrow=False,
        text="<b>Lower right is better ↘</b>" + (CALIBRATION_KEY if tau_of(results) is not None else ""),
        font={"size": 13, "color": FAINT},
    )  # fmt: skip
    figure.update_layout(figure_layout(height=540, margin={"l": 62, "r": 12, "t": 34, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.14, "yanchor": "top", "x": 0, "itemwidth": 30})
    figure.update_xaxes(**axis_of_share(escape(f"retain {label} (higher: more is kept)")))
    figure.update_yaxes(**axis_of_share(escape(f"forget {label} (lower: more is forgotten)")))
    return figure


def _point(scores: Record | None, metric: str) -> Point | None:
    """The retain and the forget score of a model; None if one of them is not available."""
    retain, forget = (aggregate_of(scores, name, metric) for name in ("retain", "forget"))
    return (retain, forget) if known(retain.get("mean")) and known(forget.get("mean")) else None


def _joining_line(name: str, before: Point, after: Point, style: Style) -> go.Scatter:
    (x0, y0), (x1, y1) = ((retain["mean"], forget["mean"]) for retain, forget in (before, after))
    line = {"color": style.colour, "width": 1}
    group = escape(name)
    return go.Scatter(
        x=[x0, x1], y=[y0, y1], mode="lines", line=line, name=group, legendgroup=group, showlegend=False,
        hoverinfo="skip",
    )  # fmt: skip


def _marker(
    name: str, when: str, point: Point, style: Style, *, filled: bool = True, in_legend: bool = True
) -> go.Scatter:
    """One model: filled, or a larger open marker that stays visible around a filled one; its intervals on hovering."""
    retain, forget = point
    marker = {
        "symbol": style.symbol,
        "color": style.colour if filled else "#ffffff",
        "size": 11 if filled else 13,
        "line": {"color": style.colour, "width": 0 if filled else 2},
    }
    group = escape(name)
    return go.Scatter(
        x=[retain["mean"]],
        y=[forget["mean"]],
        mode="markers",
        marker=marker,
        name=group,
        legendgroup=group,
        showlegend=in_legend,
        text=[f"<b>{group}</b> {when}<br>retain {_hover(retain)}<br>forget {_hover(forget)}"],
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(aggregate: Record) -> str:
    text = with_interval(aggregate)
    return f"{text}, n = {aggregate['n']}" if "n" in aggregate else text


def _mark_threshold(figure: go.Figure, results: Record) -> None:
    found = next((method["calibration"] for method in results["unlearned"] if method.get("calibration")), None)
    if not found or found["set"] != "retain" or not known(found["threshold"]):
        return
    figure.add_vline(x=found["threshold"], line={"color": FAINT, "width": 1, "dash": "dash"})
    figure.add_annotation(
        x=found["threshold"], y=1, yref="paper", xanchor="right", yanchor="bottom", showarrow=False,
        text=f"threshold: {setting(found['tau'])} of the original's", font={"size": 12, "color": FAINT},
    )  # fmt: skip


def alpha_figures(results: Record) -> dict[str, go.Figure]:
    """For each calibrated method, the probed retain and forget scores over alpha, with the alpha that was chosen."""
    styles = method_styles(results)
    return {
        method["name"]: _alpha_figure(method, styles[method["name"]], results["metrics"])
        for method in ordered_methods(results)
        if method.get("calibration")
    }


def _alpha_figure(method: Record, style: Style, metrics: Record) -> go.Figure:
    calibration = method["calibration"]
    probed = (probe for probe in calibration["trace"] if known(probe["alpha"]))
    probes = sorted(probed, key=lambda probe: float(probe["alpha"]))
    facts = metrics.get(calibration["metric"], {})
    metric = facts.get("label", calibration["metric"])
    says = {"retain": metric if calibration["set"] else "kept", "forget": metric}
    figure = go.Figure()
    for side, dash, fill in (("retain", "solid", style.colour), ("forget", "dot", "#ffffff")):
        figure.add_trace(
            go.Scatter(
                name=side,
                x=[probe["alpha"] for probe in probes],
                y=[probe.get(side) for probe in probes],
                mode="lines+markers",
                connectgaps=True,
                line={"color": style.colour, "width": 2, "dash": dash},
                marker={"color": fill, "size": 7, "line": {"color": style.colour, "width": 1.5}},
                hovertemplate=f"{side} {escape(says[side])} %{{y:.3f}} at alpha %{{x:.3f}}<extra></extra>",
            )
        )
    if known(calibration.get("threshold")):
        figure.add_hline(y=calibration["threshold"], line={"color": FAINT, "width": 1, "dash": "dash"})
    if known(calibration.get("alpha")):
        figure.add_vline(x=calibration["alpha"], line={"color": INK, "width": 1.2})
    title = f"<b>{escape(method['name'])}</b>  alpha = {number(calibration.get('alpha'))}"
    figure.update_layout(figure_layout(height=270, margin={"l": 48, "r": 8, "t": 34, "b": 42}), showlegend=False)
    figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0, "xref": "paper", "y": 0.97})
    figure.update_xaxes(**axis_of_share("alpha"))
    figure.update_yaxes(**axis_of_share(escape(metric if calibration["set"] else f"retention; forget {metric}")))
    if facts.get("range") != [0, 1] or any(p["retain"] > 1 for p in probes if known(p.get("retain"))):
        figure.update_yaxes(range=None, tickvals=None)
    return figure


def figure_layout(height: int, margin: Mapping[str, int]) -> dict[str, Any]:
    """What all figures share."""
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


def axis_of_share(title: str) -> dict[str, Any]:
    """An axis from 0 to 1."""
    return {
        "title": {"text": title, "standoff": 8},
        "range": [-0.03, 1.03],
        "tickvals": [0, 0.2, 0.4, 0.6, 0.8, 1],
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#b0b0b0",
        "showline": True,
    }
