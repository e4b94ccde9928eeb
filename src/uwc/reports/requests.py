"""Requests in sequence and forget sets that grow: tables, figures and sentences."""

from collections.abc import Iterator

from matplotlib.ticker import MaxNLocator

from uwc.reports.drawing import WIDTH, Drawing, score_axis, styled, titled
from uwc.reports.figures import model_styles
from uwc.reports.format import (
    MISSING,
    Table,
    difference,
    number,
    percentage,
    retention_bar,
    stacked,
)
from uwc.results import FORGET, SIGNIFICANT, AfterRequest, RequestKind, Requests, StudyResults, find

TITLES: dict[RequestKind, str] = {"sequence": "Requests in sequence", "scale": "Forget sets that grow"}
AXES: dict[RequestKind, str] = {"sequence": "requests so far", "scale": "forgotten questions"}
CHOICES = "choice_accuracy"
_TRAINED = (FORGET, "retain", "holdout")


def requests_of(results: StudyResults, kind: RequestKind) -> list[Requests]:
    """The runs of a kind, in the order of the ranking."""
    order = [run.name for run in results.by_rank()]
    return sorted((found for found in results.requests if found.kind == kind), key=lambda found: order.index(found.run))


def kinds_of(results: StudyResults) -> list[RequestKind]:
    """The kinds of requests in a study."""
    return [kind for kind in TITLES if requests_of(results, kind)]


def requests_tables(results: StudyResults) -> list[Table]:
    """The models after each request, a table for each kind."""
    return [_table(results, kind, requests_of(results, kind)) for kind in kinds_of(results)]


def _table(results: StudyResults, kind: RequestKind, found: list[Requests]) -> Table:
    info, label = results.metrics.get(found[0].metric), results.metric_label(found[0].metric)
    general = _general_sets(results)
    rows, about = [], []
    for requests in found:
        for after in requests.after:
            scores = [find(after.scores, name, metric) for name, metric in general]
            rows.append(
                (
                    requests.run,
                    _request(kind, after),
                    str(after.questions),
                    stacked(after.score, info) if after.score else after.status.replace("_", " "),
                    difference(after.relapse).replace(" [", "\n["),
                    stacked(after.retention),
                    number(after.alpha.value) if after.alpha else MISSING,
                    stacked(after.residual, info),
                    *(number(score.mean, results.metrics.get(score.metric)) if score else MISSING for score in scores),
                )
            )
            about.append(requests.run)
    columns = (
        "run",
        "request" if kind == "sequence" else "forget set",
        "questions",
        f"forget {label}",
        "change of earlier parts",
        "retention",
        "alpha",
        f"residual {label}",
        *(f"{results.set_label(name)}: {results.metric_label(metric)}" for name, metric in general),
    )
    shown = [i for i in range(len(columns)) if any(row[i] != MISSING for row in rows)]
    return Table(
        TITLES[kind],
        tuple(columns[i] for i in shown),
        tuple(tuple(row[i] for i in shown) for row in rows),
        "\n".join(_remarks(results, kind, label, bool(general))),
        tuple(about),
    )


def _request(kind: RequestKind, after: AfterRequest) -> str:
    name = after.forgotten[-1]
    return f"{after.number}" if name == str(after.number) else f"{after.number}: {name}" if kind == "sequence" else name


def _remarks(results: StudyResults, kind: RequestKind, label: str, general: bool) -> Iterator[str]:
    start = (
        "Each request starts from the model after the last one, with the training settings of the run."
        if kind == "sequence"
        else "Each forget set is unlearned at once, from the original, with the training settings of the run."
    )
    yield f"{start} forget {label}: on all questions that were forgotten so far, as delivered, with 95% intervals."
    if kind == "sequence":
        yield (
            "change of earlier parts: the score of the parts that were forgotten by earlier requests, each against its "
            "own right after its request, paired by question; more is relapse."
        )
    if results.retention is not None:
        bar = retention_bar(results)
        yield f"retention: as delivered, the ratio to the original's; alpha and residual {label}: at {bar}."
    if general:
        original = results.reference("original")
        known_before = [
            f"{results.set_label(name)} {number(score.mean, results.metrics.get(metric))}"
            for name, metric in _general_sets(results)
            if original and (score := find(original.scores, name, metric))
        ]
        yield f"The original's scores on the last sets: {', '.join(known_before)}."


def _general_sets(results: StudyResults) -> list[tuple[str, str]]:
    """The sets that show general ability, each with the metric of the table."""
    names = [name for name in results.sets if name.removesuffix("_paraphrased") not in _TRAINED]
    original = results.reference("original")
    scores = original.scores if original else ()
    found = [(name, next((m for m in (CHOICES, results.rank_by) if find(scores, name, m)), "")) for name in names]
    return [(name, metric) for name, metric in found if metric and not name.endswith("_paraphrased")]


def parts_tables(results: StudyResults) -> list[Table]:
    """The forget score of each part of the forget set after each request, a table for each kind."""
    return [_parts_table(results, kind, requests_of(results, kind)) for kind in kinds_of(results)]


