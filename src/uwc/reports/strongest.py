"""The surface of a grid of attacks: what each recovers, over its effort."""

from itertools import cycle

from uwc.reports.drawing import COLOURS, DASHES, FAINT, INK, SYMBOLS, WIDTH, Drawing, styled, titled
from uwc.results import StrongestResults, SurfacePoint

MOST = len(COLOURS) * 2
"""Lines of a figure, those that reach the most; the table has all."""


@styled()
def surface_figure(results: StrongestResults) -> Drawing | None:
    """The score under each attack of the grid over its effort, a line for each combination of settings; None where no
    attack has several efforts."""
    found = results.strongest
    lines: dict[str, list[SurfacePoint]] = {}
    for point in found.surface:
        if point.effort is not None:
            lines.setdefault(point.name, []).append(point)
    lines = {name: sorted(of, key=lambda p: p.effort or 0) for name, of in lines.items() if len(of) > 1}
    if not lines:
        return None
    drawing = Drawing.blank(WIDTH, 320, f"{found.metric} under attack over the attacker's effort")
    axes = drawing.axes
    most = sorted(
        lines, key=lambda name: -max(abs(p.recovery.mean - (p.recovery.kind == "ratio")) for p in lines[name])
    )
    looks = zip(cycle(COLOURS), cycle(SYMBOLS), ["-"] * len(COLOURS) + [DASHES[0]] * len(COLOURS), strict=False)
    drawn = []
    for name, (colour, symbol, dash) in zip(most[:MOST], looks, strict=False):
        points = [(p.effort or 0.0, p.score.mean) for p in lines[name]]
        drawn.append(drawing.curve(axes, points, name, colour, symbol, dash=str(dash), what="effort "))
    axes.axhline(found.before.mean, color=FAINT, linewidth=1)
    ends = [(axes.get_xlim()[0], found.before.mean)]
    drawn.append(drawing.curve(axes, ends, "before", FAINT, "_"))
    if found.original is not None:
        axes.axhline(found.original.mean, color=INK, linewidth=1, linestyle="--")
        drawn.append(drawing.curve(axes, [(ends[0][0], found.original.mean)], "original", INK, "_", dash="--"))
    titled(axes, "x", "effort (steps)")
    titled(axes, "y", found.metric)
    drawing.legend(drawn)
    return drawing
