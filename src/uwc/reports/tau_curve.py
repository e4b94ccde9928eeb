"""What each method leaves over at every retention: figure, table and the sentence that says who wins where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

import plotly.graph_objects as go

from uwc.reports.grid import Table
from uwc.reports.held import held_as_share, held_fixed, intervals_in_words, ranked_metric
from uwc.reports.plots import Style, axis_of_share, figure_layout, method_styles
from uwc.reports.records import Record, known, ordered_methods
from uwc.reports.words import MISSING, listed, number, setting, with_interval

SHOWN = (0.9, 0.8, 0.6, 0.4)
ROUNDING = 1e-12
"""Scores that are nearer than this are equal."""


def with_frontier(results: Record) -> list[Record]:
    """The methods that have a tau curve, in the order of the ranking."""
    return [m for m in ordered_methods(results) if (m.get("frontier") or {}).get("forget")]


@dataclass(frozen=True)
class Curve:
    """The tau curve of one method: of its one run, or the mean over its runs with several seeds."""

    name: str
    runs: tuple[Record, ...]
    points: Sequence[Record]
    area: str

    @property
    def averaged(self) -> bool:
        """Whether it is a mean over several runs."""
        return len(self.runs) > 1


def curves(results: Record, name: str = "forget", *, single: bool = False) -> list[Curve]:
    """The curves of the set `name`, best first: one for a method with several seeds, or one a run if `single`."""
    probed = {m["name"]: m for m in with_frontier(results) if name in m["frontier"]}
    groups = [] if single else [g for g in results["groups"] if name in g["frontier"]]
    if not groups:
        found = [(run, m["frontier"][name]) for run, m in probed.items()]
        return [Curve(run, (probed[run],), f["curve"], number(f["area"])) for run, f in found]
    drawn = []
    for group in groups:
        frontier = group["frontier"][name]
        points = [{**p, "forget": p["mean"]} for p in frontier["curve"]]
        area = number(frontier["area"]) + _spread(frontier["area_sd"])
        drawn.append(Curve(group["name"], tuple(probed[r] for r in group["runs"]), points, area))
    return drawn


def _spread(sd: float | None) -> str:
    """The standard deviation between seeds, as it follows a mean over them."""
    return f"\nsd {number(sd)}" if known(sd) else ""


def tau_figure(results: Record, name: str = "forget") -> go.Figure:
    """The score left on the set `name` over the share tau of retention that is kept, one line a method.

    A method with several seeds has the mean, a band of one standard deviation between seeds, and thin lines for runs.
    """
    figure, styles = go.Figure(), method_styles(results)
    for curve in curves(results, name):
        style = styles[curve.runs[0]["name"]]
        for run in curve.runs if curve.averaged else ():
            figure.add_trace(_thin(curve, run["frontier"][name]["curve"], style))
        if curve.averaged:
            figure.add_trace(_band(curve, style))
        figure.add_trace(_line(curve, style))
    figure.update_layout(figure_layout(height=420, margin={"l": 62, "r": 12, "t": 12, "b": 40}))
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0})
    figure.update_xaxes(**axis_of_share(escape(f"tau: share of the original's {held_fixed(results)} that is kept")))
    figure.update_xaxes(range=[1.01, 0.39], tickvals=[1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    figure.update_yaxes(**axis_of_share(escape(f"{ranked_metric(results)[1]}: {results['sets'][name]['label']}")))
    return figure


def _line(curve: Curve, style: Style) -> go.Scatter:
    points, mean = curve.points, f", mean over {len(curve.runs)} seeds" if curve.averaged else ""
    return go.Scatter(
        name=escape(curve.name + mean), legendgroup=escape(curve.name), x=[p["tau"] for p in points],
        y=[p["forget"] for p in points], mode="lines+markers", line={"color": style.colour, "width": 2},
        marker={"symbol": style.symbol, "size": 7, "color": style.colour},
        customdata=[(p["low"], p["high"]) for p in points],
        hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}] at tau %{x}",
    )  # fmt: skip


def _thin(curve: Curve, points: Sequence[Record], style: Style) -> go.Scatter:
    return go.Scatter(
        legendgroup=escape(curve.name), showlegend=False, x=[p["tau"] for p in points],
        y=[p["forget"] for p in points], mode="lines", line={"color": style.colour, "width": 0.8, "dash": "dot"},
        hoverinfo="skip",
    )  # fmt: skip


def _band(curve: Curve, style: Style) -> go.Scatter:
    edges = [(p["tau"], max(0.0, p["forget"] - p["sd_seeds"]), p["forget"] + p["sd_seeds"]) for p in curve.points]
    red, green, blue = (int(style.colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        legendgroup=escape(curve.name), showlegend=False, x=[tau for tau, _, _ in (*edges, *reversed(edges))],
        y=[*(low for _, low, _ in edges), *(high for _, _, high in reversed(edges))], fill="toself", mode="lines",
        line={"width": 0}, fillcolor=f"rgba({red}, {green}, {blue}, 0.15)", hoverinfo="skip",
    )  # fmt: skip


def tau_table(results: Record, *, single: bool = False) -> Table:
    """The forget score at some tau with its interval, and the area under the whole curve: one row a method, or a run
    if `single`."""
    _, label = ranked_metric(results)
    perturbed = {c.name: c.area for c in curves(results, "forget_paraphrased", single=single)}
    drawn, rows = curves(results, single=single), []
    for curve in drawn:
        found = {p["tau"]: p for p in curve.points}
        scores = [
            with_interval({**found[t], "mean": found[t]["forget"]}) + _spread(found[t].get("sd_seeds")) for t in SHOWN
        ]
        rows.append((curve.name, *scores, curve.area, perturbed.get(curve.name, MISSING)))
    remarks = [
        f"Scores between two probes are interpolated. Intervals: {intervals_in_words(results)}.",
        f"area: the mean of the forget {label} over tau from 0 to 1, one number without a threshold (lower is better).",
    ]
    if any(curve.averaged for curve in drawn):
        remarks.append(
            "Of a method with several seeds: the mean over them, its interval from both sources (Student's t), and sd, "
            "the standard deviation between seeds."
        )
    return Table(
        title=f"Forget {label} at other retentions" + (", every run" if single else ""),
        columns=("run" if single else "method", *(f"at tau {setting(t)}" for t in SHOWN), "area", "area, paraphrased"),
        rows=tuple(rows), caption="\n".join(remarks),
    )  # fmt: skip


def runs_tau_table(results: Record) -> Table | None:
    """The same for every run, where methods have several; None where the other table has all."""
    return tau_table(results, single=True) if any(c.averaged for c in curves(results)) else None


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
        found = [(_area(results, name, c), c) for c in curves(results, name)]
        areas = [f"{c.name} {c.area.replace(chr(10), ', ')}" for _, c in sorted(found, key=lambda f: (f[0], f[1].name))]
        joined = ("; " if any(c.averaged for _, c in found) else ", ").join(areas)
        sentences.append(f"Area under the curve of {label}, over all tau from 0 to 1: {joined}.")
    return sentences


def _area(results: Record, name: str, curve: Curve) -> float:
    return sum(float(run["frontier"][name]["area"]) for run in curve.runs) / len(curve.runs)


def probed_sets(results: Record) -> list[str]:
    """The sets to be forgotten that every calibrated method was probed on: as asked and, where given, paraphrased."""
    probed = with_frontier(results)
    return [n for n in ("forget", "forget_paraphrased") if probed and all(n in m["frontier"] for m in probed)]


def winners(results: Record, name: str = "forget") -> str:
    """Which method leaves least in which range of tau, as a sentence; empty where there is nothing to compare."""
    drawn = {c.name: c.points for c in curves(results, name)}
    if len(drawn) < 2:
        return ""
    taus = [p["tau"] for p in next(iter(drawn.values()))]
    best = [(tau, _least({name: points[i]["forget"] for name, points in drawn.items()})) for i, tau in enumerate(taus)]
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
