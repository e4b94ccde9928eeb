"""The report's tables and words about attacks, from made-up results."""

from typing import Any

import pytest

from uwc.reports.recovery_tables import budget_table, recovery_table, recovery_words, runs_table
from uwc.reports.robustness_plots import panels_figure
from uwc.reports.robustness_section import attacked_section
from uwc.reports.robustness_tables import faithfulness_table, pcc_table, ranking_tables, robustness_words

ES, PPL = "extraction_strength", "perplexity"
RUNS = {"ga weak": "ga", "ga strong": "ga", "npo": "npo"}


def mean(value: float) -> dict[str, Any]:
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "n": 12, "not_scored": 0}


def outcome(after: float, retrained: float, **more: Any) -> dict[str, Any]:
    return {
        "after": mean(after),
        "difference": mean(0.0),
        "over_control": mean(after - retrained),
        "variants": [],
        **more,
    }


def model(name: str, before: float, jailbreak: float, relearn: float) -> dict[str, Any]:
    strongest = {"strongest": mean(jailbreak + 0.2), "strongest_over_control": mean(jailbreak + 0.1)}
    budgets = [{"label": f"{n} steps", "effort": float(n), "mean": relearn * n / 8, "note": ""} for n in (4, 8)]
    return {
        "name": name, "kind": name if name == "retrained" else "unlearned", "run": name, "failed": {},
        "before": {"forget": {ES: mean(before)}},
        "outcomes": {
            "jailbreak": {"forget": {ES: outcome(jailbreak, 0.05, **strongest)}},
            "relearn": {"forget": {ES: outcome(relearn, 0.1) | {"variants": budgets}}},
        },
    }  # fmt: skip


def cell(metric: str, attack: str, pcc: float, published: float | None) -> dict[str, Any]:
    estimate = {"value": pcc, "low": pcc - 0.1, "high": 1.0}
    names = ("pcc", "spearman", "slope", "intercept", "distance")
    return {
        "metric": metric, "attack": attack, "split": "forget", "touches_weights": attack == "relearn",
        "on_logarithms": metric == PPL, "published": published,
        "agreement": {"n": 12, "warnings": [], **dict.fromkeys(names, estimate)},
    }  # fmt: skip


def rank(place: int, metric: str, touches: bool, pcc: float) -> dict[str, Any]:
    return {
        "place": place, "metric": metric, "touches_weights": touches, "pcc": pcc, "worst": pcc, "cells": 2,
        "distance_from_one": 0.25, "missing": 0,
    }  # fmt: skip


@pytest.fixture
def results() -> dict[str, Any]:
    point = {"split": "forget", "attack": "jailbreak", "touches_weights": False}
    points = [
        {**point, "checkpoint": run, "metric": metric, "before": x, "after": x / 2}
        for metric in (ES, PPL)
        for run, x in zip(RUNS, (0.2, 0.4, 0.8), strict=True)
    ]
    return {
        "metrics": {ES: {"label": "ES"}, PPL: {"label": "PPL"}},
        "sets": {"forget": {"label": "forget", "examples": 60}},
        "unlearned": [{"name": run, "method": method} for run, method in RUNS.items()],
        "attacks": {
            "chains": [
                {"name": "jailbreak", "settings": {}, "trains_on_scored": False, "metrics": [ES]},
                {"name": "relearn", "settings": {"relearn": {"budgets": [4, 8]}}, "trains_on_scored": False,
                 "metrics": [ES]},
            ],
            "sets": {"forget": 12}, "attacker": {"train": 6, "retain": 9, "unrelated": 0},
            "models": [
                model("ga weak", 0.5, 0.25, 0.9), model("ga strong", 0.1, 0.15, 0.7), model("npo", 0.2, 0.35, 0.6),
                model("retrained", 0.0, 0.05, 0.1),
            ],
        },
        "robustness": {
            "checkpoints": 12, "points": points, "log_metrics": [PPL],
            "cells": [cell(ES, "jailbreak", 0.9, None), cell(PPL, "jailbreak", 1.0, 0.97)],
            "ranking": [rank(1, PPL, False, 1.0), rank(2, ES, False, 0.9), rank(1, ES, True, 0.8),
                        rank(2, PPL, True, 0.2)],
            "without_logarithms": [rank(1, PPL, False, 0.5)],
            "orders": [{"same": True}, {"same": False}],
            "faithfulness": [{"metric": ES, "set": "forget", "subjects": 10, "auc": 0.75}],
        },
    }  # fmt: skip


