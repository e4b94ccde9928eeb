"""The figures of a study's results: ranking, trade-off, tau curve, frontier, and the search for each alpha."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import AutoLocator

from uwc.reports.drawing import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    SMALL,
    SYMBOLS,
    WIDTH,
    Drawing,
    cut,
    plain,
    retention_axis,
    score_axis,
    share_axis,
    styled,
    titled,
)
from uwc.reports.format import known, listed, number, with_interval
from uwc.reports.tables import Curve, curves, frontiers
from uwc.results import (
    FORGET,
    Calibration,
    Frontier,
    MetricInfo,
    RankedModel,
    ReferenceModel,
    Retention,
    Score,
    SeededPoint,
    StudyResults,
    UnlearnedModel,
    find,
)

_ROW = 24


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


@styled()
def ranking_figure(results: StudyResults) -> Drawing | None:
    """A row for each ranked model: its residual forget score and the 95 % interval through alpha; None without a
    ranking. Dashed lines are the original and, where there is one, the retrained model."""
    models = [model for model in results.ranked() if known(model.forget.value)]
    if not models:
        return None
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    name = f"Residual forget {label} of {len(models)} models with 95% intervals, best on top"
    names = [cut(model.name, 24) for model in models]
    left = 14 + 7.6 * max(map(len, names))
    drawing, styles = Drawing.blank(WIDTH, 74 + _ROW * len(models), name, left=left), model_styles(results)
    axes = drawing.axes
    for row, model in enumerate(models):
        _draw_row(drawing, axes, row, model, styles[model.name], info)
    for reference in results.references:
        score = find(reference.scores, FORGET, results.rank_by)
        if score and known(score.mean):
            _mark(axes, score.mean, reference.role)
    score_axis(axes, "x", f"residual forget {label} (lower is better)", info)
    axes.set_yticks(range(len(models)), names)
    axes.set_ylim(len(models) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    return drawing


def _draw_row(
    drawing: Drawing, axes: Axes, row: int, model: RankedModel, style: Style, metric: MetricInfo | None
) -> None:
    score = model.forget
    if known(score.low) and known(score.high):
        ends = {"color": style.colour, "linewidth": 1.6, "marker": "|", "markersize": 9, "markeredgewidth": 1.6}
        axes.plot([score.low, score.high], [row, row], **ends)  # type: ignore[arg-type]
    (marker,) = axes.plot([score.value], [row], style.symbol, color=style.colour, markersize=8, label=plain(model.name))
    alpha = number(model.alpha.value)
    drawing.tip(marker, [f"{model.rank}. {model.name}: {with_interval(score, metric)}\nalpha {alpha}"])


def _mark(axes: Axes, x: float, text: str, side: str = "center") -> None:
    """A dashed vertical line with its name above it."""
    axes.axvline(x, color=FAINT, linewidth=1, linestyle="--", label=text)
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (0, 4)}
    axes.annotate(plain(text), (x, 1), ha=side, va="bottom", color=FAINT, fontsize=11, **place)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Point:
    """A model in the trade-off figure."""

    x: float
    y: float
    tip: str


@styled()
def tradeoff_figure(results: StudyResults) -> Drawing:
    """Forget score over retention: each model as delivered (open) and at tau (filled), and the original.

    The bar is tau; the retrained model, whose retention is not measured, is a line at its forget score. Where nothing
    was calibrated, the horizontal axis is the retain score, and the retrained model a point.
    """
    styles, retention = model_styles(results), results.retention
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    name = f"Forget {label} over {'retention' if retention else f'retain {label}'} of every model"
    drawing = Drawing.blank(WIDTH, 380, name)
    axes, named = drawing.axes, []
    for run in results.by_rank():
        style = styles[run.name]
        delivered = _at_end(results, run) if retention else _by_retain_score(results, run.scores)
        at_tau = _at_tau(results, run)
        if delivered and at_tau:
            axes.plot([delivered.x, at_tau.x], [delivered.y, at_tau.y], color=style.colour, linewidth=1)
        last = None
        if delivered:
            when = " as delivered" if retention else ""
            last = _draw_model(drawing, axes, run.name, when, delivered, style, filled=not retention)
        if at_tau:
            last = _draw_model(drawing, axes, run.name, " at tau", at_tau, style)
        named += [last] if last else []
    for model in results.references:
        named += _draw_reference(drawing, axes, results, model)
    if retention:
        _mark_bar(axes, retention)
    key = "↘ better" + (", ○ as delivered, ● at tau" if retention else "")
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "xytext": (0, 4)}
    axes.annotate(key, (0, 1), va="bottom", color=FAINT, fontsize=11, **place)  # type: ignore[arg-type]
    if retention:
        retention_axis(axes)
    else:
        score_axis(axes, "x", f"retain {label} (higher: more is retained)", info)
    score_axis(axes, "y", f"forget {label} (lower: more is forgotten)", info)
    if named:
        drawing.legend(named)
    return drawing


def _draw_reference(drawing: Drawing, axes: Axes, results: StudyResults, model: ReferenceModel) -> list[Line2D]:
    forget = find(model.scores, FORGET, results.rank_by)
    point = _by_retain_score(results, model.scores)
    if results.retention and forget and known(forget.mean):
        if model.role == "retrained":
            axes.axhline(forget.mean, color=FAINT, linewidth=1, linestyle=":", label="retrained")
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (0, 2)}
            axes.annotate("retrained", (0.55, forget.mean), color=FAINT, fontsize=11, **place)  # type: ignore[arg-type]
            return []
        point = _Point(1.0, forget.mean, f"forget {_described(results, forget)}")
    if point is None:
        return []
    style = Style(INK, "X" if model.role == "retrained" else "*")
    return [_draw_model(drawing, axes, model.role, "", point, style)]


def _by_retain_score(results: StudyResults, scores: tuple[Score, ...]) -> _Point | None:
    retain, forget = find(scores, "retain", results.rank_by), find(scores, FORGET, results.rank_by)
    if not retain or not forget or not known(retain.mean) or not known(forget.mean):
        return None
    text = f"retain {_described(results, retain)}\nforget {_described(results, forget)}"
    return _Point(retain.mean, forget.mean, text)


def _at_end(results: StudyResults, run: UnlearnedModel) -> _Point | None:
    """The unlearned model as delivered: its retention is that of the probe at alpha = 1."""
    forget = find(run.scores, FORGET, results.rank_by)
    probes = run.calibration.probes if run.calibration else ()
    retention = next((probe.retention for probe in probes if probe.alpha == 1), None)
    if not forget or not known(forget.mean) or not known(retention):
        return None
    return _Point(retention, forget.mean, f"retention {number(retention)}\nforget {_described(results, forget)}")


def _at_tau(results: StudyResults, run: UnlearnedModel) -> _Point | None:
    found = run.calibration.at_tau if run.calibration else None
    score = run.residual(FORGET, results.rank_by)
    if not found or not score or not known(score.mean):
        return None
    text = f"retention {number(found.retention)}\nforget {_described(results, score)}"
    return _Point(found.retention, score.mean, text)


def _described(results: StudyResults, score: Score) -> str:
    return f"{with_interval(score, results.metrics.get(results.rank_by))}, n = {score.n}"


def _draw_model(
    drawing: Drawing, axes: Axes, name: str, when: str, point: _Point, style: Style, *, filled: bool = True
) -> Line2D:
    """One model: filled, or a larger open marker that stays visible around a filled one."""
    (marker,) = axes.plot(
        [point.x],
        [point.y],
        linestyle="",
        marker=style.symbol,
        color=style.colour,
        markerfacecolor=style.colour if filled else PAPER,
        markersize=(12 if style.symbol == "*" else 8) if filled else 10,
        markeredgewidth=0 if filled else 1.8,
        label=cut(name),
        zorder=3 if filled else 2.5,
    )
    drawing.tip(marker, [f"{name}{when}\n{point.tip}"])
    return marker


def _mark_bar(axes: Axes, retention: Retention) -> None:
    _mark(axes, retention.tau, f"tau = {retention.tau:g}", "right")


@styled()
def tau_figure(results: StudyResults, name: str = FORGET) -> Drawing:
    """The residual score of the set `name` over tau, one line a method.

    A method with several seeds has the mean, a band of one standard deviation between seeds, and thin lines for runs.
    """
    styles = model_styles(results)
    measures = listed(results.retention.measures) if results.retention else ""
    drawing, axes = _blank_lines(results, name, "the retention constraint tau")
    drawn = []
    for curve in curves(results, name):
        style = styles[curve.runs[0][0]]
        if curve.averaged:
            _draw_seeds(axes, curve, style)
        mean = f", mean over {len(curve.runs)} seeds" if curve.averaged else ""
        taus = [point.tau for point in curve.points]
        line = _draw_line(axes, taus, curve.scores, style, cut(curve.name) + mean)
        drawing.tip(line, [f"{curve.name}\n{with_interval(p)} at tau {p.tau:g}" for p in curve.points])
        drawn.append(line)
    titled(axes, "x", f"tau: least ratio to the original's {measures}")
    axes.set(xlim=(1.01, 0.39), xticks=[1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    if drawn:
        drawing.legend(drawn)
    return drawing


def _blank_lines(results: StudyResults, name: str, over: str) -> tuple[Drawing, Axes]:
    """The figure of a score of the set `name`, with its vertical axis."""
    label, info = results.metric_label(results.rank_by), results.metrics.get(results.rank_by)
    shown = f"{label}: {results.set_label(name)}"
    drawing = Drawing.blank(WIDTH, 330, f"{shown}, over {over}")
    axes = drawing.axes
    score_axis(axes, "y", shown, info)
    return drawing, axes


def _draw_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], style: Style, label: str) -> Line2D:
    (line,) = axes.plot(xs, ys, color=style.colour, linewidth=2, marker=style.symbol, markersize=5, label=label)
    return line


def _draw_seeds(axes: Axes, curve: Curve, style: Style) -> None:
    """Thin lines for the runs of a method with several seeds, and the band of the spread between them."""
    for _, frontier in curve.runs:
        taus = [point.tau for point in frontier.curve]
        axes.plot(taus, [p.value for p in frontier.curve], color=style.colour, linewidth=0.8, linestyle=":")
    points = [point for point in curve.points if isinstance(point, SeededPoint) and known(point.sd_seeds)]
    lower = [max(0.0, point.mean - point.sd_seeds) for point in points]
    upper = [point.mean + point.sd_seeds for point in points]
    axes.fill_between([point.tau for point in points], lower, upper, color=style.colour, alpha=0.15, linewidth=0)


@styled()
def frontier_figure(results: StudyResults, name: str = FORGET) -> Drawing:
    """The score of the set `name` over the retention ratio as alpha runs from 0 to 1, one line a model; the bar is
    tau."""
    styles = model_styles(results)
    drawing, axes = _blank_lines(results, name, "retention, as alpha runs from 0 to 1")
    drawn = []
    for run, frontier in frontiers(results, name):
        xs, ys = [point.retention for point in frontier.path], [point.forget for point in frontier.path]
        line = _draw_line(axes, xs, ys, styles[run.name], cut(run.name))
        drawing.tip(line, _path_tips(run.name, frontier))
        drawn.append(line)
    if results.retention:
        _mark_bar(axes, results.retention)
    retention_axis(axes)
    if drawn:
        drawing.legend(drawn)
    return drawing


def _path_tips(name: str, frontier: Frontier) -> list[str]:
    return [
        f"{name}\nforget {number(point.forget)}, retention {number(point.retention)} at alpha {number(point.alpha)}"
        for point in frontier.path
        if known(point.forget) and known(point.retention)
    ]


def alpha_figures(results: StudyResults) -> dict[str, Drawing]:
    """Calibrated model -> retention and forget score of the probed mixtures over alpha, with tau and the alpha."""
    styles = model_styles(results)
    return {
        run.name: _alpha_figure(run.name, run.calibration, styles[run.name], results)
        for run in results.by_rank()
        if run.calibration
    }


@styled(10)
def _alpha_figure(name: str, calibration: Calibration, style: Style, results: StudyResults) -> Drawing:
    probes = sorted(calibration.probes, key=lambda probe: probe.alpha)
    label, info = results.metric_label(calibration.metric), results.metrics.get(calibration.metric)
    drawing = Drawing.blank(SMALL, 220, f"Search for alpha of {name}: retention and forget {label} over alpha", left=50)
    axes, drawn = drawing.axes, []
    for side, dash, fill, found in (
        ("retention", "-", style.colour, [(probe.alpha, probe.retention) for probe in probes]),
        (f"forget {label}", ":", PAPER, [(probe.alpha, probe.forget) for probe in probes]),
    ):
        points = [(alpha, value) for alpha, value in found if known(value)]
        (line,) = axes.plot(
            [alpha for alpha, _ in points],
            [value for _, value in points],
            color=style.colour,
            linewidth=2,
            linestyle=dash,
            marker="o",
            markersize=5.5,
            markerfacecolor=fill,
            markeredgewidth=1.4,
            label=plain(side),
        )
        drawing.tip(line, [f"{side} {number(value)} at alpha {number(alpha)}" for alpha, value in points])
        drawn.append(line)
    tau = axes.axhline(calibration.tau, color=FAINT, linewidth=1, linestyle="--", label="tau")
    alpha = axes.axvline(calibration.alpha, color=INK, linewidth=1.2, label="alpha")
    axes.set_title(f"{cut(name, 22)}: alpha = {number(calibration.alpha)}", fontsize=12)
    share_axis(axes, "x", "alpha")
    score_axis(axes, "y", f"retention; forget {label}", info)
    if any(probe.retention > 1 for probe in probes):
        axes.yaxis.set_major_locator(AutoLocator())
        axes.autoscale(axis="y")
    drawing.legend([*drawn, tau, alpha], size=10.5)
    return drawing
