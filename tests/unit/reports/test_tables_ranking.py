"""The ranking: which differences are significant, methods with several seeds, and rows for data frames."""

import numpy as np
import pytest
from tests.helpers.results_factory import (
    ES,
    NAN,
    changed,
    changed_at_tau,
    changed_calibration,
    pairs,
    scores,
    study_results,
)

from uwc.reports.figures import tradeoff_figure
from uwc.reports.format import MISSING
from uwc.reports.markdown import results_markdown
from uwc.reports.tables import groups_table, indistinct, pairs_table, ranking_table, result_table, summary
from uwc.results import Estimate, Group, Kept, Retention, StudyResults


def with_pairs(**confidence: float) -> StudyResults:
    """npo, gd, kl, po, ga; `confidence` that a method leaves less than its next. gd has wide intervals."""
    results = study_results(pairs=pairs(**confidence))
    return changed_at_tau(
        results,
        "gd",
        forget=Estimate(value=0.131, low=0.111, high=0.161),
        alpha=Estimate(value=0.762, low=0.3, high=0.9),
    )


def test_each_model_is_compared_with_the_next() -> None:
    models = with_pairs(npo=0.975, gd=0.97).ranked()
    assert [m.rank for m in models] == [1, 2, 3, 4, 5]
    assert [m.name for m in models] == ["npo", "gd", "kl", "po", "ga"]
    assert [m.confidence for m in models] == [0.975, 0.97, 1.0, 1.0, None]
    assert [m.significant for m in models] == [True, False, True, True, None]
    assert models[1].forget == Estimate(value=0.131, low=0.111, high=0.161)
    assert models[1].alpha == Estimate(value=0.762, low=0.3, high=0.9)
    assert (models[1].retention, models[1].mixture_alpha, models[1].mixture_forget) == (0.95, 0.762, 0.131)
    assert models[1].mixture_retention == pytest.approx(0.934 / 0.98)


def test_the_retention_of_a_mixture_is_the_least_of_all_measures_and_unknown_if_one_is() -> None:
    found = {"original": 0.5, "value": 0.48, "n": 9}
    measures = [Kept(measure="a", ratio=0.97, **found), Kept(measure="b", ratio=0.96, **found)]
    least = changed_calibration(with_pairs(), "gd", kept=measures).ranked()[1]
    assert least.mixture_retention == 0.96
    unknown = changed_calibration(with_pairs(), "gd", kept=[*measures, Kept(measure="c", ratio=NAN, **found)])
    assert "nan" in str(unknown.ranked()[1].mixture_retention)
    assert {row[1]: row for row in ranking_table(unknown).rows}["gd"][5] == "0.762, 0.131, —"


def test_neighbours_without_a_significant_difference_are_joined() -> None:
    assert indistinct(with_pairs(npo=0.6, gd=0.7, po=0.9)).endswith(": npo, gd and kl; po and ga.")
    assert "npo" not in indistinct(with_pairs())
    assert indistinct(study_results(ranking=("npo",))) == ""


def test_without_a_confidence_nothing_is_said_of_significance() -> None:
    """One cluster: no draws, so no confidence."""
    results = study_results(pairs={a: dict.fromkeys(row, NAN) for a, row in pairs().items()})
    assert {model.significant for model in results.ranked()} == {None}
    assert indistinct(results) == ""
    assert {row[-1] for row in ranking_table(results).rows} == {MISSING}
    assert set(pairs_table(results).rows[0][1:]) == {MISSING}


def test_the_table_has_the_confidence_of_each_difference() -> None:
    rows = ranking_table(with_pairs(gd=0.9)).rows
    assert [row[-1] for row in rows] == ["yes (100.0%)", "no (90.0%)", "yes (100.0%)", "yes (100.0%)", MISSING]
    assert rows[1][2:6] == ("0.131 [0.111, 0.161]", "0.762 [0.300, 0.900]", "0.950", "0.762, 0.131, 0.953")


def test_the_retention_constraint_names_its_measures_and_what_has_no_interval() -> None:
    """Two measures, one of which has no values by example."""
    retention = Retention(tau=0.9, measures=("retain ES", "mmlu"), without_interval=("mmlu",), rank_by=ES)
    table = ranking_table(changed(with_pairs(), retention=retention))
    assert "0.9 of the original's retain ES and mmlu" in table.title and "mmlu fixed" in table.caption
    none = changed(retention, without_interval=("retain ES", "mmlu"))
    assert "alpha fixed" in ranking_table(changed(with_pairs(), retention=none)).caption


def test_the_interval_through_alpha_is_shown_wherever_the_residual_score_is() -> None:
    results = with_pairs()
    assert result_table(results).rows[3][4] == "0.131 [0.111, 0.161]"
    best = changed_at_tau(results, "npo", forget=Estimate(value=0.04, low=0.02, high=0.07))
    assert "0.040 [0.020, 0.070], n = 100" in summary(best)[0]


def at_tau(results: StudyResults, name: str, forget: float) -> StudyResults:
    """The results with another residual score of a model, at an alpha just above its mixture's."""
    found = results.run(name).calibration
    assert found is not None
    alpha = Estimate(value=found.alpha + 0.004, low=0.3, high=0.9)
    return changed_at_tau(results, name, forget=Estimate(value=forget, low=0.1, high=0.2), alpha=alpha)


