"""The page to sign: whether a model has forgotten, by a policy, on one A4 page without jargon."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from uwc.answers import AS_DELIVERED, ATTACK, redacted, worst
from uwc.errors import printable
from uwc.io import write_text
from uwc.reports.answers_page import environment
from uwc.reports.format import known, listed, number
from uwc.reports.pdf import write_pdf
from uwc.reports.tables_check import DIGITS, OUTCOMES, bound_words, hash_words, number_words, systems, verdict_words
from uwc.results import ES, FORGET, MISSING, RETAIN, CheckResults, RequirementResult
from uwc.words import word_spans

if TYPE_CHECKING:
    import pandas as pd

PAGE, PDF = "signoff.html", "signoff.pdf"
ANSWERS, REQUIREMENTS, SETS, WARNINGS = 10, 16, 6, 4
"""The most answers, requirements, sets and warnings on the page."""
SETS_IN_WORDS = {FORGET: "questions to forget", RETAIN: "questions to keep"}
METRICS_IN_WORDS = {ES: "the share of the true answer that the model completes word for word, given the part before it"}
"""Metric -> its meaning in plain words; another metric is described by its summary."""

WIDTH, HEIGHT = 527.0, 782.0
"""The printed part of an A4 page in points."""
LINE, LETTER, FILLED = 1.25, 0.56, 0.92
"""The height of a line and the mean width of a letter (of a wide font) over the font size; the filled part of a
line."""
_SPACE = re.compile(r"\s")


def write_signoff(
    results: CheckResults, folder: Path, *, answers: "pd.DataFrame | None" = None, redact: bool = False
) -> list[Path]:
    """Write the page to sign, and print it to PDF where a browser or weasyprint is there.

    Args:
        results: the check.
        folder: where ``signoff.html`` and ``signoff.pdf`` are written; it is created.
        answers: the table of answers, see `uwc.answers`; None for a page without answers.
        redact: hide true answers and secrets, see `uwc.answers.redacted`.

    Returns:
        The files that were written.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page, pdf = folder / PAGE, folder / PDF
    write_text(page, signoff_page(results, answers=answers, redact=redact))
    return [page, pdf] if write_pdf(page, pdf) else [page]


def signoff_page(results: CheckResults, *, answers: "pd.DataFrame | None" = None, redact: bool = False) -> str:
    """The page as HTML; arguments as `write_signoff` takes them."""
    shown = _worst(results, answers, redact=redact)
    layouts = (_layout(results, shown, step) for step in STEPS)
    last = None
    for layout in layouts:
        last = layout
        if layout.height <= HEIGHT:
            break
    return environment().get_template("signoff.html.jinja").render(page=last)


@dataclass(frozen=True)
class Step:
    """A size of the text in print.

    Attributes:
        size: the font size in points.
        requirement, answer, limit: the most lines of a requirement, of a text of an answer, and of what is not shown.
    """

    size: float
    requirement: int
    answer: int
    limit: int

    @property
    def line(self) -> float:
        """The height of a line in points."""
        return LINE * self.size

    def letters(self, share: float = 1.0, size: float = 1.0) -> float:
        """The letters in a line of a column with a share of the page's width, in a size relative to the text's."""
        return (share * WIDTH - 8) / (LETTER * self.size * size)

    def rows(self, lines: Sequence[int]) -> float:
        """The height of a table whose rows have so many lines, with its head."""
        return (sum(lines) + 1) * self.line + 3.5 * (len(lines) + 1)


STEPS = (
    *(Step(9, 3, 4, 3), Step(9, 3, 3, 3), Step(8.5, 3, 3, 3), Step(8.5, 3, 2, 2), Step(8, 3, 2, 2), Step(7.5, 3, 2, 2)),
    *(Step(7.5, 2, 2, 2), Step(7, 2, 2, 2), Step(7, 2, 1, 2), Step(6.5, 2, 1, 1), Step(6.5, 1, 1, 1), Step(6, 1, 1, 1)),
)
"""The sizes; the first is taken with which everything is on one page."""


@dataclass(frozen=True)
class Text:
    """A text that takes at most so many lines in print: its pieces, and whether each is marked."""

    pieces: tuple[tuple[str, bool], ...]
    lines: int


