"""Tables of results, with the numbers of a made-up study."""

from tests.helpers.results_factory import (
    ES,
    METRICS,
    NAN,
    PPL,
    changed,
    changed_at_tau,
    changed_run,
    columns_of,
    pairs,
    run_record,
    score,
    study_results,
    uncalibrated,
    unlearned,
)

from uwc.reports.format import (
    MISSING,
)
from uwc.reports.tables import metrics_table, result_table, settings_table, split_sizes, steps_table, summary
from uwc.results import Estimate


def test_result_table_is_sorted_by_rank_with_references_first_and_diverged_last() -> None:
    """gd keeps 0.81 of the original's retain ES 0.98 as delivered, and is at 0.131 at equal retention."""
    table = result_table(study_results())
    rows = table.rows
    names = ["npo", "gd\n(collapsed)", "kl\n(collapsed)", "po", "ga", "rmu\n(diverged)"]
    assert [row[0] for row in rows] == ["original", "retrained", *names]
    assert table.columns == ("model", "forget ES", "retention", "residual forget ES", "alpha", "differs from the best?")
    assert table.groups == (("", 1), ("as delivered", 2), ("at equal retention", 3))
    assert rows[0] == ("original", "0.970\n[0.920, 1.020]", "1.000", MISSING, MISSING, MISSING)
    assert rows[1] == ("retrained", "0.110\n[0.060, 0.160]", *[MISSING] * 4)
    delivered = ("0.000\n[0.000, 0.050]", "0.827\n[0.777, 0.877]")
    assert rows[3][1:] == (*delivered, "0.131\n[0.081, 0.181]", "0.762\n[0.762, 0.762]", "yes\n(100.0%)")
    assert rows[2][-1] == MISSING, "the best itself"
    assert rows[7] == ("rmu\n(diverged)", *[MISSING] * 5)
    assert "the gradient was not finite at step 7" in table.caption


def test_nothing_is_said_of_a_retrained_model_that_is_not_there() -> None:
    results = study_results()
    results = changed(results, references=results.references[:1])
    table = result_table(results)
    assert [row[0] for row in table.rows][:2] == ["original", "npo"]
    assert "retrained" not in table.caption + " ".join(summary(results))


def test_a_score_without_an_interval_is_shown_alone() -> None:
    results = changed_at_tau(study_results(), "npo", forget=Estimate(value=0.04, low=NAN, high=NAN))
    assert columns_of(result_table(results))["npo"]["residual forget ES"] == "0.040"
    assert "interval" in summary(results)[2]


def test_summary_names_the_best_with_its_score_and_the_references() -> None:
    text = summary(study_results())
    assert text[0].startswith("npo ") and "0.040 [0.000, 0.090], n = 100" in text[0] and "0.95" in text[0]
    assert "gd and kl" in text[1] and "npo" not in text[1], "they collapsed"
    assert "0.970 [0.920, 1.020]" in text[3] and "0.110 [0.060, 0.160]" in text[3]
    assert "rmu" in text[4]


def test_summary_of_a_near_winner_and_of_nothing_to_rank() -> None:
    results = study_results(pairs=pairs(npo=0.96))
    assert "gd (confidence 96%)" in summary(results)[2] and "kl" not in summary(results)[2]
    assert "npo" not in summary(changed(results, ranking=()))[0]


def test_metrics_table_has_every_model_as_delivered_and_calibrated() -> None:
    table = metrics_table(study_results(), ES)
    assert table.columns[:3] == ("model", "forget\nn = 100", "forget, paraphrased\nn = 100")
    assert [row[0] for row in table.rows][:4] == ["original", "retrained", "npo, as delivered", "npo, calibrated"]
    assert len(table.rows) == 2 + 2 * 5
    assert table.rows[1][1] == "0.110 ± 0.025\n[0.060, 0.160]"


def test_metrics_table_counts_examples_in_the_cell_where_they_differ() -> None:
    results = study_results()
    other = (
        score("forget", PPL, NAN, n=0, not_scored=100, se=NAN, low=NAN, high=NAN),
        score("forget", PPL, 1234.5, n=97, half=20.0, not_scored=3),
    )
    references = [
        changed(model, scores=[new, *(s for s in model.scores if (s.set, s.metric) != ("forget", PPL))])
        for model, new in zip(results.references, other, strict=True)
    ]
    table = metrics_table(changed(results, references=references), PPL)
    assert table.columns[1:3] == ("forget", "forget, paraphrased\nn = 100")
    assert table.rows[0][1] == "— (100 not scored)\nn = 0"
    assert table.rows[1][1] == "1,230 ± 10.0 (3 not scored)\n[1,210, 1,250]\nn = 97"


def test_settings_table_keeps_the_differences_and_names_the_rest() -> None:
    rule = {"name": "l1", "strength": 1.5}
    table = settings_table(changed_run(study_results(), "gd", rule=rule, tricks={"temperature": 0.5}))
    assert table.columns == ("method", "lr", "rule: name", "rule: strength", "trick: temperature")
    assert table.rows[4] == ("ga", "0.0001", MISSING, MISSING, MISSING)
    assert table.rows[1] == ("gd", "0.0005", "l1", "1.5", "0.5")
    assert "epochs = 5, batch_size = 16" in table.caption


def test_splits_and_steps() -> None:
    assert split_sizes(study_results())[1] == "retain: 300 examples of 30 subjects"
    table = steps_table(run_record())
    assert table.rows[0] == ("fine-tune original", "31.2 s", "4.6 GB", "computed", "abc123")
    assert table.rows[2] == ("score original", "4.0 s", MISSING, "reused", "789abc")
    assert "2 min 36 s" in table.caption


def test_an_uncalibrated_study_without_extraction_strength_shows_its_first_metric() -> None:
    results = uncalibrated(study_results())
    results = changed(results, metrics={PPL: METRICS[PPL]})
    assert result_table(results).columns[2] == "retain PPL"
    assert columns_of(result_table(results))["retrained"]["retain PPL"].startswith("1.02"), "1 + 2000 * 0.021 ** 3"


def test_a_name_that_ends_like_a_label_is_another_model() -> None:
    """A model of that name beside one whose calibrated mixture, or whose divergence, is shown by the same words."""
    names = ("npo", "npo, calibrated", "rmu", "rmu (diverged)")
    models = tuple(changed(unlearned(name.partition(",")[0].partition(" ")[0]), name=name) for name in names)
    results = study_results(unlearned=models, ranking=names[:2], pairs={})
    table = metrics_table(results, ES)
    assert table.models == ("", "", "npo", "npo", "npo, calibrated", "npo, calibrated")
    table = result_table(results)
    assert dict(zip(table.models, [row[0] for row in table.rows], strict=True)) == {
        "": "retrained",
        "npo": "npo",
        "npo, calibrated": "npo, calibrated",
        "rmu": "rmu\n(diverged)",
        "rmu (diverged)": "rmu (diverged)\n(diverged)",
    }


def test_metrics_that_were_left_out_are_named() -> None:
    assert "kl_to_original" in result_table(study_results(left_out={"kl_to_original": "the original"})).caption
