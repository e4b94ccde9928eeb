"""The figures of the training of unlearned models: loss, gradient, and gradient effect."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from uwc.reports.drawing import COLOURS, DASHES, FAINT, INK, SMALL, Drawing, cut, plain, styled, titled
from uwc.reports.figures import model_styles
from uwc.reports.format import known
from uwc.reports.tables import trained
from uwc.results import GradientEffects, StudyResults, TrainingRecord

GROUPS = {group: COLOURS[i] for i, group in enumerate(("embedding", "early", "middle", "late", "head"))}
"""Layer group -> colour, in the order of depth."""
ENDS = {"stopped early": "#0072B2", "diverged": "#D55E00"}
"""End of a training -> the colour of its mark."""


def training_figures(results: StudyResults) -> dict[str, Drawing]:
    """For each model its loss, each term's share of it and the gradient's norm over the steps, with marks for ends."""
    styles = model_styles(results)
    return {name: _training_figure(name, training, styles[name].colour) for name, training in trained(results)}


@styled(10)
def _training_figure(name: str, training: TrainingRecord, colour: str) -> Drawing:
    log, norms = training.log, training.log.gradient_norm
    shown = f"Training curves of {name}: loss and gradient"
    drawing = Drawing.blank(SMALL, 270 if norms else 190, shown, parts=2 if norms else 1)
    parts = drawing.figure.axes
    drawn = [_line(parts[0], "loss", log.step, log.loss, colour, width=2.4)]
    if len(log.terms) > 1:
        for i, (term, values) in enumerate(log.terms.items()):
            drawn.append(_line(parts[0], term, log.step, values, INK, dash=DASHES[i % len(DASHES)], width=1.4))
    titled(parts[0], "y", "loss")
    if norms:
        _line(parts[1], "gradient norm", log.step, norms, colour, width=1.6)
        titled(parts[1], "y", "gradient norm")
        _logarithmic(parts[1], norms)
    for (end, mark), step in zip(ENDS.items(), (training.stopped, training.diverged), strict=True):
        if step is not None:
            drawn += [axes.axvline(step, color=mark, linewidth=1.6, linestyle="--", label=end) for axes in parts][:1]
    _finish(drawing, name, parts, drawn)
    return drawing


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic vertical axis with few ticks, where a value is positive."""
    positive = [value for value in values if known(value) and value > 0]
    if not positive:
        return
    axes.set_yscale("log")
    narrow = max(positive) < 30 * min(positive)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def effect_figures(results: StudyResults) -> dict[str, Drawing]:
    """For each model that recorded it, the gradient effect on the forget and on the retain risk by layer group."""
    return {name: _effect_figure(name, training.effects) for name, training in trained(results) if training.effects}


@styled(10)
def _effect_figure(name: str, effects: GradientEffects) -> Drawing:
    shown = f"Gradient effect of {name} by layer group over the steps"
    drawing = Drawing.blank(SMALL, 280, shown, parts=len(effects.risks))
    parts = drawing.figure.axes
    drawn: dict[str, Line2D] = {}
    for axes, (risk, groups) in zip(parts, effects.risks.items(), strict=True):
        axes.axhline(0, color=FAINT, linewidth=1)
        for group, colour in GROUPS.items():
            if group in groups:
                drawn[group] = _line(axes, group, effects.step, groups[group], colour, width=1.8, markers=True)
        titled(axes, "y", f"{risk} risk")
    _finish(drawing, name, parts, list(drawn.values()))
    return drawing


def _line(
    axes: Axes,
    name: str,
    steps: Sequence[int],
    values: Sequence[float],
    colour: str,
    *,
    width: float,
    dash: str | tuple[float, tuple[float, ...]] = "-",
    markers: bool = False,
) -> Line2D:
    marker = "o" if markers or len(steps) == 1 else ""
    (line,) = axes.plot(
        steps,
        values,
        color=colour,
        linewidth=width,
        linestyle=dash,
        marker=marker,
        markersize=4,
        label=plain(name),
    )
    return line


def _finish(drawing: Drawing, name: str, parts: Sequence[Axes], drawn: Sequence[Line2D]) -> None:
    parts[0].set_title(cut(name), fontsize=12)
    titled(parts[-1], "x", "step")
    parts[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axes in parts:
        axes.yaxis.set_label_coords(-0.165, 0.5)
    if drawn:
        drawing.legend(drawn, size=10.5)
