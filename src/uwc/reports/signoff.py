"""The page to sign: whether a model has forgotten, by a policy, on one A4 page without jargon."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from uwc.answers import AS_DELIVERED, ATTACK, redacted, worst
from uwc.errors import printable, shortened
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
REWORDED = "_paraphrased"
"""Ending of the name of a set with the questions of another one in other words."""
METRICS_IN_WORDS = {ES: "the share of the true answer that the model completes, given the beginning (bold)"}
"""Metric -> its meaning in plain words; another metric is described by its summary."""

WIDTH, HEIGHT = 527.0, 789.0
"""The printed part of an A4 page in points."""
LINE, LETTER, PADDING = 1.25, 0.525, 2.5
"""The height of a line and the mean width of a letter (of a wide font) over the font size; the height in points of a
table's row besides its lines."""
RAGGED = 3
"""The letters for which there is no room at the end of a line, on average."""
_SPACE, _LETTER = re.compile(r"\s"), re.compile(r"\w")


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
        requirement, answer, limit: the most lines of a requirement, of a text of an answer, and of a warning.
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
        return (sum(lines) + 1) * self.line + PADDING * (len(lines) + 1)


STEPS = tuple(
    Step(*sizes)
    for sizes in (
        *((9, 3, 4, 3), (9, 3, 3, 3), (9, 3, 2, 2), (8.5, 3, 3, 2), (8.5, 3, 2, 2), (8, 3, 2, 2), (7.5, 3, 2, 2)),
        *(
            (7.25, 3, 2, 2),
            (7, 3, 2, 2),
            (6.75, 3, 2, 2),
            (6.75, 3, 2, 1),
            (6.5, 3, 2, 2),
            (6.5, 3, 2, 1),
            (6.5, 2, 2, 1),
        ),
        *((7, 3, 1, 2), (7, 2, 1, 2), (6.5, 3, 1, 1), (6.5, 2, 1, 1), (6.5, 1, 1, 1), (6, 1, 1, 1)),
    )
)
"""The sizes; the first is taken with which everything is on one page."""


@dataclass(frozen=True)
class Text:
    """A text that takes at most so many lines in print: its pieces, and whether each is marked."""

    pieces: tuple[tuple[str, bool], ...]
    lines: int


def fitted(text: str, width: float, most: int, marks: Sequence[tuple[int, int]] = (), *, after: str = "") -> Text:
    """A text on at most `most` lines of so many letters; the end of a longer one is left out.

    Args:
        text: the text.
        width: letters in a line; those of Chinese and Japanese count twice.
        most: the most lines.
        marks: first and last position of its marked parts, in order.
        after: what stands before it on its first line.
    """
    line = max(width - RAGGED, 4)
    room = int(line * most)
    used = min(cell_len(after), room - 4)
    pieces: list[tuple[str, bool]] = []
    for start, end, marked in _between(marks, len(text)):
        piece = printable(_SPACE.sub(" ", text[start : min(end, start + room + 1)]))
        long = cell_len(piece)
        if used + long > room:
            left = set_cell_size(piece, max(room - used - 1, 0)).rstrip()
            pieces.append((f"{left}…", marked and bool(left)))
            used = room
            break
        pieces.append((piece, marked))
        used += long
    return Text(tuple(pieces), min(most, max(1, ceil(used / line))))


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
    text, room = printable(text), int(width - RAGGED)
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
    marks = "True answers are hidden: the beginning of their SHA-256 hash is shown."
    if not redact:
        marks = "Marked: words of the true answer."
    name = first.metric.replace("_", " ")
    return Worst(tuple(rows), f"Score: {name}, {words}. {marks}")


def _direction(results: CheckResults, metric: str) -> bool | None:
    info = results.metrics.get(metric)
    return info.higher_remembers if info else None


