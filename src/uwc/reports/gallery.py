"""Every table and figure of a study's results, by name."""

from collections.abc import Callable

from uwc.reports.depth import depth_figures, depth_table
from uwc.reports.drawing import Drawing
from uwc.reports.figures import alpha_figures, frontier_figure, ranking_figure, tau_figure, tradeoff_figure
from uwc.reports.figures_robustness import panels_figure
from uwc.reports.figures_training import effect_figures, training_figures
from uwc.reports.format import Table
from uwc.reports.requests import parts_tables, requests_figures, requests_tables
from uwc.reports.tables import (
    groups_table,
    methods_table,
    metrics_table,
    pairs_table,
    probed_sets,
    published_table,
    ranking_table,
    result_table,
    runs_tau_table,
    settings_table,
    tau_table,
    training_table,
    verdict_table,
)
from uwc.reports.tables_attacks import (
    agreement_table,
    budget_table,
    faithfulness_table,
    pcc_table,
    precision_table,
    ranking_tables,
    recovery_tables,
    runs_table,
)
from uwc.reports.tables_leaks import leak_tables
from uwc.reports.tables_meta import meta_evaluation_table
from uwc.reports.tuning import trials_tables, tuning_figures, tuning_table
from uwc.results import FORGET, StudyResults

Figures = dict[str, Drawing]


def _ranking(results: StudyResults) -> Figures:
    figure = ranking_figure(results)
    return {"": figure} if figure else {}


def _by_set(draw: Callable[[StudyResults, str], Drawing]) -> Callable[[StudyResults], Figures]:
    """One figure for each probed forget set; that of the questions as asked has no name of its own."""
    return lambda results: {"" if n == FORGET else n: draw(results, n) for n in probed_sets(results)}


def _robustness(results: StudyResults) -> Figures:
    splits = dict.fromkeys(cell.split for cell in results.robustness.cells) if results.robustness else {}
    drawn = {split: panels_figure(results, split) for split in splits}
    return {split: figure for split, figure in drawn.items() if figure}


FIGURES: dict[str, Callable[[StudyResults], Figures]] = {
    "ranking": _ranking,
    "tradeoff": lambda results: {"": tradeoff_figure(results)},
    "tau": _by_set(tau_figure),
    "frontier": _by_set(frontier_figure),
    "alpha": alpha_figures,
    "depth": depth_figures,
    "tuning": tuning_figures,
    "requests": requests_figures,
    "training": training_figures,
    "effect": effect_figures,
    "robustness": _robustness,
}
"""Kind -> a function that draws its figures, by model or set, or "" for the only one."""


def tables(results: StudyResults) -> dict[str, Table | list[Table] | None]:
    """The tables of a report by name; several under one name if there is one for each set or kind of attack."""
    found: dict[str, Table | list[Table] | None] = {
        "results": result_table(results),
        "verdicts": verdict_table(results),
        "ranking": ranking_table(results),
        "pairs": pairs_table(results),
        "seeds": groups_table(results),
        "tuning": tuning_table(results),
        "trials": trials_tables(results),
        "requests": requests_tables(results),
        "requests-parts": parts_tables(results),
        "tau": tau_table(results),
        "tau-runs": runs_tau_table(results),
        "leaks": leak_tables(results),
        "depth": depth_table(results),
        "published": published_table(results),
        "training": training_table(results),
        "methods": methods_table(results),
        "settings": settings_table(results),
    }
    if results.attacks:
        found |= {"attacks": recovery_tables(results), "attack-budgets": budget_table(results)}
        found |= {"attack-runs": runs_table(results), "precisions": precision_table(results)}
    if results.robustness:
        found |= {"robustness": ranking_tables(results), "robustness-pcc": pcc_table(results)}
        found |= {"robustness-statistics": agreement_table(results), "faithfulness": faithfulness_table(results)}
        found["meta-evaluation"] = meta_evaluation_table(results)
    return found | {f"scores-{metric}": metrics_table(results, metric) for metric in results.metrics}
