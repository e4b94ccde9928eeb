"""The ranking: how sure it is, which neighbours cannot be told apart, and methods with several seeds."""

from typing import Any

import pytest
from tests.unit.example_results import example_results, pairs

from uwc.reports.conclusion import summary
from uwc.reports.markdown import results_markdown
from uwc.reports.plots import tradeoff_figure
from uwc.reports.ranking import groups_table, indistinct, pairs_table, ranked, ranking_table
from uwc.reports.rows import attack_rows, score_rows
from uwc.reports.tables import result_table


def with_pairs(**less: float) -> dict[str, Any]:
    """npo, gd, kl, po, ga; `less` has the share of draws in which a method leaves less than its next."""
    results = example_results() | {"pairs": pairs(**less)}
    for method in results["unlearned"]:
        if method["status"] == "ok":
            mean = method["after"]["forget"]["extraction_strength"]["mean"]
            method["intervals"] |= {"forget": [mean - 0.02, mean + 0.03], "alpha": [0.3, 0.9]}
    return results


def test_each_model_is_held_against_the_next() -> None:
    rows = ranked(with_pairs(npo=0.99, gd=0.9))
    assert [r["rank"] for r in rows] == [1, 2, 3, 4, 5]
    assert [r["name"] for r in rows] == ["npo", "gd", "kl", "po", "ga"]
    assert [r["told_apart"] for r in rows] == [True, False, True, True, None]
    assert (rows[1]["low"], rows[1]["high"]) == pytest.approx((0.111, 0.161))
    assert (rows[1]["alpha"], rows[1]["alpha_low"], rows[1]["alpha_high"]) == (0.762, 0.3, 0.9)


def test_neighbours_that_cannot_be_told_apart_are_joined() -> None:
    assert indistinct(with_pairs(npo=0.6, gd=0.7, po=0.9)) == (
        "Neighbours that cannot be told apart: npo, gd and kl; po and ga."
    )
    assert indistinct(with_pairs()) == "Every model can be told apart from the next one in the ranking."
    assert indistinct(example_results() | {"ranking": ["npo"]}) == ""


def test_the_table_says_yes_or_not() -> None:
    table = ranking_table(with_pairs(gd=0.9))
    assert [row[-1] for row in table.rows] == [
        "yes (100.0%)",
        "not told apart (90.0%)",
        "yes (100.0%)",
        "yes (100.0%)",
        "—",
    ]
    assert table.rows[1][2:5] == ("0.131 [0.111, 0.161]", "0.762 [0.300, 0.900]", "0.762, 0.131, 0.934")
    assert "0.95 of the original's retain ES" in table.title


def test_the_interval_through_alpha_is_shown_wherever_the_calibrated_score_is() -> None:
    results = with_pairs()
    assert result_table(results).rows[3][4] == "0.131 [0.111, 0.161]"
    assert "0.040 [0.020, 0.070], n = 100" in summary(results)[0]


def at_tau(results: dict[str, Any], **left: float) -> dict[str, Any]:
    """The results with what is left at exactly tau, at an alpha just above the mixture's; elsewhere as measured."""
    for method in results["unlearned"]:
        if method["status"] == "ok":
            es = method["after"]["forget"]["extraction_strength"]["mean"]
            found = {"alpha": method["calibration"]["alpha"] + 0.004, "retain": 0.931}
            method["at_tau"] |= {**found, "forget": left.get(method["name"], es), "forget_paraphrased": 0.111}
    return results


def test_ranking_and_tables_show_the_score_at_tau_and_the_mixture_beside_it() -> None:
    """kl leaves 0.187 as measured, 0.125 at tau, where gd leaves 0.120 (measured 0.131)."""
    results = at_tau(with_pairs(), gd=0.12, kl=0.125)
    rows = {row[1]: row for row in ranking_table(results).rows}
    assert rows["gd"][2:5] == ("0.120 [0.111, 0.161]", "0.766 [0.300, 0.900]", "0.762, 0.131, 0.934")
    table = {row[0]: row for row in result_table(results).rows}
    assert table["gd"][3:] == ("0.766", "0.120 [0.111, 0.161]", "0.111", "0.931")
    filled = next(t for t in tradeoff_figure(results).data if t.name == "gd" and "calibrated" in (t.text or [""])[0])
    assert (filled.x[0], filled.y[0]) == (0.931, 0.12)
    assert "the order would be" not in ranking_table(results).caption


def test_it_is_said_where_the_mixtures_alone_would_be_ranked_otherwise() -> None:
    """At tau gd leaves 0.19 and comes after kl with 0.125; measured 0.131 and 0.187."""
    results = at_tau(with_pairs(), gd=0.19, kl=0.125)
    results["ranking"] = ["npo", "kl", "gd", "po", "ga"]
    assert "By these scores alone the order would be gd (0.131) before kl (0.187)." in ranking_table(results).caption


def test_every_pair_is_listed_and_the_diverged_is_not() -> None:
    table = pairs_table(with_pairs(npo=0.6))
    assert table.columns == ("model", "npo", "gd", "kl", "po", "ga")
    assert table.rows[0] == ("npo", "—", "60.0%", "100.0%", "100.0%", "100.0%")
    assert table.rows[1][1] == "40.0%"


def test_groups_show_both_sources_and_what_is_told_apart() -> None:
    results = with_pairs()
    spread = {"sd_seeds": 0.1, "se_examples": 0.02, "se": 0.06, "low": 0.1, "high": 0.3, "frontier": {}}
    results["groups"] = [
        {"name": "npo", "runs": ["npo@0", "npo@1"], "mean": 0.2, **spread,
         "next": {"difference": -0.3, "low": -0.5, "high": -0.1}},
        {"name": "gd", "runs": ["gd"], "mean": 0.5, **spread, "sd_seeds": None,
         "next": {"difference": -0.1, "low": -0.5, "high": 0.3}},
        {"name": "kl", "runs": ["kl@0", "kl@1"], "mean": 0.6, **spread, "next": None},
    ]  # fmt: skip
    rows = groups_table(results).rows
    assert rows[0] == ("npo", "2", "0.200 [0.100, 0.300]", "0.100", "0.020", "0.060", "-0.300 [-0.500, -0.100]")
    assert rows[1][3] == "—" and rows[1][-1] == "-0.100 [-0.500, 0.300], not told apart"
    assert rows[2][-1] == "—"
    assert "Methods with several seeds" in results_markdown(results)


def test_markdown_has_conclusion_ranking_and_notes() -> None:
    text = results_markdown(with_pairs(gd=0.9))
    for part in (
        "## Six methods on fictional authors",
        "npo has the lowest forget ES",
        "| rank | model |",
        "Neighbours that cannot be told apart: gd and kl.",
        "| original |",
        "- the holdout set is small",
    ):
        assert part in text


def test_long_tables_for_data_frames() -> None:
    rows = score_rows(example_results())
    assert len(rows) == (2 + 2 * 5) * 5 * 3, "models, sets, metrics"
    found = next(
        r
        for r in rows
        if (r["model"], r["calibration"], r["set"]) == ("gd", "after", "retain")
        and r["metric"] == "extraction_strength"
    )
    assert found["mean"] == 0.934 and found["n"] == 100
    assert attack_rows(example_results()) == []
