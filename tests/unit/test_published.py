"""Published figures: shipped as they were printed, and shown beside ours."""

import numpy as np
import pytest
from tests.helpers.results_factory import changed, changed_run, study_results

from uwc.catalogue import catalogue
from uwc.errors import ConfigError
from uwc.metrics.set_metrics import harmonic_mean
from uwc.metrics.suites import metric_info
from uwc.published import published, published_benchmarks, published_names
from uwc.reports.tables import published_table
from uwc.results import Score

TOFU = ("forget_quality", "model_utility", "truth_ratio_forget")
ORDER = ("retain", "forget", "retain_paraphrased", "forget_paraphrased")


def figures(name: str, method: str, model: str) -> tuple[float, ...]:
    row = next(r for r in published(name).rows if (r["method"], r["model"]) == (method, model))
    return tuple(row[key] for key in ORDER)


def test_the_figures_are_those_that_were_printed() -> None:
    """Exact retain, exact forget, perturb retain, perturb forget; and the sum of each table, added up by hand."""
    assert figures("tofu-forget05-before", "npo", "Llama-2-7B") == (0.499, 0.089, 0.305, 0.078)
    assert figures("tofu-forget05-before", "po", "Phi-1.5") == (0.059, 0.070, 0.066, 0.064)
    assert figures("tofu-forget05-calibrated", "gd", "Phi-1.5") == (0.418, 0.425, 0.188, 0.005)
    assert figures("tofu-forget05-calibrated", "kl", "Llama-2-7B") == (0.740, 0.102, 0.494, 0.158)
    columns = {
        ("tofu-forget05-before", "Phi-1.5"): (0.434, 0.157, 0.364, 0.136),
        ("tofu-forget05-before", "Llama-2-7B"): (1.292, 0.205, 0.881, 0.231),
        ("tofu-forget05-calibrated", "Phi-1.5"): (2.532, 2.367, 1.188, 1.008),
        ("tofu-forget05-calibrated", "Llama-2-7B"): (4.500, 2.207, 2.759, 1.974),
    }
    for (name, model), sums in columns.items():
        rows = [[row[key] for key in ORDER] for row in published(name).rows if row["model"] == model]
        assert len(rows) == 6
        assert tuple(np.sum(rows, axis=0)) == pytest.approx(sums)


def test_the_figures_of_openunlearning_are_those_of_its_table() -> None:
    """Forget quality, model utility and truth ratio; and the sums of the utilities, added up by hand."""
    tables = {share: published(f"open-unlearning-tofu-{share}").rows for share in ("forget01", "forget05", "forget10")}
    by_key = {(share, r["called"], r["model"]): r for share, rows in tables.items() for r in rows}
    assert len(by_key) == 8 * 2 * 3
    npo = by_key["forget05", "NPO", "Llama-3.2-1B-Instruct"]
    assert [npo[m] for m in ("method", *TOFU)] == ["npo-gd", 0.14, 0.45, 0.7]
    rmu = by_key["forget10", "RMU", "Llama-2-7B-chat"]
    assert [rmu[m] for m in ("method", *TOFU)] == ["rmu", 6.92e-21, 0.03, 0.81]
    for share, model, total in (("forget01", "Llama-2-7B-chat", 4.72), ("forget10", "Llama-3.2-1B-Instruct", 3.5)):
        assert sum(r["model_utility"] for r in tables[share] if r["model"] == model) == pytest.approx(total)


