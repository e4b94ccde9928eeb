"""The part of the report that is about attacks, as the page's template reads it."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from uwc.reports import recovery_tables as recovery
from uwc.reports import robustness_tables as tables
from uwc.reports.records import Record
from uwc.reports.robustness_plots import panels_figure


def attacked_section(results: Record, embedded: Callable[[go.Figure, str], str]) -> dict[str, Any] | None:
    """Tables, words and figures about the attacks of a study; None for a study without attacks."""
    if not results.get("attacks"):
        return None
    figures = {split: panels_figure(results, split) for split in results["attacks"]["sets"]}
    return {
        "words": recovery.recovery_words(results),
        "recovery": recovery.recovery_table(results),
        "budgets": recovery.budget_table(results),
        "runs": recovery.runs_table(results),
        "checkpoints": results["robustness"]["checkpoints"],
        "holds": tables.robustness_words(results),
        "rankings": tables.ranking_tables(results),
        "pcc": tables.pcc_table(results),
        "panels": [
            {"label": results["sets"][split]["label"], "figure": embedded(figure, f"panels-{split}")}
            for split, figure in figures.items()
            if figure is not None
        ],
        "faithfulness": tables.faithfulness_table(results),
        "agreement": tables.agreement_table(results),
    }
