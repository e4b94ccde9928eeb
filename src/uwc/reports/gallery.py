"""Every figure of a study's results, by kind."""

from collections.abc import Callable

from uwc.reports.drawing import Drawing
from uwc.reports.figures import alpha_figures, frontier_figure, ranking_figure, tau_figure, tradeoff_figure
from uwc.reports.figures_robustness import panels_figure
from uwc.reports.figures_training import effect_figures, training_figures
from uwc.reports.tables import probed_sets
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
    "training": training_figures,
    "effect": effect_figures,
    "robustness": _robustness,
}
"""Kind -> a function that draws its figures, by model or set, or "" for the only one."""
