"""The models as delivered and at equal retention: collapse, the worst attack, the retrained model, and edge cases."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.helpers.results_factory import (
    NAN,
    attacked,
    attacked_results,
    changed,
    changed_at_tau,
    changed_calibration,
    changed_run,
    columns_of,
    difference,
    estimate,
    outcome,
    run_record,
    score,
    scores,
    study_results,
    unlearned,
)

from uwc.reports.format import MISSING, print_table
from uwc.reports.markdown import results_markdown
from uwc.reports.page import write_page
from uwc.reports.tables import result_table, summary
from uwc.reports.tables_attacks import recovery_tables, recovery_words, runs_table
from uwc.results import (
    AttackedModel,
    Collapse,
    ComparedModel,
    Estimate,
    ModelKey,
    StudyResults,
    TrainingLog,
    TrainingRecord,
    Warning,
)

KNOWS = Warning(code="retrained_knows", text="the retrained model knows")


def compared(results: StudyResults, name: str) -> ComparedModel:
    return next(model for model in results.compared() if model.model.label == name)


def alone(**update: Any) -> StudyResults:
    """A study of npo alone."""
    return study_results(**{"unlearned": [unlearned("npo")], "ranking": ("npo",), "pairs": {"npo": {}}, **update})


def test_each_model_has_its_numbers_as_delivered_and_at_equal_retention() -> None:
    found = study_results().compared()
    assert [m.model.label for m in found] == ["original", "retrained", "npo", "gd", "kl", "po", "ga", "rmu"]
    assert [m.rank for m in found] == [None, None, 1, 2, 3, 4, 5, None]
    assert [m.significant for m in found] == [None, None, None, True, True, True, True, None]
    gd = found[3]
    assert (gd.forget, gd.residual) == (estimate(0.0).model_copy(update={"low": 0.0}), estimate(0.131))
    assert gd.retention == estimate(0.81 / 0.98) and gd.alpha == Estimate(value=0.762, low=0.762, high=0.762)
    assert found[0].retention is not None and found[0].retention.value == 1 and found[1].retention is None
    assert (found[7].status, found[7].forget, found[7].residual) == ("diverged", None, None)


@pytest.mark.parametrize(
    ("perplexity", "retention", "collapsed"),
    [(10.0, 0.5, ""), (10.1, 0.9, "perplexity 10.1 times"), (2.0, 0.49, "retention 0.49"), (NAN, NAN, "infinite")],
)
def test_a_model_collapsed_by_its_scores_whoever_trained_it(
    perplexity: float, retention: float, collapsed: str
) -> None:
    """Beyond ten times the original's retain perplexity of 1, or below half of its retention."""

    def retain(value: float) -> list[Any]:
        return [*(s for s in scores(0.5, 0.9) if s.metric != "perplexity"), score("retain", "perplexity", value)]

    results = study_results()
    references = [changed(model, scores=retain(1.0)) for model in results.references]
    results = changed_run(changed(results, references=references), "npo", scores=retain(perplexity), checkpoint="given")
    results = changed_calibration(results, "npo", delivered=estimate(retention))
    assert collapsed in results.collapsed("npo") and bool(results.collapsed("npo")) == bool(collapsed)
    assert ("npo (collapsed as delivered)" in results.headline) == bool(collapsed)
    assert ("\n(collapsed)" in next(row[0] for row in result_table(results).rows if row[0][:3] == "npo")) == bool(
        collapsed
    )
    assert ("which collapsed" in summary(results)[0]) == bool(collapsed)
    assert results.ranked()[0].name == "npo", "it is ranked all the same"


def test_the_record_of_the_training_counts_where_perplexity_is_not_scored() -> None:
    collapse = Collapse(before=2.0, after=21.0, bound=10.0, collapsed=True)
    training = TrainingRecord(steps=1, log=TrainingLog(step=(1,)), collapse=collapse)
    results = changed_run(
        study_results(), "npo", scores=[score("forget", "extraction_strength", 0.1)], training=training
    )
    assert "perplexity 10.5 times" in results.collapsed("npo")