def _parts_table(results: StudyResults, kind: RequestKind, found: list[Requests]) -> Table:
    info, label = results.metrics.get(found[0].metric), results.metric_label(found[0].metric)
    names = list(dict.fromkeys(part.part for requests in found for after in requests.after for part in after.parts))
    rows = []
    for requests in found:
        for after in requests.after:
            parts = {part.part: part for part in after.parts}
            rows.append(
                (
                    requests.run,
                    _request(kind, after),
                    *(
                        f"{'' if part.forgotten else '('}{number(part.score.mean, info)}"
                        + (f" / {number(part.residual.value, info)}" if part.residual else "")
                        + ("" if part.forgotten else ")")
                        if (part := parts.get(name))
                        else MISSING
                        for name in names
                    ),
                )
            )
    caption = (
        f"{label} of each part of the forget set"
        + (", as delivered / at equal retention" if results.retention else ", as delivered")
        + "; in parentheses parts that were not forgotten yet."
    )
    of = "part" if kind == "sequence" else "added by"
    columns = ("run", "request" if kind == "sequence" else "forget set", *(f"{of} {name}" for name in names))
    return Table(f"{TITLES[kind]}: by part", columns, tuple(rows), caption, tuple(row[0] for row in rows))


def requests_figures(results: StudyResults) -> dict[str, Drawing]:
    """Kind -> forget scores, as delivered and residual, and retention of each run over its requests."""
    return {kind: _figure(results, kind) for kind in kinds_of(results)}


@styled()
def _figure(results: StudyResults, kind: RequestKind) -> Drawing:
    found = requests_of(results, kind)
    info, label = results.metrics.get(found[0].metric), results.metric_label(found[0].metric)
    parts = 1 if results.retention is None else 3
    drawing = Drawing.blank(WIDTH, 120 + 180 * parts, f"{TITLES[kind]}: {label} and retention", parts=parts)
    styles, axes = model_styles(results), drawing.figure.axes
    drawn = []
    for requests in found:
        style = styles[requests.run]
        curves = [
            [(_place(kind, after), after.score.mean) for after in requests.after if after.score],
            [(_place(kind, after), after.residual.value) for after in requests.after if after.residual],
            [(_place(kind, after), after.retention.value) for after in requests.after if after.retention],
        ]
        lines = [
            drawing.curve(part, points, requests.run, style.colour, style.symbol)
            for part, points in zip(axes, curves, strict=False)
        ]
        drawn.append(lines[0])
    axes[0].set_title(TITLES[kind], fontsize=12)
    for part, text in zip(axes, (f"forget {label}", f"residual {label}"), strict=False):
        score_axis(part, "y", text, info)
    if parts > 1:
        titled(axes[2], "y", "retention")
        axes[2].set_ylim(bottom=min(0.0, axes[2].get_ylim()[0]))
    for part in axes:
        part.yaxis.set_label_coords(-0.115, 0.5)
    titled(axes[-1], "x", AXES[kind])
    axes[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True))
    drawing.legend(drawn)
    return drawing


def _place(kind: RequestKind, after: AfterRequest) -> int:
    return after.number if kind == "sequence" else after.questions


def requests_words(results: StudyResults, kind: RequestKind) -> list[str]:
    """What happened to each run, a sentence for each."""
    return [text for found in requests_of(results, kind) if (text := _words(results, found))]


def _words(results: StudyResults, found: Requests) -> str:
    first, last = found.after[0], found.last
    if last.status in ("diverged", "skipped"):
        diverged = next(after for after in found.after if after.status == "diverged")
        what = "request" if found.kind == "sequence" else "forget set"
        return f"{found.run}: {what} {_request(found.kind, diverged)} diverged."
    said = []
    if found.kind == "sequence" and last.relapse is not None:
        said.append(_relapse(last))
    if first.retention and last.retention:
        ends = " to ".join(number(after.retention.value) for after in (first, last) if after.retention)
        said.append(f"retention as delivered goes from {ends}")
    if first.residual and last.residual and found.kind == "scale":
        info = results.metrics.get(found.metric)
        ends = " to ".join(number(after.residual.value, info) for after in (first, last) if after.residual)
        said.append(f"the residual forget score from {ends}")
    at_once = results.run(found.run).residual(FORGET, found.metric)
    if found.confidence is not None and last.residual and at_once:
        info = results.metrics.get(found.metric)
        said.append(
            f"the residual forget score is {number(last.residual.value, info)} in sequence and "
            f"{number(at_once.mean, info)} at once ({_compared(found.confidence)})"
        )
    return f"{found.run}: {'; '.join(said)}." if said else ""


def _relapse(last: AfterRequest) -> str:
    change = last.relapse
    assert change is not None
    none = 1.0 if change.kind == "ratio" else 0.0
    text = f"after {last.number} requests earlier parts score {difference(change)} against right after their own"
    return text if change.low > none or change.high < none else f"{text}, not significant"


def _compared(confidence: float) -> str:
    if confidence >= SIGNIFICANT:
        return f"lower in sequence, confidence {percentage(confidence)}"
    if confidence <= 1 - SIGNIFICANT:
        return f"lower at once, confidence {percentage(1 - confidence)}"
    return "no significant difference"