def fitted(text: str, width: float, most: int, marks: Sequence[tuple[int, int]] = ()) -> Text:
    """A text on at most `most` lines of so many letters; the end of a longer one is left out.

    Args:
        text: the text.
        width: letters in a line; those of Chinese and Japanese count twice.
        most: the most lines.
        marks: first and last position of its marked parts, in order.
    """
    room, used = max(int(width * most * FILLED), 8), 0
    pieces: list[tuple[str, bool]] = []
    for start, end, marked in _between(marks, len(text)):
        piece = printable(_SPACE.sub(" ", text[start : min(end, start + room + 1)]))
        long = cell_len(piece)
        if used + long > room:
            pieces.append((set_cell_size(piece, max(room - used - 1, 0)).rstrip() + "…", marked))
            used = room
            break
        pieces.append((piece, marked))
        used += long
    return Text(tuple(pieces), min(most, max(1, ceil(used / (width * FILLED)))))


def _between(marks: Sequence[tuple[int, int]], length: int) -> Iterator[tuple[int, int, bool]]:
    """The parts of a text, and whether each is marked."""
    at = 0
    for start, end in marks:
        if start > at:
            yield at, start, False
        yield start, end, True
        at = end
    if at < length:
        yield at, length, False


def _path(text: str, width: float) -> Text:
    """A path or an address on one line; of a long one the beginning is left out."""
    text, room = printable(text), int(width * FILLED)
    return fitted(text if len(text) <= room else f"…{text[len(text) - room + 1 :]}", width, 1)


@dataclass(frozen=True)
class Answer:
    """A question with what the model said.

    Attributes:
        question, said, answer: the texts.
        under: the attack; empty without one.
        leaked: the words of the true answer that the model said and the question does not.
        completed: the part of the true answer that the model completes, by positions; empty where it is not known.
        score: the value of the metric in words.
    """

    question: str
    said: str
    answer: str
    under: str
    leaked: tuple[tuple[int, int], ...]
    completed: tuple[tuple[int, int], ...]
    score: str


@dataclass(frozen=True)
class Worst:
    """The answers with which the model shows most that it remembers, by a metric; its words; and why there is none."""

    answers: tuple[Answer, ...] = ()
    metric: str = ""
    why: str = ""


def _worst(results: CheckResults, table: "pd.DataFrame | None", *, redact: bool) -> Worst:
    if table is None or table.empty:
        return Worst(why="The answers were not kept.")
    ours = [r for r in results.verdict.requirements if r.set == FORGET] or list(results.verdict.requirements)
    directed = [r for r in ours if r.metric in table.columns and _direction(results, r.metric) is not None]
    if not directed:
        return Worst(why="The policy has no requirement by which answers can be ordered.")
    first = directed[0]
    info, model = results.metrics[first.metric], results.verdict.model
    same = table[(table["role"] == model.role) & (table["set"] == first.set)]
    if model.run in set(same["model"]):
        same = same[same["model"] == model.run]
    unfair = [attack.name for attack in results.attacks if attack.trains_on_scored]
    same = same[~same["attack"].isin(unfair)]
    higher = bool(info.higher_remembers)
    found = worst(same, first.metric, higher=higher, conditions=(AS_DELIVERED, ATTACK))
    found = found.sort_values(first.metric, ascending=not higher, kind="stable").head(ANSWERS)
    if found.empty:
        return Worst(why="No answer has a value of the policy's first metric.")
    if redact:
        found = redacted(found)
    rows = (_answer(row, number(row[first.metric], info), redact=redact) for row in found.to_dict("records"))
    words = METRICS_IN_WORDS.get(first.metric, info.summary.rstrip("."))
    return Worst(tuple(rows), f"{info.label}: {words}")


def _direction(results: CheckResults, metric: str) -> bool | None:
    info = results.metrics.get(metric)
    return info.higher_remembers if info else None


def _answer(row: dict[Any, Any], score: str, *, redact: bool) -> Answer:
    question, answer, said = (
        row[name] if isinstance(row[name], str) else "" for name in ("question", "answer", "generated")
    )
    asked = {word for _, _, word in word_spans(question)}
    true = {word for _, _, word in word_spans(answer)} - asked
    leaked = tuple((start, end) for start, end, word in word_spans(said) if word in true)
    start = row["completed_from"]
    completed = ((int(start), len(answer)),) if not redact and _is_number(start) and start < len(answer) else ()
    if not isinstance(row["generated"], str):
        said = "(no text was generated)"
    attack, variant = (row[name] if isinstance(row[name], str) else "" for name in ("attack", "variant"))
    under = f"{attack}, {variant}" if variant and variant != attack else attack
    return Answer(question, said or "(nothing)", answer, under, leaked, completed, score)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and known(float(value))


@dataclass(frozen=True)
class Chart:
    """A number with its interval and its bound on a scale of 100 units.

    Attributes:
        low, high: the ends of the scale in words.
        zero: where the bar begins; None on a logarithmic scale.
        value, interval, bound: positions; None where there is none.
        allowed: the part of the scale that meets the requirement.
    """

    low: str
    high: str
    zero: float | None
    value: float | None
    interval: tuple[float, float] | None
    bound: float
    allowed: tuple[float, float]


