"""The report's tables, words and figures about attacks and the robustness of metrics."""

import pytest
from tests.helpers.results_factory import (
    ES,
    METRICS,
    PPL,
    aggregate,
    attacked_results,
    changed,
    difference,
    outcome,
    study_results,
    unlearned,
)

from uwc.reports.format import MISSING
from uwc.reports.markdown import results_markdown
from uwc.reports.tables_attacks import (
    agreement_table,
    budget_table,
    faithfulness_table,
    method_of_runs,
    pcc_table,
    precision_table,
    ranking_tables,
    recovery_tables,
    recovery_words,
    robustness_words,
    runs_table,
)
from uwc.results import AttackedModel, ModelKey, StudyResults, attack_rows


def with_models(results: StudyResults, *models: AttackedModel) -> StudyResults:
    """The results with other attacked models."""
    assert results.attacks is not None
    return changed(results, attacks=changed(results.attacks, models=models))


def test_runs_of_one_method_are_averaged_and_retrained_has_no_difference() -> None:
    table = recovery_tables(attacked_results())[0]
    assert table.columns == ("model", "before", "jailbreak, mean", "jailbreak, worst case", "relearn")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["ga (2 runs)"] == ("0.300", "0.200\n(+0.150)", "0.400\n(+0.300)", "0.800\n(+0.700)")
    assert rows["npo"] == ("0.200", "0.350\n(+0.300)", "0.550\n(+0.450)", "0.600\n(+0.500)")
    assert rows["retrained"] == ("0.000", "0.050", "0.250", "0.100")


def test_runs_of_composed_methods_with_different_losses_are_not_averaged() -> None:
    runs = [
        unlearned("a@0", method="composed", group="a", formula="x"),
        unlearned("a@1", method="composed", group="a", formula="x"),
        unlearned("b", method="composed", formula="y"),
        unlearned("npo"),
    ]
    results = study_results(unlearned=runs, ranking=(), pairs={})
    assert method_of_runs(results) == {"a@0": "a", "a@1": "a", "b": "b", "npo": "npo"}


def test_only_attacked_runs_are_counted_and_calibrated_ones_are_a_row_of_their_own() -> None:
    """Of ga's two runs one was attacked, as delivered and calibrated."""
    results = attacked_results()
    assert results.attacks is not None
    first = results.attacks.models[0]
    calibrated = changed(first, model=ModelKey(role="calibrated", run="ga weak"))
    table = recovery_tables(with_models(results, first, calibrated))[0]
    assert [row[0] for row in table.rows] == ["ga weak", "ga weak, calibrated"]


def test_an_attack_that_the_first_metric_cannot_see_has_a_table_by_another() -> None:
    """Sampling is seen by PPL alone; its retrained model is the control of the ratio 0.5."""
    results = attacked_results()
    assert results.attacks is not None
    sampling = changed(results.attacks.attacks[0], name="sampling", metrics=(PPL,))
    ratio = difference(0.5, kind="ratio", low=0.25, high=1.0)
    values = {"metric": PPL, "before": aggregate(8.0), "after": aggregate(4.0), "over_control": ratio}
    first, *others = results.attacks.models
    first = changed(first, outcomes=[*first.outcomes, changed(outcome("sampling", 0.0, 0.0, 0.0), **values)])
    attacks = changed(results.attacks, attacks=[*results.attacks.attacks, sampling], models=[first, *others])
    results = changed(results, attacks=attacks)
    by_es, by_ppl = recovery_tables(results)
    assert by_es == recovery_tables(attacked_results())[0]
    assert by_ppl.columns == ("model", "before", "sampling")
    assert {row[0]: row for row in by_ppl.rows}["ga (2 runs)"] == ("ga (2 runs)", "8.00", "4.00\n(x 0.500)")
    (row,) = (row for row in runs_table(results).rows if row[:2] == ("ga weak", "sampling"))
    assert row[2] == "PPL" and row[4].startswith("4.00") and row[6] == "x 0.500 [0.250, 1.00]"


def test_each_precision_is_a_row_of_every_model() -> None:
    """ga weak has 0.5 as it is and 0.25 in the precision; an attack that is none has no row."""
    results = attacked_results()
    assert results.attacks is not None and precision_table(results) is None
    first, second = results.attacks.attacks
    deployed = changed(results, attacks=changed(results.attacks, attacks=[changed(first, precision="nf4"), second]))
    table = precision_table(deployed)
    assert table is not None and [row[1] for row in table.rows] == ["full", "nf4"] * 4
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    full, rounded = rows["ga weak", "full"], rows["ga weak", "nf4"]
    assert full["ES"].startswith("0.500 [") and rounded["ES"].startswith("0.250 [")
    assert rounded["difference"].startswith("-0.250 [") and rounded["over retrained"].startswith("+0.200 [")
    assert "as deployed" in results_markdown(deployed) and "as deployed" not in results_markdown(results)


def test_the_largest_recovery_beyond_retrained_is_named() -> None:
    """ga weak under relearning: 0.9 against 0.1."""
    (sentence,) = recovery_words(attacked_results())
    assert "ga weak" in sentence and "relearn" in sentence and "+0.800 [+0.700, +0.900]" in sentence