def test_with_one_model_no_ranking_is_announced(tmp_path: Path) -> None:
    results = alone()
    write_page(results, run_record(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8").rpartition("</script>")[0]
    page = page[page.rindex("<h1>") :]
    for text in (
        repr(results),
        " ".join(summary(results)),
        results_markdown(results),
        result_table(results).title,
        page,
    ):
        for word in ("lowest", "best", "anking", " ranked"):
            assert word not in text, (word, text)
    assert "0.040 [0.000, 0.090], n = 100" in summary(results)[0]
    assert "residual" in results.headline and "0.04 [" in results.headline


def with_control(before: float = 0.2, **over: Any) -> StudyResults:
    """npo under a jailbreak that gives 0.35 and relearning that gives 0.6, with other differences from retrained."""
    results = attacked_results()
    assert results.attacks is not None
    found = [
        outcome("jailbreak", before, 0.35, 0.0, over_control=over.get("jailbreak")),
        outcome("relearn", before, 0.6, 0.0, over_control=over.get("relearn")),
    ]
    models = [m for m in results.attacks.models if m.model.run != "npo"]
    models.insert(0, AttackedModel(model=ModelKey(role="unlearned", run="npo"), outcomes=found))
    return changed(results, attacks=changed(results.attacks, models=models))


def test_the_worst_attack_is_that_with_the_largest_recovery_over_retrained() -> None:
    worst = compared(with_control(jailbreak=difference(0.3), relearn=difference(0.1)), "npo")
    assert (worst.attack, worst.attacked) == ("jailbreak", "unlearned")
    assert worst.under_attack == Estimate(value=0.35, low=0.35 - 0.05, high=0.35 + 0.05)
    assert worst.over_retrained == difference(0.3)
    retrained = compared(attacked_results(), "retrained")
    assert (retrained.attack, retrained.over_retrained) == ("relearn", None)


def test_without_retrained_the_worst_attack_is_that_with_the_highest_score() -> None:
    results = with_control()
    assert compared(results, "npo").attack == "relearn"
    assert results.attacks is not None
    taught = [changed(a, trains_on_scored=a.name == "relearn") for a in results.attacks.attacks]
    results = changed(results, attacks=changed(results.attacks, attacks=taught))
    assert compared(results, "npo").attack == "jailbreak", "relearning on the scored answers is no leak by itself"


def test_models_that_were_attacked_calibrated_are_said_to_be() -> None:
    results = attacked_results()
    assert results.attacks is not None
    models = [attacked(ModelKey(role="calibrated", run="npo"), 0.2, 0.3, 0.4)]
    results = changed(results, attacks=changed(results.attacks, models=models))
    assert compared(results, "npo").attacked == "calibrated"
    assert "calibrated mixtures, not as delivered: npo" in result_table(results).caption
    assert columns_of(result_table(results))["ga weak"]["worst attack"] == MISSING


def test_a_negative_recovery_is_nothing_beyond_the_retrained_model() -> None:
    results = with_control(jailbreak=difference(-0.3), relearn=difference(-0.1))
    cell = columns_of(result_table(results))["npo"]["over the retrained model"]
    assert cell == "nothing\n[-0.200, +0.000]"
    assert "nothing beyond the retrained model" in result_table(results).caption
    assert columns_of(recovery_tables(results)[0])["npo"]["relearn"] == "0.600\n(nothing)"
    row = next(row for row in runs_table(results).rows if row[:2] == ("npo", "relearn"))
    assert row[6] == "nothing [-0.200, +0.000]"
    assert results.attacks is not None
    only = changed(results, attacks=changed(results.attacks, models=results.attacks.models[:1]))
    assert "nothing beyond the retrained model" in recovery_words(only)[0]


def test_no_difference_from_a_retrained_model_that_knows_is_shown() -> None:
    results = attacked_results(warnings=(KNOWS,))
    assert results.retrained_knows and all(model.over_retrained is None for model in results.compared())
    table = result_table(results)
    assert "over the retrained model" not in table.columns and "know" in table.caption
    assert recovery_words(results) == []
    shown = recovery_tables(results)[0]
    assert not [cell for row in shown.rows for cell in row if "(+" in cell] and "over retrained" not in shown.title
    assert "know" in shown.caption and {row[6] for row in runs_table(results).rows} == {MISSING}
    assert "retrained" not in " ".join(summary(results))
    assert "retrained" in " ".join(summary(attacked_results()))


def one_cluster(results: StudyResults) -> StudyResults:
    nothing = {"low": NAN, "high": NAN, "se": NAN}
    for run in results.unlearned:
        if run.calibration is not None:
            results = changed_calibration(results, run.name, delivered=Estimate(value=0.9, low=NAN, high=NAN))
            number = Estimate(value=0.5, low=NAN, high=NAN)
            results = changed_at_tau(results, run.name, forget=number, alpha=number)
            results = changed_run(results, run.name, scores=[changed(s, **nothing) for s in run.scores])
    return changed(results, pairs={a: dict.fromkeys(row, NAN) for a, row in results.pairs.items()})


def copy_of_the_original() -> StudyResults:
    """The original's own weights as the unlearned model: nothing is lost, and alpha is 1."""
    results = changed_run(alone(), "npo", scores=scores(0.97, 0.98), calibrated_scores=scores(0.97, 0.98))
    results = changed_calibration(results, "npo", delivered=Estimate(value=1, low=1, high=1), alpha=1.0)
    return changed_at_tau(results, "npo", forget=estimate(0.97, 0.02), alpha=Estimate(value=1, low=1, high=1))


def diverged() -> StudyResults:
    models = [changed(unlearned("rmu"), name=name) for name in ("first", "second")]
    return study_results(unlearned=models, ranking=(), pairs={})


def unscored() -> StudyResults:
    """A metric that applies to no example."""
    nothing = {"mean": NAN, "n": 0, "not_scored": 100, "clusters": 0, "se": NAN, "low": NAN, "high": NAN}
    results = study_results()
    references = [changed(m, scores=[changed(s, **nothing) for s in m.scores]) for m in results.references]
    return changed_run(
        changed(results, references=references), "gd", scores=[score("forget", "extraction_strength", **nothing)]
    )


EDGES = {
    "copy": copy_of_the_original,
    "cluster": lambda: one_cluster(study_results()),
    "uncalibrated": lambda: attacked_results(retention=None),
    "diverged": diverged,
    "unscored": unscored,
}


@pytest.mark.parametrize("name", EDGES)
def test_a_mean_of_nothing_is_a_dash_everywhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = EDGES[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = result_table(results)
        print_table(table, Console(width=100))
        write_page(results, run_record(), tmp_path / "report.html")
        page = re.sub(r"(?s)<script.*?</script>", "", (tmp_path / "report.html").read_text(encoding="utf-8"))
        texts = [capsys.readouterr().out, repr(results), results_markdown(results), " ".join(summary(results))]
    assert all(cell for row in table.rows for cell in row)
    for text in (*texts, page[page.rindex("<h1>") :]):
        assert not [word for word in ("nan", "NaN", "None") if word in text.replace("finance", "")]


def test_edge_cases_keep_their_numbers() -> None:
    copy = columns_of(result_table(copy_of_the_original()))["npo"]
    assert copy["retention"] == "1.000\n[1.000, 1.000]" and copy["residual forget ES"].startswith("0.970")
    row = columns_of(result_table(one_cluster(study_results())))["po"]
    assert (row["retention"], row["residual forget ES"], row["differs from the best?"]) == ("0.900", "0.500", MISSING)
    table = result_table(EDGES["uncalibrated"]())
    assert table.groups == (("", 1), ("as delivered", 4))
    assert table.columns == ("model", "forget ES", "retain ES", "worst attack", "over the retrained model")
    lost = result_table(diverged())
    assert [row[0] for row in lost.rows[2:]] == ["first\n(diverged)", "second\n(diverged)"]
    assert {cell for row in lost.rows[2:] for cell in row[1:]} == {MISSING}
    assert "first is not ranked: training diverged: the gradient" in lost.caption
