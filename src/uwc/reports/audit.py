"""The figure of an audit: the advantage of an observer, or the leaks that are found."""

import numpy as np

from uwc.reports.drawing import COLOURS, FAINT, INK, WIDTH, Drawing, styled, titled
from uwc.results import AuditResults, Estimate, LeakAudit, ObserverAudit

FILE = "audit.svg"


def audit_figure(results: AuditResults) -> Drawing | None:
    """The figure of an audit; None for one without."""
    if results.observer is not None:
        return _observer_figure(results.observer)
    return None if results.leaks is None else _leak_figure(results.leaks)


@styled()
def _observer_figure(found: ObserverAudit) -> Drawing:
    """The advantage over the retrained model, and that between two retrained ones, with 95 % intervals."""
    drawing = Drawing.blank(WIDTH, 260, "Advantage of an observer by the number of observed answers")
    axes, counts = drawing.axes, [point.n for point in found.points]
    axes.set_xscale("log", base=2)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    lines = []
    of_control = [point.control for point in found.points if point.control is not None]
    for name, estimates, colour, symbol in (
        ("two retrained models", of_control, INK, "X"),
        ("model and retrained", [point.advantage for point in found.points], COLOURS[1], "o"),
    ):
        if estimates:
            _band(drawing, counts, estimates, colour)
            points = zip(counts, (e.value for e in estimates), strict=True)
            lines.append(drawing.curve(axes, points, name, colour, symbol, what="answers: "))
    axes.set(xticks=counts, xticklabels=[str(n) for n in counts], ylim=(-1.03, 1.03))
    axes.minorticks_off()
    titled(axes, "x", "observed answers")
    titled(axes, "y", "advantage")
    drawing.legend(lines)
    return drawing


@styled()
def _leak_figure(found: LeakAudit) -> Drawing:
    """The leaks that are found by the number of queries, and those of random order on average with their interval."""
    drawing = Drawing.blank(WIDTH, 260, "Leaks that are found by the number of queries")
    axes, queries = drawing.axes, range(len(found.asked) + 1)
    order = found.in_random_order
    axes.fill_between([0, queries[-1]], [0, order.low], [0, order.high], color=INK, alpha=0.15, linewidth=0)
    (average,) = axes.plot(
        [0, queries[-1]], [0, order.value], color=INK, linestyle="--", label="random order, on average"
    )
    counts = np.cumsum([0, *(query.leaks for query in found.asked)])
    (line,) = axes.step(queries, counts, where="post", color=COLOURS[1], linewidth=2, label="this audit")
    titled(axes, "x", "queries")
    titled(axes, "y", "leaks")
    drawing.legend([line, average])
    return drawing


def _band(drawing: Drawing, counts: list[int], estimates: list[Estimate], colour: str) -> None:
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    drawing.axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