def perplexities() -> StudyResults:
    """Two runs of ga by perplexity, whose differences are ratios; the second falls to a tenth of retrained's."""
    results = attacked_results()
    assert results.attacks is not None
    attacks = [changed(attack, metrics=(PPL,)) for attack in results.attacks.attacks[1:]]

    def model(run: str, before: float, after: float, ratio: float) -> AttackedModel:
        over = difference(ratio, kind="ratio", low=ratio / 2, high=ratio * 2)
        found = outcome("relearn", 0.0, 0.0, 0.0)
        values = {"metric": PPL, "before": aggregate(before), "after": aggregate(after), "over_control": over}
        return AttackedModel(model=ModelKey(role="unlearned", run=run), outcomes=(changed(found, **values),))

    models = [model("ga weak", 100.0, 4.0, 0.4), model("ga strong", 400.0, 1.0, 0.1)]
    return changed(results, attacks=changed(results.attacks, attacks=attacks, models=models))


def test_ratios_are_printed_as_ratios_and_averaged_geometrically() -> None:
    """sqrt(100 * 400) = 200, sqrt(4 * 1) = 2, sqrt(0.4 * 0.1) = 0.2; low perplexity is remembered."""
    results = perplexities()
    assert recovery_tables(results)[0].rows == (("ga (2 runs)", "200", "2.00\n(x 0.200)"),)
    (sentence,) = recovery_words(results)
    assert "ga strong" in sentence and "x 0.100 [0.0500, 0.200]" in sentence


def test_every_run_and_every_budget_has_its_row() -> None:
    table = runs_table(attacked_results())
    assert len(table.rows) == 4 * 3
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["npo", "relearn"]["recovery"] == "+0.400 [+0.300, +0.500]", "0.6 - 0.2"
    assert rows["npo", "relearn"]["over retrained"] == "+0.500 [+0.400, +0.600]"
    assert rows["npo", "jailbreak, worst case"]["after"] == "0.550 [0.500, 0.600]"
    budgets = budget_table(attacked_results())
    assert budgets is not None and budgets.columns == ("model", "attack", "0", "4", "8")
    assert budgets.rows[0] == ("ga weak", "relearn", "0.500", "0.450", "0.900")


def test_an_attack_that_failed_says_why() -> None:
    results = attacked_results()
    assert results.attacks is not None
    failing = results.attacks.models[2]
    failing = changed(failing, outcomes=failing.outcomes[:1], failed={"relearn": "the loss became NaN"})
    results = with_models(results, failing)
    assert any("the loss became NaN" in row for row in runs_table(results).rows)
    assert {row[0]: row for row in recovery_tables(results)[0].rows}["npo"][-1] == MISSING


def test_without_an_attacked_retrained_model_this_is_said() -> None:
    results = attacked_results()
    assert results.attacks is not None
    assert "No retrained model" in recovery_tables(with_models(results, results.attacks.models[0]))[0].caption
    assert "No retrained model" not in recovery_tables(results)[0].caption


def test_rows_for_data_frames() -> None:
    results = attacked_results()
    assert results.attacks is not None
    rows = list(attack_rows(results.attacks))
    assert len(rows) == 4 * 2
    found = next(row for row in rows if (row["model"], row["attack"]) == ("npo", "relearn"))
    assert (found["before"], found["after"], found["over_control"]) == (0.2, 0.6, 0.5)
    assert found["recovery"] == pytest.approx(0.4) and found["kind"] == "difference"


def test_published_correlations_stand_below_ours() -> None:
    results = attacked_results()
    assert pcc_table(results).rows == (("ES", "0.90", MISSING), ("PPL", "1.00\n(0.97)", MISSING))
    alone, touched = ranking_tables(results)
    assert [row[1] for row in alone.rows] == ["PPL", "ES"] and [row[1] for row in touched.rows] == ["ES", "PPL"]
    assert alone.rows[0][5] == "0.500" and alone.rows[1][5] == MISSING
    assert agreement_table(results).rows[0][4] == "0.900 [0.800, 1.000]"


def test_words_compare_with_the_paper() -> None:
    results = attacked_results()
    words = robustness_words(results)
    assert "number 2 of 2" in words[0] and "0.900" in words[0] and "differs" in words[0]
    assert "0.800" in words[1] and "agrees" in words[1]
    assert "Of 2 pairs" in words[2] and "1 have" in words[2]


def test_faithfulness_and_markdown() -> None:
    results = attacked_results()
    faithful = faithfulness_table(results)
    assert faithful is not None and faithful.rows == (("ES", "0.750"),)
    assert "| npo | 0.200 | 0.350<br>(+0.300) |" in results_markdown(results)
    alone = changed(results, robustness=None)
    assert "PCC" not in results_markdown(alone) and "(+0.300)" in results_markdown(alone)


def test_a_metric_that_the_study_does_not_describe_is_shown_by_its_name() -> None:
    results = attacked_results(metrics={PPL: METRICS[PPL]})
    assert recovery_tables(results)[0].title.startswith(ES)