def _chart(results: CheckResults, r: RequirementResult) -> Chart:
    info = results.metrics.get(r.metric)
    numbers = [x for x in (r.value.value, r.value.low, r.value.high) if known(x)]
    ends = [*numbers, r.bound]
    ratio = r.relative_to is not None and r.compare == "ratio"
    geometric = info is not None and info.average == "geometric"
    if (ratio or geometric) and min(ends) > 0 and max(ends) > 20 * min(ends):
        low, high = 10.0 ** floor(log10(min(ends))), 10.0 ** ceil(log10(max(ends)))

        def at(x: float) -> float:
            return 100 * log(x / low) / log(high / low)

        zero = None
    else:
        share = info is not None and tuple(info.range) == (0, 1) and r.relative_to is None
        high = 1.0 if share else _nice(max(*ends, 0.0), least=1.0 if ratio else 0.0)
        low = -_nice(-min(ends)) if min(ends) < 0 else 0.0

        def at(x: float) -> float:
            return min(max(100 * (x - low) / (high - low), 0), 100)

        zero = at(0.0)
    bound = at(r.bound)
    both = known(r.value.low) and known(r.value.high)
    return Chart(
        low=f"{low:g}",
        high=f"{high:g}",
        zero=zero,
        value=at(r.value.value) if known(r.value.value) else None,
        interval=(at(r.value.low), at(r.value.high)) if both else None,
        bound=bound,
        allowed=(0, bound) if r.direction == "at_most" else (bound, 100),
    )


