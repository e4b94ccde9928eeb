"""What each method leaves over at every retention: figure, table and the sentence that says who wins where."""

from html import escape
from itertools import groupby

import plotly.graph_objects as go

from uwc.reports.held import held_as_share, held_fixed, intervals_in_words, ranked_metric
from uwc.reports.plots import axis_of_share, figure_layout, method_styles
from uwc.reports.tables import MISSING, Record, Table, number, ordered_methods, setting, with_interval

SHOWN = (0.9, 0.8, 0.6, 0.4)


def with_frontier(results: Record) -> list[Record]:
    """The methods that have a tau curve, in the order of the ranking."""
    return [m for m in ordered_methods(results) if (m.get("frontier") or {}).get("forget")]


def tau_figure(results: Record, name: str = "forget") -> go.Figure:
    """The score left on the set `name` over the share tau of retention that is kept, one line a method."""
    figure, styles = go.Figure(), method_styles(results)
    for method in with_frontier(results):
        points = method["frontier"].get(name, {}).get("curve", [])
        style = styles[method["name"]]
        figure.add_trace(
            go.Scatter(
                name=escape(method["name"]), x=[p["tau"] for p in points], y=[p["forget"] for p in points],
                mode="lines+markers", line={"color": style.colour, "width": 2},
                marker={"symbol": style.symbol, "size": 7, "color": style.colour},
                customdata=[(p["low"], p["high"], p["alpha"]) for p in points],
                hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}] at tau %{x}, "
                "alpha %{customdata[2]:.3f}",
            )
        )  # fmt: skip
    figure.update_layout(figure_layout(height=420, margin={"l": 62, "r": 12, "t": 12, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0})
    figure.update_xaxes(**axis_of_share(escape(f"tau: share of the original's {held_fixed(results)} that is kept")))
    figure.update_xaxes(range=[1.01, 0.39], tickvals=[1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    figure.update_yaxes(**axis_of_share(escape(f"{ranked_metric(results)[1]}: {results['sets'][name]['label']}")))
    return figure


def tau_table(results: Record) -> Table:
    """The forget score at some tau with its interval, and the area under the whole curve, one row a method."""
    rows, (_, label) = [], ranked_metric(results)
    for method in with_frontier(results):
        found = {p["tau"]: p for p in method["frontier"]["forget"]["curve"]}
        scores = [with_interval({**found[t], "mean": found[t]["forget"]}) for t in SHOWN]
        perturbed = method["frontier"].get("forget_paraphrased")
        areas = [number(method["frontier"]["forget"]["area"]), number(perturbed["area"]) if perturbed else MISSING]
        rows.append((method["name"], *scores, *areas))
    return Table(
        title=f"Forget {label} at other retentions",
        columns=("method", *(f"at tau {setting(t)}" for t in SHOWN), "area", "area, paraphrased"),
        rows=tuple(rows),
        caption=f"Scores between two probes are interpolated. Intervals: {intervals_in_words(results)}.\n"
        f"area: the mean of the forget {label} over tau from 0 to 1, one number without a "
        "threshold (lower is better).",
    )


def frontier_figure(results: Record, name: str = "forget") -> go.Figure:
    """The whole path of each method: the score left on the set `name` over the retain score, as alpha runs 0 to 1."""
    figure, styles = go.Figure(), method_styles(results)
    for method in with_frontier(results):
        points = method["frontier"].get(name, {}).get("path") or []
        style = styles[method["name"]]
        figure.add_trace(
            go.Scatter(
                name=escape(method["name"]), x=[p["retain"] for p in points], y=[p["forget"] for p in points],
                mode="lines+markers", line={"color": style.colour, "width": 2},
                marker={"symbol": style.symbol, "size": 7, "color": style.colour},
                customdata=[p["alpha"] for p in points],
                hovertemplate="forget %{y:.3f}, retain %{x:.3f} at alpha %{customdata:.3f}",
            )
        )  # fmt: skip
    figure.update_layout(figure_layout(height=420, margin={"l": 62, "r": 12, "t": 12, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0})
    held = held_fixed(results)
    axis = f"the least share kept of {held}" if held_as_share(results) else f"{held} (higher: more is kept)"
    figure.update_xaxes(**axis_of_share(escape(axis)))
    if any(p["retain"] > 1 for m in with_frontier(results) for p in m["frontier"][name]["path"]):
        figure.update_xaxes(range=None, tickvals=None)
    figure.update_yaxes(**axis_of_share(escape(f"{ranked_metric(results)[1]}: {results['sets'][name]['label']}")))
    return figure


def tau_words(results: Record) -> list[str]:
    """The tau curve in words: who leaves least where, and the area under each curve; for each set that was probed."""
    sentences = []
    for name in probed_sets(results):
        label = results["sets"][name]["label"]
        if where := winners(results, name):
            sentences.append(f"{label[0].upper()}{label[1:]}: {where[0].lower()}{where[1:]}")
        areas = sorted((m["frontier"][name]["area"], m["name"]) for m in with_frontier(results))
        listed = ", ".join(f"{method} {number(area)}" for area, method in areas)
        sentences.append(f"Area under the curve of {label}, over all tau from 0 to 1: {listed}.")
    return sentences


def probed_sets(results: Record) -> list[str]:
    """The sets to be forgotten that every calibrated method was probed on: as asked and, where given, paraphrased."""
    probed = with_frontier(results)
    return [n for n in ("forget", "forget_paraphrased") if probed and all(n in m["frontier"] for m in probed)]


def winners(results: Record, name: str = "forget") -> str:
    """Which method leaves least in which range of tau, as a sentence; empty where there is nothing to compare."""
    curves = {m["name"]: m["frontier"][name]["curve"] for m in with_frontier(results) if name in m["frontier"]}
    if len(curves) < 2:
        return ""
    taus = [p["tau"] for p in next(iter(curves.values()))]
    best = [(tau, min(curves, key=lambda m: curves[m][i]["forget"])) for i, tau in enumerate(taus)]
    ranges = []
    for method, group in groupby(best, key=lambda pair: pair[1]):
        inside = [tau for tau, _ in group]
        where = f"for tau from {inside[0]:g} to {inside[-1]:g}" if len(inside) > 1 else f"at tau {inside[0]:g}"
        ranges.append(f"{method} {where}")
    return f"Least is left by {', '.join(ranges)}."