def test_ranking_and_tables_show_the_score_at_tau_and_the_mixture_beside_it() -> None:
    """kl's mixture has 0.187 and is at 0.125 at tau, where gd is at 0.120 (mixture 0.131)."""
    results = at_tau(at_tau(with_pairs(), "gd", 0.12), "kl", 0.125)
    rows = {row[1]: row for row in ranking_table(results).rows}
    assert rows["gd"][2:6] == ("0.120 [0.100, 0.200]", "0.766 [0.300, 0.900]", "0.950", "0.762, 0.131, 0.953")
    table = {row[0]: row for row in result_table(results).rows}
    assert table["gd"][3:] == ("0.766", "0.120 [0.100, 0.200]", "0.105", "0.950", "0.934")
    _, filled = (line for line in tradeoff_figure(results).figure.axes[0].lines if line.get_label() == "gd")
    assert np.asarray(filled.get_xydata()).tolist() == [[0.95, 0.12]]
    assert "gd (0.131)" not in ranking_table(results).caption


def test_another_order_of_the_mixtures_is_mentioned() -> None:
    """At tau gd is at 0.19, after kl with 0.125; their mixtures have 0.131 and 0.187."""
    results = changed(at_tau(at_tau(with_pairs(), "gd", 0.19), "kl", 0.125), ranking=("npo", "kl", "gd", "po", "ga"))
    assert "gd (0.131) before kl (0.187)" in ranking_table(results).caption


def test_every_pair_is_listed_and_the_diverged_is_not() -> None:
    table = pairs_table(with_pairs(npo=0.6))
    assert table.columns == ("model", "npo", "gd", "kl", "po", "ga")
    assert table.rows[0] == ("npo", MISSING, "60.0%", "100.0%", "100.0%", "100.0%")
    assert table.rows[1][1] == "40.0%"


def test_groups_show_both_sources_and_which_differences_are_significant() -> None:
    spread = {"sd_seeds": 0.1, "se_examples": 0.02, "se": 0.06, "low": 0.1, "high": 0.3, "frontier": {}}
    significant, not_significant = Estimate(value=-0.3, low=-0.5, high=-0.1), Estimate(value=-0.1, low=-0.5, high=0.3)
    groups = (
        Group(name="npo", runs=("npo@0", "npo@1"), mean=0.2, next=significant, **spread),
        Group(name="gd", runs=("gd",), mean=0.5, next=not_significant, **{**spread, "sd_seeds": NAN}),
        Group(name="kl", runs=("kl@0", "kl@1"), mean=0.6, next=None, **spread),
    )
    results = changed(with_pairs(), groups=groups)
    rows = groups_table(results).rows
    assert rows[0] == ("npo", "2", "0.200 [0.100, 0.300]", "0.100", "0.020", "0.060", "-0.300 [-0.500, -0.100]")
    assert rows[1][3] == MISSING and rows[1][-1] == "-0.100 [-0.500, 0.300], not significant"
    assert rows[2][-1] == MISSING
    assert "| npo | 2 | 0.200 [0.100, 0.300] |" in results_markdown(results)


def test_markdown_has_conclusion_ranking_and_warnings() -> None:
    results = with_pairs(gd=0.9)
    text = results_markdown(results)
    for part in ("## Six methods on fictional authors", "| rank | model |", "gd and kl", "| original |"):
        assert part in text
    assert "### Warnings\n\n- the holdout set is small\n" in text
    assert "Warnings" not in results_markdown(changed(results, warnings=()))


def test_rows_for_data_frames() -> None:
    results = with_pairs(npo=0.5)
    rows = list(results.rows())
    assert len(rows) == (2 + 2 * 5) * 5 * 3, "models, sets, metrics"
    wanted = {"model": "gd", "role": "calibrated", "set": "retain", "metric": ES}
    (found,) = (row for row in rows if wanted.items() <= row.items())
    assert found["mean"] == 0.934 and found["n"] == 100
    best, second, *_ = results.ranking_rows()
    assert (best["rank"], best["name"], best["confidence"], best["significant"]) == (1, "npo", 0.5, False)
    assert (second["forget"], second["forget_low"], second["forget_high"]) == (0.131, 0.111, 0.161)
    assert (second["alpha"], second["alpha_low"], second["retention"]) == (0.762, 0.3, 0.95)
    assert list(results.curve_rows()) == list(results.mean_curve_rows()) == []


def test_models_are_ranked_by_the_metric_that_the_study_names() -> None:
    """By PPL, of which a lower mean is not text with three decimals."""
    results = study_results(retention=Retention(tau=0.95, measures=("retain ES",), rank_by="perplexity"))
    table = result_table(results)
    assert table.columns[1] == "forget PPL, as delivered"
    row = next(row for row in table.rows if row[0] == "retrained")
    assert row[4] == "1,410 [1,410, 1,410]", "1 + 2000 * 0.89 ** 3, with an interval of 0.3 to each side"
    assert next(s for s in scores(0.11, 0.979) if s.metric == "perplexity").mean == pytest.approx(1410.938)
