"""The study's report: one HTML file with text, tables and figures that opens without a network."""

import json
import re
from itertools import count
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from uwc.errors import printable
from uwc.io import write_text
from uwc.reports.answers_page import AnswersPart, answers_part, environment
from uwc.reports.figures import model_styles
from uwc.reports.format import is_numeric, retention_bar, sort_value
from uwc.reports.gallery import FIGURES, tables
from uwc.reports.requests import kinds_of, requests_words
from uwc.reports.tables import indistinct, split_sizes, steps_table, summary, tau_words
from uwc.reports.tables_attacks import recovery_words, robustness_words
from uwc.reports.tables_meta import holding_words, meta_evaluation_words
from uwc.reports.tuning import tuning_words
from uwc.results import ES, RunRecord, StudyResults

if TYPE_CHECKING:
    import pandas as pd

FOLDED = 12
"""The most methods whose own figures are all shown; of more, one is shown at a time."""
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def write_page(results: StudyResults, run: RunRecord, path: Path, *, answers: "pd.DataFrame | None" = None) -> None:
    """Write the report of a study to one HTML file, everything inside.

    Args:
        results: the study's results.
        run: the environment and the steps of the run; may be empty.
        path: the file to write; it is replaced, its folder is created.
        answers: its table of answers, see `uwc.answers`; None for a report without.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = answers_part(answers, results.metrics, path.parent, first=results.rank_by)
    write_text(path, _render(results, run, part))


def _render(results: StudyResults, run: RunRecord, answers: AnswersPart | None) -> str:
    templates = environment()
    templates.filters["split_arxiv"] = ARXIV.split
    templates.globals |= {"is_numeric": is_numeric, "sort_value": sort_value, "heading": Headings()}
    templates.globals["colours"] = {name: style.colour for name, style in model_styles(results).items()}
    return templates.get_template("page.html.jinja").render(
        results=results,
        run=run,
        answers=answers,
        when=_when(run),
        folded=FOLDED,
        comparison=results.study.kind == "comparison",
        config=json.dumps(results.study.config, indent=2, ensure_ascii=False),
        bar=retention_bar(results),
        rank_by=_rank_by(results),
        summary=summary(results),
        splits=split_sizes(results),
        not_monotone=[m.name for m in results.unlearned if m.calibration and not m.calibration.monotone],
        indistinct=indistinct(results),
        tau_words=tau_words(results),
        tuning_words=tuning_words(results),
        requests_words={kind: requests_words(results, kind) for kind in kinds_of(results)},
        metrics={name: _metric(results, name) for name in results.metrics},
        tables=tables(results),
        steps_table=steps_table(run),
        figures=_figures(results),
        recovery_words=recovery_words(results) if results.attacks else [],
        robustness_words=[*robustness_words(results), *holding_words(results)] if results.robustness else [],
        meta_words=meta_evaluation_words(results),
    )


class Headings:
    """The headings of a page, each with an id and a link to itself; collects those of sections for the contents."""

    def __init__(self) -> None:
        self.contents: list[tuple[str, str]] = []
        self._ids: set[str] = set()

    def __call__(self, text: str, level: int = 2) -> Markup:
        """The markup of a heading."""
        text = printable(text)
        stem = re.sub(r"\W+", "-", text.lower()).strip("-") or "section"
        name = next(n for i in count(1) if (n := stem if i == 1 else f"{stem}-{i}") not in self._ids)
        self._ids.add(name)
        if level == 2:
            self.contents.append((name, text))
        return Markup('<h{0} id="{1}"><a href="#{1}">{2}</a></h{0}>').format(level, name, text)


def _when(run: RunRecord) -> str:
    """The time of a run, ``2026-11-26 20:40 to 20:51 UTC``; empty where it was not recorded."""
    if not run.started or not run.ended:
        return ""
    first, last = (stamp[:16].replace("T", " ") for stamp in (run.started, run.ended))
    return f"{first} to {last[11:] if last[:10] == first[:10] else last} UTC"


def _figures(results: StudyResults) -> dict[str, dict[str, str]]:
    """Kind -> model or set -> the figure as markup."""
    return {
        kind: {name: figure.inline(f"{kind}-{i}") for i, (name, figure) in enumerate(draw(results).items())}
        for kind, draw in FIGURES.items()
    }


def _rank_by(results: StudyResults) -> dict[str, Any]:
    """The metric of the ranking: its label and summary, and whether it is extraction strength."""
    info = results.metrics.get(results.rank_by)
    return {
        "es": results.rank_by == ES,
        "label": results.metric_label(results.rank_by),
        "summary": info.summary if info else "",
    }


def _metric(results: StudyResults, name: str) -> dict[str, Any]:
    """A metric's description in words."""
    info = results.metrics[name]
    directions = {True: "high means remembered", False: "low means remembered", None: "neither end means remembered"}
    return {
        "label": info.label,
        "summary": info.summary,
        "direction": directions[info.higher_remembers],
        "range": _span(*info.range),
        "source": info.source,
    }


def _span(low: float, high: float) -> str:
    """The possible values of a metric in words."""
    if isfinite(low) and isfinite(high):
        return f"{low:g} to {high:g}"
    return f"{low:g} and up" if isfinite(low) else "any number"
