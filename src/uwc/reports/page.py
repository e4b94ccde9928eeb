"""The study's report: one HTML file with text, tables and figures that opens without a network."""

import json
import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from uwc.io import write_text
from uwc.reports.answers_page import AnswersPart, answers_part, environment
from uwc.reports.figures import (
    GROUPS,
    alpha_figures,
    effect_figures,
    frontier_figure,
    model_styles,
    panels_figure,
    ranking_figure,
    tau_figure,
    tradeoff_figure,
    training_figures,
)
from uwc.reports.format import is_numeric, retention_bar
from uwc.reports.tables import (
    groups_table,
    indistinct,
    methods_table,
    metrics_table,
    pairs_table,
    probed_sets,
    published_table,
    ranking_table,
    result_table,
    runs_tau_table,
    settings_table,
    split_sizes,
    steps_table,
    summary,
    tau_table,
    tau_words,
    training_table,
)
from uwc.reports.tables_attacks import (
    agreement_table,
    budget_table,
    faithfulness_table,
    pcc_table,
    ranking_tables,
    recovery_tables,
    recovery_words,
    robustness_words,
    runs_table,
)
from uwc.results import ES, RunRecord, StudyResults

if TYPE_CHECKING:
    import pandas as pd

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def write_page(results: StudyResults, run: RunRecord, path: Path, *, answers: "pd.DataFrame | None" = None) -> None:
    """Write the report of a study to one HTML file, everything inside but the data of a large table of answers.

    Args:
        results: the study's results.
        run: the environment and the steps of the run; may be empty.
        path: the file to write; it is replaced, its folder is created.
        answers: the table of answers, see `uwc.answers`.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = answers_part(answers, results.metrics, path.parent, first=results.rank_by)
    write_text(path, _render(results, run, part))


def _render(results: StudyResults, run: RunRecord, answers: AnswersPart | None) -> str:
    templates = environment()
    templates.filters["split_arxiv"] = ARXIV.split
    templates.globals["is_numeric"] = is_numeric
    templates.globals["colours"] = {name: style.colour for name, style in model_styles(results).items()}
    return templates.get_template("page.html.jinja").render(
        results=results,
        run=run,
        answers=answers,
        comparison=results.study.kind == "comparison",
        config=json.dumps(results.study.config, indent=2, ensure_ascii=False),
        bar=retention_bar(results),
        rank_by=_rank_by(results),
        summary=summary(results),
        splits=split_sizes(results),
        not_monotone=[m.name for m in results.unlearned if m.calibration and not m.calibration.monotone],
        indistinct=indistinct(results),
        tau_words=tau_words(results),
        metrics=[_metric(results, name) for name in results.metrics],
        layer_groups=GROUPS,
        plotlyjs=get_plotlyjs(),
        **_tables(results, run),
        **_figures(results),
        **_attacks(results),
    )


def _tables(results: StudyResults, run: RunRecord) -> dict[str, Any]:
    return {
        "result_table": result_table(results),
        "ranking_table": ranking_table(results),
        "pairs_table": pairs_table(results),
        "groups_table": groups_table(results),
        "tau_table": tau_table(results),
        "runs_tau_table": runs_tau_table(results),
        "published": published_table(results),
        "training_table": training_table(results),
        "methods_table": methods_table(results),
        "settings_table": settings_table(results),
        "steps_table": steps_table(run),
    }


def _figures(results: StudyResults) -> dict[str, Any]:
    """The figures as markup; for the tau curve and the frontier one for each probed forget set."""
    ranking = ranking_figure(results)
    curves: dict[str, Callable[[StudyResults, str], go.Figure]] = {"tau": tau_figure, "frontier": frontier_figure}
    small = {"alpha": alpha_figures, "training": training_figures, "effect": effect_figures}
    return {
        "ranking_figure": _embedded(ranking, "ranking") if ranking else "",
        "tradeoff": _embedded(tradeoff_figure(results), "tradeoff"),
        **{
            f"{kind}_figures": [_embedded(draw(results, name), f"{kind}-{name}") for name in probed_sets(results)]
            for kind, draw in curves.items()
        },
        **{
            f"{kind}_curves": [_embedded(f, f"curve-{kind}-{i}") for i, f in enumerate(draw(results).values())]
            for kind, draw in small.items()
        },
    }


def _attacks(results: StudyResults) -> dict[str, Any]:
    """Tables, words and figures about attacks and about the robustness of the metrics; empty without them."""
    attacked: dict[str, Any] = {}
    if results.attacks:
        attacked = {
            "words": recovery_words(results),
            "recovery": recovery_tables(results),
            "budgets": budget_table(results),
            "runs": runs_table(results),
        }
    robustness: dict[str, Any] = {}
    if results.robustness:
        splits = dict.fromkeys(cell.split for cell in results.robustness.cells)
        figures = {name: panels_figure(results, name) for name in splits}
        robustness = {
            "checkpoints": results.robustness.checkpoints,
            "words": robustness_words(results),
            "rankings": ranking_tables(results),
            "pcc": pcc_table(results),
            "panels": [
                {"label": results.set_label(name), "figure": _embedded(figure, f"panels-{name}")}
                for name, figure in figures.items()
                if figure is not None
            ],
            "faithfulness": faithfulness_table(results),
            "agreement": agreement_table(results),
        }
    return {"attacked": attacked, "robustness": robustness}


def _rank_by(results: StudyResults) -> dict[str, Any]:
    """The metric of the ranking: its label and summary, and whether it is extraction strength."""
    info = results.metrics.get(results.rank_by)
    return {
        "es": results.rank_by == ES,
        "label": results.metric_label(results.rank_by),
        "summary": info.summary if info else "",
    }


def _metric(results: StudyResults, name: str) -> dict[str, Any]:
    """A metric's description in words and its table."""
    info = results.metrics[name]
    directions = {True: "high means remembered", False: "low means remembered", None: "neither end means remembered"}
    return {
        "label": info.label,
        "summary": info.summary,
        "direction": directions[info.higher_remembers],
        "range": _span(*info.range),
        "source": info.source,
        "table": metrics_table(results, name),
    }


def _span(low: float, high: float) -> str:
    """The possible values of a metric in words."""
    if isfinite(low) and isfinite(high):
        return f"{low:g} to {high:g}"
    return f"{low:g} and up" if isfinite(low) else "any number"


def _embedded(figure: go.Figure, identifier: str) -> str:
    """The figure as markup that draws itself with the page's copy of plotly.js."""
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=identifier, config=config)
    return html