def test_runs_of_one_method_are_averaged_and_gold_stands_without_a_difference(results: dict[str, Any]) -> None:
    table = recovery_table(results)
    assert table.columns == ("model", "before", "jailbreak, mean", "jailbreak, strongest", "relearn")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["ga (2 runs)"] == ("0.300", "0.200\n(+0.150)", "0.400\n(+0.300)", "0.800\n(+0.700)")
    assert rows["npo"] == ("0.200", "0.350\n(+0.300)", "0.550\n(+0.450)", "0.600\n(+0.500)")
    assert rows["retrained"] == ("0.000", "0.050", "0.250", "0.100")
    assert recovery_words(results) == [
        "Most is left in npo: under relearn it scores 0.500 [0.400, 0.600] above retrained."
    ]


def test_every_run_and_every_budget_has_its_row(results: dict[str, Any]) -> None:
    assert len(runs_table(results).rows) == 4 * 3
    budgets = budget_table(results)
    assert budgets is not None and budgets.columns == ("model", "attack", "0", "4", "8")
    assert budgets.rows[0] == ("ga weak", "relearn", "0.500", "0.450", "0.900")


def test_an_attack_that_failed_says_why(results: dict[str, Any]) -> None:
    failing = results["attacks"]["models"][2]
    failing["outcomes"].pop("relearn")
    failing["failed"] = {"relearn": "the loss became NaN"}
    assert any("the loss became NaN" in row for row in runs_table(results).rows)
    assert {row[0]: row for row in recovery_table(results).rows}["npo"][-1] == "—"


def test_published_correlations_stand_below_ours(results: dict[str, Any]) -> None:
    assert pcc_table(results).rows == (("ES", "0.90", "—"), ("PPL", "1.00\n(0.97)", "—"))
    alone, changed = ranking_tables(results)
    assert [row[1] for row in alone.rows] == ["PPL", "ES"] and [row[1] for row in changed.rows] == ["ES", "PPL"]
    assert alone.rows[0][5] == "0.500" and alone.rows[1][5] == "—"


def test_words_say_where_we_agree_with_the_paper_and_where_not(results: dict[str, Any]) -> None:
    words = robustness_words(results)
    assert "ES is number 2 of 2 metrics" in words[0] and "differs from the paper" in words[0]
    assert "ES is the most robust metric" in words[1] and "agrees with the paper" in words[1]
    assert "Of 2 pairs" in words[2] and "1 have the published order" in words[2]
    results["robustness"]["checkpoints"] = 6
    (few,) = robustness_words(results)
    assert few.startswith("6 models are too few")


def test_the_figure_has_a_panel_for_each_metric_and_attack_with_both_lines(results: dict[str, Any]) -> None:
    figure = panels_figure(results, "forget")
    assert figure is not None
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    assert len(lines) == 2 * 2
    identity = lines[0]
    assert list(identity.x) == list(identity.y)
    points = [trace for trace in figure.data if trace.mode == "markers" and trace.x[0] is not None]
    assert [len(trace.x) for trace in points] == [3, 3]
    assert panels_figure(results, "retain") is None


def test_a_study_without_attacks_has_no_such_section(results: dict[str, Any]) -> None:
    faithful = faithfulness_table(results)
    assert faithful is not None and faithful.rows == (("ES", "0.750"),)
    assert attacked_section({"metrics": {}}, lambda _figure, name: name) is None
    section = attacked_section(results, lambda _figure, name: name)
    assert section is not None and section["panels"][0]["figure"] == "panels-forget"
