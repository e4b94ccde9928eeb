"""What training did: losses and gradients over steps, the gradient effect by layer group, stops and collapse."""

from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from uwc.reports.grid import Table
from uwc.reports.plots import COLOURS, FAINT, GRID, INK, figure_layout, method_styles
from uwc.reports.records import Record, known, ordered_methods
from uwc.reports.words import MISSING, number

DASHES = ("dash", "dot", "dashdot", "longdash")
GROUPS = {group: COLOURS[i] for i, group in enumerate(("embedding", "early", "middle", "late", "head"))}
"""Layer group -> colour, in the order of depth."""

LEGEND_LETTERS = 26
"""How many letters of names stand side by side above a small figure."""

STOPPED, DIVERGED = "#0072B2", "#D55E00"


def recorded(results: Record) -> list[Record]:
    """The methods whose training left a log, in the order of the ranking; those that diverged come last."""
    return [m for m in ordered_methods(results) if ((m.get("training") or {}).get("log") or {}).get("step")]


def training_table(results: Record) -> Table:
    """How each run went: its steps, loss, largest gradient, the retain perplexity it leaves, and how it ended."""
    rows = []
    for method in recorded(results):
        training = method["training"]
        log, collapse = training["log"], training.get("collapse") or {}
        norms = [v for v in log.get("gradient_norm", []) if known(v)]
        rows.append(
            (
                method["name"],
                str(training["steps"]),
                _short(log["loss"][0]),
                _short(log["loss"][-1]),
                _short(max(norms)) if norms else MISSING,
                number(collapse.get("before"), "perplexity"),
                number(collapse.get("after"), "perplexity") if collapse.get("after") else "∞" if collapse else MISSING,
                _ending(method),
            )
        )
    bounds = {m["training"]["collapse"]["bound"] for m in recorded(results) if m["training"].get("collapse")}
    caption = "PPL: perplexity per answer token on the retain set, before and after training; neither is calibrated."
    for bound in bounds:
        caption += f"\ncollapsed: the retain perplexity rose to more than {bound:g} times the original's."
    columns = (
        "method", "steps", "loss, first step", "loss, last step", "largest gradient norm", "retain PPL before",
        "retain PPL after", "how it ended",
    )  # fmt: skip
    return Table("What training did", columns, tuple(rows), caption)


def _ending(method: Record) -> str:
    training, endings = method["training"], []
    if known(training.get("stopped")):
        score = training["scores"]["score"][-1]
        endings.append(f"stopped early after step {training['stopped']}, at a score of {number(score)}")
    if known(training.get("diverged")):
        endings.append(f"diverged at step {training['diverged']}")
    if (training.get("collapse") or {}).get("collapsed"):
        endings.append("collapsed")
    return "; ".join(endings) or "complete"


def _short(value: Any) -> str:
    return f"{value:.3g}" if known(value) else MISSING


def training_figures(results: Record) -> dict[str, go.Figure]:
    """For each method its loss, each term's share of it and the gradient's norm over the steps, with marks for ends."""
    styles = method_styles(results)
    return {m["name"]: _training_figure(m, styles[m["name"]].colour) for m in recorded(results)}


def _training_figure(method: Record, colour: str) -> go.Figure:
    training = method["training"]
    log = training["log"]
    has_norm = "gradient_norm" in log
    figure = make_subplots(rows=2 if has_norm else 1, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    lines = [("loss", log["loss"], "solid", 2.4)]
    if len(log["terms"]) > 1:
        lines += [(n, v, DASHES[i % len(DASHES)], 1.4) for i, (n, v) in enumerate(log["terms"].items())]
    for name, values, dash, width in lines:
        line = {"color": colour if name == "loss" else INK, "dash": dash, "width": width}
        figure.add_trace(_line(name, log["step"], values, line), row=1, col=1)
    if has_norm:
        line = {"color": colour, "width": 1.6}
        norm = _line("gradient norm", log["step"], log["gradient_norm"], line, legend=False)
        figure.add_trace(norm, row=2, col=1)
        figure.update_yaxes(title={"text": "gradient norm", "standoff": 4}, type="log", row=2, col=1)
        figure.update_yaxes(nticks=4, exponentformat="power", row=2, col=1)
    for step, mark in ((training.get("stopped"), STOPPED), (training.get("diverged"), DIVERGED)):
        if known(step):
            figure.add_vline(x=step, line={"color": mark, "width": 1.6, "dash": "dash"})
    lines_of_legend = len(lines) if sum(len(name) for name, *_ in lines) > LEGEND_LETTERS else 1
    _finish(figure, method["name"], top=36 + 16 * lines_of_legend, height=314 + 16 * lines_of_legend)
    figure.update_yaxes(title={"text": "loss", "standoff": 4}, row=1, col=1)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=2 if has_norm else 1, col=1)
    return figure


def effect_figures(results: Record) -> dict[str, go.Figure]:
    """For each method that recorded it, the gradient effect on the forget and on the retain risk by layer group."""
    return {m["name"]: _effect_figure(m) for m in recorded(results) if m["training"].get("effects")}


def _effect_figure(method: Record) -> go.Figure:
    effects = method["training"]["effects"]
    risks = [name for name in effects if name != "step"]
    figure = make_subplots(rows=len(risks), cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for row, risk in enumerate(risks, start=1):
        for group, colour in GROUPS.items():
            if group in effects[risk]:
                line = {"color": colour, "width": 1.8}
                trace = _line(group, effects["step"], effects[risk][group], line, legend=False, markers=True)
                figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(title={"text": f"{risk} risk", "standoff": 4}, row=row, col=1)
    _finish(figure, method["name"], top=30)
    figure.update_yaxes(zeroline=True, zerolinecolor=FAINT, exponentformat="power", nticks=5)
    figure.update_xaxes(title={"text": "step", "standoff": 4}, row=len(risks), col=1)
    return figure


def _line(
    name: str, steps: list[int], values: list[float | None], line: Record, *, legend: bool = True, markers: bool = False
) -> go.Scatter:
    return go.Scatter(
        name=escape(name), x=steps, y=values, mode="lines+markers" if markers or len(steps) == 1 else "lines",
        line=dict(line), marker={"size": 5, "color": line["color"]}, showlegend=legend,
        hovertemplate=f"{escape(name)} %{{y:.4g}} at step %{{x}}<extra></extra>",
    )  # fmt: skip


def _finish(figure: go.Figure, name: str, *, top: int, height: int = 330) -> None:
    title = {"text": f"<b>{escape(name)}</b>", "font": {"size": 14}, "x": 0, "xref": "paper", "y": 0.97}
    figure.update_layout(figure_layout(height=height, margin={"l": 64, "r": 8, "t": top, "b": 42}), title=title)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "font": {"size": 11}})
    figure.update_xaxes(gridcolor=GRID, zeroline=False, linecolor="#b0b0b0", showline=True)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, linecolor="#b0b0b0", showline=True)
    figure.update_yaxes(tickfont={"size": 11}, title={"font": {"size": 12}})