def _nice(value: float, *, least: float = 0.0) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below a value."""
    value = max(value, least)
    if value <= 0:
        return 0.01
    power = 10.0 ** floor(log10(value))
    return next(n * power for n in (1, 1.2, 1.5, 2, 3, 5, 10) if n * power >= value * 0.999)


@dataclass(frozen=True)
class Line:
    """A requirement on the page."""

    text: Text
    chart: Chart
    number: str
    bound: str
    status: str
    worse: bool


@dataclass(frozen=True)
class Layout:
    """The page's content in one size of the text.

    Attributes:
        step: the size.
        outcome, verdict: the outcome in one word, and its reason.
        systems, sets: what was checked: name, file or folder, hash, size.
        left_out: the rows that were left out.
        lines: the requirements.
        more: the number of further requirements.
        worst: the rows of the worst answers: question, attack, what the model said, true answer, score.
        scale: the meaning of their score, or why there are none.
        limits: what the page does not show.
        command, environment: how to reproduce it.
        height: the height of the page in points, at most.
    """

    results: CheckResults
    step: Step
    outcome: str
    verdict: Text
    model: Text
    checked: tuple[tuple[str, Text, str, str], ...]
    left_out: Text
    lines: tuple[Line, ...]
    more: int
    worst: tuple[tuple[Text, str, Text, Text, str], ...]
    scale: Text
    secrets: str
    limits: tuple[Text, ...]
    command: Text
    environment: Text
    height: float


def _layout(results: CheckResults, shown: Worst, step: Step) -> Layout:
    verdict = results.verdict
    said = fitted(_capital(verdict_words(results)), step.letters(0.72, 1.15), 2)
    checked = tuple(_checked(results, step))
    left_out = fitted(_left_out(results), step.letters(), 2)
    lines = tuple(_lines(results, step))
    answers = tuple(_rows(shown, step))
    scale = fitted(shown.metric or shown.why, step.letters(), 2)
    limits = tuple(fitted(text, step.letters(0.98), step.limit) for text in _limits(results))
    command = fitted(results.command or MISSING, step.letters() * LETTER / 0.61, 3)
    environment = fitted(_environment(results), step.letters(), 2)
    heights = [
        22 + step.line + 4,
        12 + max(26, (said.lines * 1.15 + 1) * step.line),
        step.rows([1] * len(checked)) + left_out.lines * step.line + 2,
        step.rows([line.text.lines for line in lines]) + step.line + 2,
        step.rows([max(t.lines for t in (row[0], row[2], row[3])) for row in answers]) if answers else 0,
        (scale.lines + 1) * step.line + 2,
        sum(text.lines * step.line + 1 for text in limits),
        (command.lines + environment.lines) * step.line + 8,
        5 * (LINE * 1.1 * step.size + 8),
        SIGNATURES,
    ]
    return Layout(
        results=results,
        step=step,
        outcome=OUTCOMES[verdict.outcome],
        verdict=said,
        model=_path(results.model.source, step.letters(0.85)),
        checked=checked,
        left_out=left_out,
        lines=lines,
        more=max(len(verdict.requirements) - len(lines), 0),
        worst=answers,
        scale=scale,
        secrets="; ".join(
            f"{s.said} of {s.secrets} secrets in the {SETS_IN_WORDS.get(s.set, s.set)} are said"
            for s in results.secrets[:SETS]
        ),
        limits=limits,
        command=command,
        environment=environment,
        height=sum(heights),
    )


SIGNATURES = 62.0
"""The height in points of the lines to sign."""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _checked(results: CheckResults, step: Step) -> Iterator[tuple[str, Text, str, str]]:
    width = step.letters(0.40)
    kinds = {"checkpoint": "weights", "texts": "a file of answers", "endpoint": "a server"}
    for role, system in systems(results).items():
        yield role, _path(system.source, width), hash_words(system), kinds[system.kind]
    for name, info in list(results.sets.items())[:SETS]:
        about = f", {info.clusters} people or things" if info.clusters else ""
        sha256 = (info.file_sha256 or info.sha256)[:DIGITS]
        yield (
            SETS_IN_WORDS.get(name, info.label),
            _path(info.file or MISSING, width),
            sha256,
            f"{info.examples} questions{about}",
        )


def _left_out(results: CheckResults) -> str:
    if not any(found.invalid for found in results.invalid_rows):
        return "No row of these files was left out."
    parts = []
    for found in results.invalid_rows:
        first = f" ({found.unit} {found.first[0].row}: {found.first[0].reason})" if found.first else ""
        parts.append(f"{found.invalid} of {found.rows} {found.unit}s of {found.file}{first}")
    return f"Left out, since they cannot be read: {'; '.join(parts)}."


def _lines(results: CheckResults, step: Step) -> Iterator[Line]:
    for r in results.verdict.requirements[:REQUIREMENTS]:
        worse = r.change is not None and r.change.worse
        notes = [f"the worst: {r.cluster}"] if r.cluster else []
        notes += [r.reason] if r.reason else []
        if r.clusters_needed is not None:
            notes.append(f"about {r.clusters_needed} people or things would probably decide it")
        notes += ["significantly worse than before"] if worse else []
        text, note = r.text or r.name, f" ({'; '.join(notes)})" if notes else ""
        yield Line(
            fitted(text + note, step.letters(0.42), step.requirement, [(len(text), len(text + note))] if note else ()),
            _chart(results, r),
            number_words(results, r),
            bound_words(r),
            r.status,
            worse,
        )


def _rows(shown: Worst, step: Step) -> Iterator[tuple[Text, str, Text, Text, str]]:
    for found in shown.answers:
        under = printable(found.under)[:30]
        room = step.letters(0.35)
        said = fitted(found.said, max(room - cell_len(under) / step.answer, 12), step.answer, found.leaked)
        lines = min(step.answer, said.lines + (1 if under else 0))
        yield (
            fitted(found.question, step.letters(0.28), step.answer),
            under,
            Text(said.pieces, lines),
            fitted(found.answer, step.letters(0.28), step.answer, found.completed),
            found.score,
        )


def _limits(results: CheckResults) -> Iterator[str]:
    warnings = [warning for warning in results.warnings if warning.code != "invalid_rows"]
    yield from (warning.text for warning in warnings[:WARNINGS])
    if len(warnings) > WARNINGS:
        yield f"{len(warnings) - WARNINGS} further warnings are in {results.FILE}."
    questions = sum(info.examples for info in results.sets.values())
    yield (
        f"Only these {questions} questions were asked, in these words: other questions, other languages or a long "
        "conversation may bring out more."
    )
    tried = listed([attack.name for attack in results.attacks])
    attacks = f"Only these attacks were tried: {tried}" if tried else "No attack was tried, only plain questions"
    yield f"{attacks}; somebody with more time or access may find others."
    yield (
        "The people were not drawn at random from all whose data the model has: intervals say how much the numbers "
        "would change with other people like these."
    )
    if results.retrained is None:
        yield "There was no model that never saw the data to compare with: how much of an answer can be guessed is not known."
    if results.model.kind == "checkpoint":
        yield "Only the files with these hashes were checked: no copies, earlier versions, logs or search indexes."
    elif results.model.kind == "texts":
        yield "Only the answers in the file were checked; how they were made cannot be seen from them."
    else:
        yield "Only what the server answered was checked; the model behind its address may change."


def _environment(results: CheckResults) -> str:
    shown = {"uwc": results.uwc_version, **results.environment}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
