"""The tau curve in the report."""

from typing import Any

from tests.unit.example_results import example_results

from uwc.reports.tables import summary
from uwc.reports.tau_curve import frontier_figure, tau_figure, tau_table, tau_words, winners

TAUS = (0.4, 0.6, 0.8, 0.9, 0.95, 1.0)


def with_curves() -> dict[str, Any]:
    """Two methods whose curves cross between 0.6 and 0.8: gd leaves tau / 2, npo a constant 0.35."""
    results = example_results()
    for method in results["unlearned"]:
        if method["name"] in ("gd", "npo"):
            left = [t / 2 if method["name"] == "gd" else 0.35 for t in TAUS]
            curve = [
                {"tau": t, "alpha": 0.5, "forget": v, "low": v - 0.1, "high": v + 0.1}
                for t, v in zip(TAUS, left, strict=True)
            ]
            path = [{"alpha": a, "retain": 1 - a / 2, "forget": 1 - a} for a in (0.0, 0.5, 1.0)]
            record = {"curve": curve, "path": path, "area": sum(left) / len(left)}
            method["frontier"] = {"forget": record}
    return results


def test_the_winners_are_named_with_their_ranges() -> None:
    assert winners(with_curves()) == "Least is left by gd for tau from 0.4 to 0.6, npo for tau from 0.8 to 1."


def test_the_table_shows_score_and_interval_at_each_tau() -> None:
    table = tau_table(with_curves())
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(rows) == {"gd", "npo"}
    assert rows["gd"]["at tau 0.8"] == "0.400 [0.300, 0.500]"
    assert rows["npo"]["area"] == "0.350"
    assert rows["npo"]["area, paraphrased"] == "—"


def test_the_figure_has_a_line_for_each_method() -> None:
    figure = tau_figure(with_curves())
    assert {trace.name for trace in figure.data} == {"gd", "npo"}
    assert list(figure.data[0].x) == list(TAUS)


def test_the_summary_tells_what_cannot_be_told_apart_from_paired_draws() -> None:
    results = with_curves()
    best, others = results["ranking"][0], results["ranking"][1:]
    results["pairs"] = {best: dict.fromkeys(others, 1.0)}
    assert "leaves less than every other method" in " ".join(summary(results))
    results["pairs"][best][others[0]] = 0.7
    assert f"It cannot be told apart from {others[0]} (in 70% of paired draws it leaves less)." in summary(results)


def test_the_frontier_runs_from_the_original_to_the_unlearned_model() -> None:
    figure = frontier_figure(with_curves())
    assert {trace.name for trace in figure.data} == {"gd", "npo"}
    assert list(figure.data[0].x) == [1.0, 0.75, 0.5] and list(figure.data[0].y) == [1.0, 0.5, 0.0]
    assert list(figure.data[0].customdata) == [0.0, 0.5, 1.0]


def test_the_curve_in_words_for_each_set_that_was_probed() -> None:
    """Areas: gd (0.4 + 0.6 + 0.8 + 0.9 + 0.95 + 1) / 2 / 6 = 0.3875, npo 0.35."""
    results = with_curves()
    assert tau_words(results) == [
        "Forget: least is left by gd for tau from 0.4 to 0.6, npo for tau from 0.8 to 1.",
        "Area under the curve of forget, over all tau from 0 to 1: npo 0.350, gd 0.388.",
    ]
    for method in results["unlearned"]:
        if "frontier" in method:
            method["frontier"]["forget_paraphrased"] = method["frontier"]["forget"]
    assert tau_words(results)[2].startswith("Forget, paraphrased: least is left by gd")
