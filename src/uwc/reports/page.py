"""The study's report: one HTML file with text, tables and figures that opens without a network."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from uwc.errors import UserError
from uwc.reports import tables
from uwc.reports.conclusion import summary
from uwc.reports.grid import is_numeric
from uwc.reports.held import held_fixed, ranked_metric
from uwc.reports.plots import Style, alpha_figures, method_styles, tradeoff_figure
from uwc.reports.published import published_table
from uwc.reports.ranking import groups_table, indistinct, pairs_table, ranking_table
from uwc.reports.ranking_plot import ranking_figure
from uwc.reports.records import ES, tau_of
from uwc.reports.robustness_section import attacked_section
from uwc.reports.tau_curve import frontier_figure, probed_sets, runs_tau_table, tau_figure, tau_table, tau_words
from uwc.reports.training_plots import GROUPS, effect_figures, training_figures, training_table

SCHEMA = 1
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def write_page(results: dict[str, Any], run: dict[str, Any], path: Path) -> None:
    """Writes the report of a study to one HTML file, everything inside.

    Args:
        results: the content of ``results.json``, as `uwc.studies.results.gather` gives it.
        run: the environment and the steps of the run, the content of ``run.json``; may be empty.
        path: the file to write; it is replaced, its folder is created.

    Raises:
        UserError: the results were written in a format that this version does not read.
        OSError: the file cannot be written.
    """
    if results.get("schema") != SCHEMA:
        raise UserError(
            f"the results have schema {results.get('schema')!r}, this version of uwc reads schema {SCHEMA}: "
            "run the study again with this version, or make its report with the version that ran it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_render(results, run), encoding="utf-8")


def _render(results: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("uwc", "reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["split_arxiv"] = ARXIV.split
    environment.globals["is_numeric"] = is_numeric
    environment.globals["colour_of"] = partial(_colour_of, method_styles(results))
    template = environment.get_template("page.html.jinja")
    curves, ranking = alpha_figures(results), ranking_figure(results)
    methods = results["unlearned"]
    return template.render(
        study=results["study"],
        benchmark=results["benchmark"],
        model=results["model"],
        summary=summary(results),
        notes=results["notes"],
        counts={"methods": len(methods), "ranked": len(results["ranking"])},
        tau=tau_of(results),
        held_fixed=held_fixed(results),
        ranked=_ranked(results),
        references=[model["name"] for model in results["models"]],
        result_table=tables.result_table(results),
        splits=tables.split_sizes(results),
        methods_table=tables.methods_table(results),
        settings_table=tables.settings_table(results),
        steps_table=tables.steps_table(run),
        metrics=[_metric(results, name) for name in results["metrics"]],
        tradeoff=_embedded(tradeoff_figure(results), "tradeoff"),
        curves=[_embedded(figure, f"curve-{i}") for i, figure in enumerate(curves.values())],
        comparison=results["study"]["kind"] == "comparison",
        ranking_figure=_embedded(ranking, "ranking") if ranking else "",
        ranking_table=ranking_table(results),
        indistinct=indistinct(results),
        pairs_table=pairs_table(results),
        groups_table=groups_table(results),
        tau_figures=_figures(results, tau_figure, "tau"),
        frontier_figures=_figures(results, frontier_figure, "frontier"),
        tau_table=tau_table(results),
        runs_tau_table=runs_tau_table(results),
        tau_words=tau_words(results),
        published=published_table(results),
        attacked=attacked_section(results, _embedded),
        training_table=training_table(results),
        training_curves=[_embedded(f, f"curve-training-{i}") for i, f in enumerate(training_figures(results).values())],
        effect_curves=[_embedded(f, f"curve-effect-{i}") for i, f in enumerate(effect_figures(results).values())],
        layer_groups=GROUPS,
        not_monotone=[m["name"] for m in methods if (m.get("calibration") or {}).get("monotone") is False],
        environment=run.get("environment") or {},
        config=json.dumps(results["study"].get("config") or {}, indent=2, ensure_ascii=False, default=str),
        plotlyjs=get_plotlyjs(),
    )


def _ranked(results: Mapping[str, Any]) -> dict[str, Any]:
    """The metric of the ranking: its label and summary, and whether it is extraction strength."""
    name, label = ranked_metric(results)
    return {"es": name == ES, "label": label, "summary": (results["metrics"].get(name) or {}).get("summary") or ""}


def _figures(results: Mapping[str, Any], draw: Callable[..., go.Figure], identifier: str) -> list[str]:
    """A figure for the forget set and, where it was probed, for its paraphrases."""
    return [_embedded(draw(results, name), f"{identifier}-{name}") for name in probed_sets(results)]


def _colour_of(styles: Mapping[str, Style], row: str) -> str | None:
    """The colour of the method that a table's row is about; None for a reference model."""
    names = [row.removesuffix(suffix) for suffix in ("", " (diverged)", ", before", ", after")]
    seeds = [name for name in styles if name.rpartition("@")[0] == row]
    return next((styles[name].colour for name in (*names, *seeds) if name in styles), None)


def _metric(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A metric's description in words and its table."""
    facts = results["metrics"][name]
    return {
        "name": name,
        "label": facts["label"],
        "summary": facts.get("summary") or "",
        "direction": "high means remembered" if facts.get("higher_remembers") else "low means remembered",
        "range": _span(*(facts.get("range") or (None, None))),
        "source": facts.get("source") or "",
        "table": tables.metrics_table(results, name),
    }


def _span(low: float | None, high: float | None) -> str:
    """The possible values of a metric in words."""
    bounded = [end is not None and isfinite(end) for end in (low, high)]
    if all(bounded):
        return f"{low:g} to {high:g}"
    return f"{low:g} and up" if bounded[0] else "any number"


def _embedded(figure: go.Figure, identifier: str) -> str:
    """The figure as markup that draws itself with the page's copy of plotly.js."""
    config = {"displaylogo": False, "displayModeBar": False, "responsive": True}
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=identifier, config=config)
    return html