def _answer(row: dict[Any, Any], score: str, *, redact: bool) -> Answer:
    question, answer, said = (
        row[name] if isinstance(row[name], str) else "" for name in ("question", "answer", "generated")
    )
    asked = {word for _, _, word in word_spans(question)}
    true = {word for _, _, word in word_spans(answer)} - asked
    leaked = _joined(said, true)
    start = row["completed_from"]
    completed = ((int(start), len(answer)),) if not redact and _is_number(start) and start < len(answer) else ()
    if not isinstance(row["generated"], str):
        said = "(no text was generated)"
    attack, variant = (row[name] if isinstance(row[name], str) else "" for name in ("attack", "variant"))
    under = f"{attack}, {variant}" if variant and variant != attack else attack
    return Answer(question, said or "(nothing)", answer, under, leaked, completed, score)


def _joined(said: str, true: set[str]) -> tuple[tuple[int, int], ...]:
    """The parts of a text that consist of true words; short English words count beside others only."""
    spans: list[tuple[int, int]] = []
    telling: list[bool] = []
    for start, end, word in word_spans(said):
        if word not in true:
            continue
        tells = len(word) > 3 or not word.isascii() or word.isdigit()
        if spans and not _LETTER.search(said, spans[-1][1], start):
            spans[-1], telling[-1] = (spans[-1][0], end), telling[-1] or tells
        else:
            spans.append((start, end))
            telling.append(tells)
    return tuple(span for span, tells in zip(spans, telling, strict=True) if tells)


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
    ends = [x for x in (r.value.value, r.value.low, r.value.high, r.bound) if isfinite(x)]
    ratio = r.relative_to is not None and r.compare == "ratio"
    geometric = info is not None and info.average == "geometric"
    if (ratio or geometric) and min(ends) > 0 and max(ends) > 20 * min(ends):
        low, high = 10.0 ** floor(log10(min(ends))), 10.0 ** ceil(log10(max(ends)))

        def at(x: float) -> float:
            return 0 if x <= low else 100 if x >= high else 100 * log(x / low) / log(high / low)

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

    name: str
    text: Text
    chart: Chart
    number: str
    needed: Text
    bound: str
    status: str

    @property
    def lines(self) -> int:
        """The most lines of its cells."""
        return max(self.text.lines, 1 + self.needed.lines if self.needed.pieces else 1)


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
    secrets: Text
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
    warnings = [fitted(text, step.letters(0.98), step.limit) for text in _warnings(results)]
    limits = (*warnings, *(fitted(text, step.letters(0.98), 2) for text in _limits(results)))
    command = fitted(results.command or MISSING, step.letters() * LETTER / 0.61, 3)
    environment = fitted(_environment(results), step.letters(), 1)
    heights = [
        26,
        13 + max(23, (said.lines * 1.15 + 1) * step.line),
        step.rows([1] * len(checked)) + left_out.lines * step.line + 2,
        step.rows([line.lines for line in lines]) + step.line + 2,
        step.rows([max(t.lines for t in (row[0], row[2], row[3])) for row in answers]) if answers else 0,
        (scale.lines + bool(results.secrets)) * step.line + 2,
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
        model=_path(results.model.source, step.letters(0.48, 1.15)),
        checked=checked,
        left_out=left_out,
        lines=lines,
        more=max(len(verdict.requirements) - len(lines), 0),
        worst=answers,
        scale=scale,
        secrets=fitted(_secrets(results), step.letters(), 1),
        limits=limits,
        command=command,
        environment=environment,
        height=sum(heights),
    )


SIGNATURES = 54.0
"""The height in points of the lines to sign."""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _checked(results: CheckResults, step: Step) -> Iterator[tuple[str, Text, str, str]]:
    width = step.letters(0.27)
    kinds = {"checkpoint": "weights", "texts": "a file of answers", "endpoint": "a server"}
    for role, system in systems(results).items():
        yield role, _path(system.source, width), hash_words(system), kinds[system.kind]
    sets = {name: info for name, info in results.sets.items() if not _reworded(results, name)}
    for name, info in list(sets.items())[:SETS]:
        twice = "2 × " if _reworded(results, f"{name}{REWORDED}") else ""
        about = f", {info.clusters} subjects" if info.clusters else ""
        yield (
            SETS_IN_WORDS.get(name, info.label),
            _path(info.file or MISSING, width),
            (info.file_sha256 or info.sha256)[:DIGITS],
            f"{twice}{info.examples} questions{about}",
        )