def test_a_study_with_model_utility_has_tofus_scores_beside_the_published() -> None:
    results = study_results()
    run = results.run("npo")
    mine = Score(set="retain", metric="model_utility", mean=0.512, n=4, not_scored=0, clusters=4, why={})
    results = changed(
        changed_run(results, "npo", method="npo-gd", scores=(*run.scores, mine)),
        benchmark=changed(results.benchmark, name="tofu-forget10"),
        metrics={**results.metrics, "model_utility": metric_info("model_utility")},
    )
    table = published_table(results)
    assert table is not None and "OpenUnlearning" in table.caption
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    at = next(i for i, row in enumerate(rows) if row["method"] == "npo")
    assert (rows[at]["from"], rows[at]["model utility"], rows[at]["forget quality"]) == ("this study", "0.512", "—")
    assert (rows[at + 2]["from"], rows[at + 2]["forget quality"]) == ("Llama-3.2-1B-Instruct", "0.02")
    assert rows[0]["method"] == "original" and "1.66e-21" in {row["forget quality"] for row in rows[:3]}


def test_every_table_says_where_it_is_from() -> None:
    for name in published_names():
        table = published(name)
        assert "arXiv:" in table.source and table.setting and table.title
        assert len({tuple(row) for row in table.rows}) == 1, "each row has the same columns"
    assert set(published_benchmarks()) == {"tofu-forget01", "tofu-forget05", "tofu-forget10"}
    with pytest.raises(ConfigError, match="did you mean 'robustness-pcc'"):
        published("robustness-pc")


def test_the_fields_tables_agree_with_themselves() -> None:
    """22 rows of 20 metrics, one of them at three shares. Robustness and the overall number are harmonic means."""
    rows = published("meta-evaluation").rows
    assert len(rows) == 22 and max(rows, key=lambda row: row["overall"])["metric"] == "uds"
    for row in rows:
        pairs = {"robustness": ("relearning", "quantization"), "overall": ("faithfulness", "robustness")}
        for mean, parts in pairs.items():
            assert row[mean] == pytest.approx(harmonic_mean([row[part] for part in parts]), abs=2e-4), row["metric"]
    models = published("unlearned-models").rows
    assert len(models) == 152 and {len(row) for row in models} == {32}
    for row in models:
        parts = [row[part] for part in ("memorization", "privacy", "utility_rel")]
        assert row["overall"] == pytest.approx(harmonic_mean(parts), abs=1e-3), row["model"]


def test_the_catalogue_lists_the_tables_and_their_rows() -> None:
    assert [row["name"] for row in catalogue("published")] == published_names()
    assert len(catalogue("tofu-forget05-calibrated")) == 12


def test_a_report_on_the_same_benchmark_has_ours_beside_the_published() -> None:
    results = study_results()
    assert published_table(results) is None
    table = published_table(changed(results, benchmark=changed(results.benchmark, name="tofu-forget05")))
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    npo = next(i for i, row in enumerate(rows) if row["method"] == "npo")
    assert rows[npo] == {
        "method": "npo",
        "from": "this study",
        "forget ES, as delivered": "0.040",
        "retain ES, as delivered": "0.975",
        "forget ES, calibrated": "0.040",
        "retain ES, calibrated": "0.975",
        "forget ES, paraphrased, calibrated": "0.032",
        "retain ES, paraphrased, calibrated": "0.780",
    }
    assert rows[npo + 2] == {
        "method": "",
        "from": "Llama-2-7B",
        "forget ES, as delivered": "0.089",
        "retain ES, as delivered": "0.499",
        "forget ES, calibrated": "0.110",
        "retain ES, calibrated": "0.721",
        "forget ES, paraphrased, calibrated": "0.279",
        "retain ES, paraphrased, calibrated": "0.480",
    }
    assert "arXiv:2406.09179" in table.caption


def test_a_study_on_local_files_can_name_the_benchmark() -> None:
    results = study_results()
    named = changed(results.study, config={"published": "tofu-forget05"})
    results = changed(results, study=named, unlearned=[results.run("npo")], ranking=("npo",))
    assert published_table(results) is not None
    given = changed_run(results, "npo", method="")
    assert published_table(given) is not None, "a given model that is called npo"
    composed = changed_run(results, "npo", method="composed")
    assert published_table(composed) is None, "nothing was published of this method"
