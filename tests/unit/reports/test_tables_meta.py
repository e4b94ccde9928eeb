"""The report's table and words about the meta-evaluation of metrics."""

from tests.helpers.results_factory import NAN, PPL, attacked_results, changed, estimate

from uwc.reports.format import MISSING
from uwc.reports.markdown import results_markdown
from uwc.reports.tables_attacks import faithfulness_table
from uwc.reports.tables_meta import holding_words, meta_evaluation_table, meta_evaluation_words
from uwc.results import ES, Faithfulness, MetaEvaluation, MetricEvaluation, StudyResults


def row(metric: str, overall: float, symmetric: float, published: float | None, models: int = 8) -> MetricEvaluation:
    """A metric whose robustness and faithfulness are its overall number."""
    part = estimate(overall)
    return MetricEvaluation(
        metric=metric, set="forget", faithfulness=part, knowing=6, ignorant=5, threshold=0.4, models=models,
        too_little_utility=3, not_unlearned=1, relearning=part, quantization=part, robustness=overall, overall=overall,
        quantization_recovery=estimate(0.5), recovery_overall=0.6,
        symmetric_relearning=part, symmetric_quantization=part, symmetric_robustness=symmetric,
        symmetric_overall=symmetric, published=published,
    )  # fmt: skip


def evaluated(*rows: MetricEvaluation) -> StudyResults:
    results = attacked_results()
    common = sum(r.published is not None for r in rows)
    meta = MetaEvaluation(
        relearning="relearn_forget", quantization="quantization_nf4", utility=ES, least_utility=0.8, metrics=rows,
        common=common, spearman=0.5,
    )  # fmt: skip
    return changed(results, robustness=changed(results.robustness, meta_evaluation=meta))


THREE = (row(PPL, 0.9, 0.7, 0.6), row(ES, 0.8, 0.75, 0.87), row("kl_to_original", NAN, 0.3, 0.2, models=0))


def test_every_metric_has_its_numbers_and_the_models_that_pass() -> None:
    table = meta_evaluation_table(evaluated(*THREE))
    assert table is not None and meta_evaluation_table(attacked_results()) is None
    first, _, last = (dict(zip(table.headings(), cells, strict=True)) for cells in table.rows)
    assert first["metric"] == "PPL" and first["models"] == "8/12"
    assert first["measured: overall"] == "0.900" and first["symmetric: overall"] == "0.700"
    assert first["measured: faithfulness"] == "0.900\n[0.850, 0.950]"
    assert last["measured: overall"] == MISSING and last["models"] == "0/4"
    assert first["recovery: Q"] == "0.500" and first["recovery: overall"] == "0.600"
    assert "6 models" in table.caption and "0.8 of the original's ES" in table.caption


def test_the_words_compare_with_the_published_table() -> None:
    words = " ".join(meta_evaluation_words(evaluated(*THREE)))
    assert "PPL comes first of 2 metrics: overall 0.900" in words and "ES is number 2 of them: overall 0.800" in words
    assert "KL to original: no unlearned model passes both filters" in words
    assert "ES is best in both: this agrees" in words and "is 0.50, over 3 metrics" in words
    other = (row(PPL, 0.9, 0.9, 0.6), *THREE[1:])
    assert "ES is best there, and PPL here: this differs" in " ".join(meta_evaluation_words(evaluated(*other)))
    assert meta_evaluation_words(attacked_results()) == []
    assert "| PPL | 0.900<br>[0.850, 0.950] |" in results_markdown(evaluated(*THREE))


def test_under_each_attack_the_metrics_that_hold_are_named() -> None:
    """ES has a PCC of 0.9 and PPL of 1."""
    (sentence,) = holding_words(attacked_results())
    assert sentence.startswith("jailbreak: all 2 metrics hold") and "ES is number 2 of 2" in sentence
    assert holding_words(changed(attacked_results(), robustness=None)) == []


def test_faithfulness_over_models_has_its_interval() -> None:
    results = attacked_results()
    found = Faithfulness(metric=ES, set="forget", knowing=6, ignorant=5, auc=0.9, low=0.6, high=1.0, over="models")
    table = faithfulness_table(changed(results, robustness=changed(results.robustness, faithfulness=(found,))))
    assert table is not None and table.rows == (("ES", "0.900 [0.600, 1.000]"),)
    assert "6 models fine-tuned with the forget set and 5 without" in table.caption
