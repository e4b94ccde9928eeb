"""The tau curve in the report."""

from typing import Any

from tests.unit.example_results import example_results

from uwc.reports.conclusion import summary
from uwc.reports.rows import method_curve_rows
from uwc.reports.tau_curve import frontier_figure, runs_tau_table, tau_figure, tau_table, tau_words, winners

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


def test_a_sentence_names_no_more_than_a_few_methods() -> None:
    results = with_curves()
    best = results["ranking"][0]
    names = [f"m{i}" for i in range(9)]
    results["ranking"] = [best, *names]
    results["unlearned"] += [{**results["unlearned"][0], "name": name} for name in names]
    results["pairs"] = {best: dict.fromkeys(names, 0.5)}
    told = " ".join(summary(results))
    assert "m4 (50% sure that it leaves less) and 4 more." in told and "m5" not in told


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


def with_seeds() -> dict[str, Any]:
    """gd and npo as two seeds of one method, `both`: mean and deviation of tau / 2 and 0.35."""
    results = with_curves()
    runs = [m for m in results["unlearned"] if m["name"] in ("gd", "npo")]
    curve = []
    for first, second in zip(*(m["frontier"]["forget"]["curve"] for m in runs), strict=True):
        mean, sd = (first["forget"] + second["forget"]) / 2, abs(first["forget"] - second["forget"]) / 2**0.5
        curve.append({"tau": first["tau"], "mean": mean, "sd_seeds": sd, "low": mean - 0.2, "high": mean + 0.2})
    frontier = {"forget": {"curve": curve, "area": 0.36875, "area_sd": 0.0265}}
    for method in runs:
        method["group"] = "both"
    results["groups"] = [{"name": "both", "runs": [m["name"] for m in runs], "frontier": frontier}]
    return results


def test_a_method_with_several_seeds_has_its_mean_and_every_run() -> None:
    """At tau 0.8: (0.4 + 0.35) / 2 = 0.375, sd 0.05 / sqrt 2 = 0.035."""
    results = with_seeds()
    (row,) = tau_table(results).rows
    cells = dict(zip(tau_table(results).columns, row, strict=True))
    assert cells["at tau 0.8"] == "0.375 [0.175, 0.575]\nsd 0.035" and cells["area"] == "0.369\nsd 0.026"
    every = runs_tau_table(results)
    assert every is not None and {r[0] for r in every.rows} == {"gd", "npo"}
    assert runs_tau_table(with_curves()) is None
    mean = next(t for t in tau_figure(results).data if t.mode == "lines+markers")
    assert mean.name == "both, mean over 2 seeds" and mean.y[TAUS.index(0.8)] == 0.375
    band = next(t for t in tau_figure(results).data if t.fill == "toself")
    assert min(band.y) == min(p["mean"] - p["sd_seeds"] for p in results["groups"][0]["frontier"]["forget"]["curve"])
    assert len({t.line.color for t in tau_figure(results).data if t.mode != "lines" or not t.fill}) == 1
    rows = method_curve_rows(results)
    assert len(rows) == len(TAUS) and rows[0]["seeds"] == 2 and rows[2]["mean"] == 0.375
    assert tau_words(results) == ["Area under the curve of forget, over all tau from 0 to 1: both 0.369, sd 0.026."]


def test_a_tie_has_two_winners() -> None:
    """npo's constant 0.35 is gd's score at tau 0.7: made equal there but for rounding, both are named."""
    results = with_curves()
    for method in results["unlearned"]:
        if method["name"] == "npo":
            for point in method["frontier"]["forget"]["curve"]:
                point["forget"] = min(point["forget"], point["tau"] / 2 + 1e-15)
    named = winners(results)
    assert named.startswith("Least is left by ") and named.endswith(
        "for tau from 0.4 to 0.6, npo for tau from 0.8 to 1."
    )
    assert " and " in named.split(" for tau")[0] and {"gd", "npo"} <= set(named.split(" for tau")[0].split())