def _reworded(results: CheckResults, name: str) -> bool:
    """Whether a set has the questions of another one from the same file in other words."""
    base, found = results.sets.get(name.removesuffix(REWORDED)), results.sets.get(name)
    same = base is not None and found is not None and base is not found
    return same and (base.file, base.examples) == (found.file, found.examples)  # type: ignore[union-attr]


def _secrets(results: CheckResults) -> str:
    counts = [s for s in results.secrets if s.set in results.sets]
    said = (f"{s.said} of {s.secrets} ({SETS_IN_WORDS.get(s.set, results.sets[s.set].label)})" for s in counts)
    return f"Secrets that the model says: {', '.join(said)}." if counts else ""


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
        needed = f"needs ~{r.clusters_needed} subjects" if r.clusters_needed is not None else ""
        notes = [f"the number of {r.cluster}, which decides"] if r.cluster else []
        notes += [r.reason] if r.reason and not notes and not needed else []
        notes += [f"{r.status}, but significantly worse than in the baseline"] if worse else []
        name = shortened(printable(r.name), 30)
        width = step.letters(0.46)
        note = fitted(f" ({'; '.join(notes)})" if notes else "", width / 2, step.requirement)
        text = fitted(r.text, width, step.requirement, after=f"{name}  {''.join(piece for piece, _ in note.pieces)}")
        yield Line(
            name,
            Text((*text.pieces, *((piece, True) for piece, _ in note.pieces)), text.lines),
            _chart(results, r),
            number_words(results, r),
            fitted(needed, step.letters(0.17), 2),
            bound_words(r),
            "worse" if worse and r.status != "violated" else r.status,
        )


def _rows(shown: Worst, step: Step) -> Iterator[tuple[Text, str, Text, Text, str]]:
    for found in shown.answers:
        under = shortened(printable(found.under), 30)
        before = f"under {under}: " if under else ""
        yield (
            fitted(found.question, step.letters(0.28), step.answer),
            before,
            fitted(found.said, step.letters(0.35), step.answer, found.leaked, after=before),
            fitted(found.answer, step.letters(0.28), step.answer, found.completed),
            found.score,
        )


def _warnings(results: CheckResults) -> Iterator[str]:
    warnings = [warning for warning in results.warnings if warning.code != "invalid_rows"]
    yield from (warning.text for warning in warnings[:WARNINGS])
    if len(warnings) > WARNINGS:
        yield f"{len(warnings) - WARNINGS} further warnings are in {results.FILE}."


def _limits(results: CheckResults) -> Iterator[str]:
    questions = sum(info.examples for info in results.sets.values())
    yield (
        f"Only these {questions} questions were asked: other words, other languages or a long conversation may bring "
        "out more."
    )
    tried = listed([attack.name for attack in results.attacks])
    attacks = f"Only these attacks were tried: {tried}" if tried else "No attack was tried, only plain questions"
    yield f"{attacks}; somebody with more time or access may find others."
    yield (
        "Subjects (people or things that the questions are about) were not drawn at random: intervals speak of others "
        "like them."
    )
    if results.retrained is None:
        yield "No model that never saw the data was there to compare with: how much can be guessed is not known."
    if results.model.kind == "checkpoint":
        yield "Only the files with these hashes were checked: no copies, earlier versions, logs or search indexes."
    elif results.model.kind == "texts":
        yield "Only the answers in the file were checked; how they were made cannot be seen from them."
    else:
        yield "Only what the server answered was checked; the model behind its address may change."


def _environment(results: CheckResults) -> str:
    shown = {"uwc": results.uwc_version, **results.environment}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
