"""The reports: the numbers in tables, figures and the page for made-up results."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.helpers.results_factory import (
    ES,
    METRICS,
    NAN,
    PPL,
    aggregate,
    changed,
    changed_at_tau,
    changed_run,
    estimate,
    pairs,
    run_record,
    score,
    study_results,
    uncalibrated,
    unlearned,
)

from uwc.progress import duration
from uwc.reports.figures import COLOURS, alpha_figures, model_styles, ranking_figure, tradeoff_figure
from uwc.reports.format import (
    MISSING,
    Table,
    average,
    difference,
    is_numeric,
    listed,
    number,
    print_table,
    to_markdown,
    with_interval,
)
from uwc.reports.page import write_page
from uwc.reports.tables import metrics_table, result_table, settings_table, split_sizes, steps_table, summary
from uwc.results import Difference, Estimate, MetricInfo, Probe, RunRecord, Score, StudyResults, Warning, find

SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)
SET_METRIC = MetricInfo(
    label="forget quality", summary="p-value", source="", higher_remembers=False, range=(0, 1), average="set"
)


def markup(results: StudyResults, folder: Path, run: RunRecord | None = None) -> str:
    """The page, without the content of its scripts."""
    write_page(results, run or run_record(), folder / "new" / "report.html")
    return SCRIPT.sub("", (folder / "new" / "report.html").read_text(encoding="utf-8"))


def columns_of(table: Table) -> dict[str, dict[str, str]]:
    """First cell of a row -> column -> cell."""
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.21249, METRICS[ES], "0.212"),
        (1, None, "1.000"),
        (None, METRICS[ES], MISSING),
        (NAN, METRICS[PPL], MISSING),
        (1.2, METRICS[PPL], "1.20"),
        (99.96, METRICS[PPL], "100"),
        (12345.0, METRICS[PPL], "12,300"),
        (2.5e7, METRICS[PPL], "2.50e+07"),
        (3.21e-12, SET_METRIC, "3.21e-12"),
        (0.0, SET_METRIC, "0.000"),
        (0.5, SET_METRIC, "0.500"),
    ],
)
def test_numbers_as_text(value: float | None, metric: MetricInfo | None, text: str) -> None:
    assert number(value, metric) == text


def test_durations_lists_and_intervals_as_text() -> None:
    assert [duration(s) for s in (4.04, 125, 3725)] == ["4.0 s", "2 min 05 s", "1 h 02 min"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert with_interval(Estimate(value=0.5, low=0.25, high=NAN)) == "0.500"
    assert with_interval(estimate(0.5)) == "0.500 [0.450, 0.550]"


def test_a_difference_has_its_sign_and_a_ratio_is_a_ratio() -> None:
    found = {"n": 9, "p_value": 0.5}
    shown = Difference(mean=0.15, low=-0.05, high=0.35, kind="difference", **found)
    ratio = Difference(mean=1.3, low=0.987, high=12.0, kind="ratio", **found)
    assert difference(shown) == "+0.150 [-0.050, +0.350]"
    assert difference(ratio) == "x 1.30 [0.987, 12.0]"
    assert difference(Difference(mean=1.3, kind="ratio", **found)) == "x 1.30"
    assert difference(None) == MISSING
    assert all(is_numeric(Table("", ("",), ((difference(d),),)), 0) for d in (shown, ratio, None))


def test_averages_are_geometric_where_the_metric_is() -> None:
    assert average([1.0, 4.0], geometric=True) == pytest.approx(2.0)
    assert average([1.0, 4.0], geometric=False) == 2.5
    assert number(average([], geometric=False)) == number(average([NAN, 0.0], geometric=True)) == MISSING


def test_result_table_is_sorted_by_rank_with_references_first_and_diverged_last() -> None:
    """gd: 0.81 and 0.934 of the original's retain ES 0.98; at tau the retention is 0.95 by definition."""
    table = result_table(study_results())
    rows = table.rows
    assert [row[0] for row in rows] == ["original", "retrained", "npo", "gd", "kl", "po", "ga", "rmu (diverged)"]
    assert rows[1] == ("retrained", "", "", "", "0.110 [0.060, 0.160]", "0.088", "", "0.979")
    assert rows[3] == ("gd", "0.000", "0.810", "0.762", "0.131 [0.081, 0.181]", "0.105", "0.950", "0.934")
    assert rows[2][6] == "0.995", "npo keeps more than tau as delivered: 0.975 / 0.98"
    assert rows[7] == ("rmu (diverged)", *[MISSING] * 7)
    assert "the gradient was not finite at step 7" in table.caption


def test_result_table_without_paraphrases_or_retrained_says_why() -> None:
    def without(scores: tuple[Score, ...]) -> list[Score]:
        return [s for s in scores if s.set != "forget_paraphrased"]

    results = study_results()
    results = changed(
        results,
        sets={name: info for name, info in results.sets.items() if name != "forget_paraphrased"},
        references=[changed(results.references[0], scores=without(results.references[0].scores))],
        unlearned=[
            changed(m, scores=without(m.scores), calibrated_scores=without(m.calibrated_scores))
            for m in results.unlearned
        ],
    )
    table = result_table(results)
    assert [row[0] for row in table.rows][:2] == ["original", "npo"]
    assert {row[5] for row in table.rows} == {MISSING}
    assert "not part of this benchmark" in table.caption
    assert "retrained" not in table.caption + " ".join(summary(results))


def test_a_score_without_an_interval_is_shown_alone() -> None:
    results = changed_at_tau(study_results(), "npo", forget=Estimate(value=0.04, low=NAN, high=NAN))
    assert columns_of(result_table(results))["npo"]["residual forget ES [95% interval]"] == "0.040"
    assert "interval" in summary(results)[1]


def test_summary_names_the_best_with_its_score_and_the_references() -> None:
    text = summary(study_results())
    assert text[0].startswith("npo ") and "0.040 [0.000, 0.090], n = 100" in text[0] and "0.95" in text[0]
    assert "0.970 [0.920, 1.020]" in text[2] and "0.110 [0.060, 0.160]" in text[2]
    assert "rmu" in text[3]


def test_summary_of_a_near_winner_and_of_nothing_to_rank() -> None:
    results = study_results(pairs=pairs(npo=0.96))
    assert "gd (confidence 96%)" in summary(results)[1] and "kl" not in summary(results)[1]
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


def test_a_metric_for_whole_sets_has_its_table(tmp_path: Path) -> None:
    results = study_results()
    found = Score(set="forget+retain", metric="quality", mean=3.21e-12, n=200)
    interval = Score(set="forget+retain", metric="quality", mean=0.5, low=0.25, high=0.75, n=200)
    references = [changed(m, scores=[*m.scores, s]) for m, s in zip(results.references, (found, interval), strict=True)]
    results = changed(results, references=references, metrics={**results.metrics, "quality": SET_METRIC})
    table = metrics_table(results, "quality")
    assert table.columns == ("model", "forget + retain")
    assert [row[1] for row in table.rows[:3]] == ["3.21e-12", "0.500\n[0.250, 0.750]", MISSING]
    assert "3.21e-12" in markup(results, tmp_path)


def test_settings_table_keeps_the_differences_and_names_the_rest() -> None:
    rule = {"name": "l1", "strength": 1.5}
    table = settings_table(changed_run(study_results(), "gd", rule=rule, tricks={"temperature": 0.5}))
    assert table.columns == ("method", "lr", "rule: name", "rule: strength", "trick: temperature")
    assert table.rows[0] == ("ga", "0.0001", MISSING, MISSING, MISSING)
    assert table.rows[1] == ("gd", "0.0005", "l1", "1.5", "0.5")
    assert "epochs = 5, batch_size = 16" in table.caption


def test_splits_and_steps() -> None:
    assert split_sizes(study_results())[1] == "retain: 300 examples of 30 subjects"
    table = steps_table(run_record())
    assert table.rows[0] == ("fine-tune original", "31.2 s", "computed", "abc123")
    assert table.rows[2] == ("score original", "4.0 s", "reused", "789abc")
    assert "2 min 36 s" in table.caption


def test_markdown_aligns_numbers_and_escapes_cells() -> None:
    table = Table("Scores", ("method", "ES"), (("a|b", "0.100"), ("<i>", MISSING)), "One remark.")
    assert to_markdown(table) == (
        "### Scores\n\n| method | ES |\n| --- | ---: |\n| a\\|b | 0.100 |\n| &lt;i> | — |\n\n- One remark.\n"
    )


def test_terminal_table_does_not_wrap_numbers_and_takes_brackets_literally() -> None:
    results = changed_run(study_results(), "gd", name="gd[bold]")
    stream = StringIO()
    print_table(result_table(results), Console(file=stream, width=120))
    numbers = ("0.000", "0.810", "0.762", "0.131 [0.081, 0.181]", "0.105", "0.950", "0.934")
    assert re.search(r"gd\[bold\] +" + " +".join(map(re.escape, numbers)), stream.getvalue())


def test_page_has_the_numbers_and_the_sections(tmp_path: Path) -> None:
    page = markup(study_results(), tmp_path)
    for cells in result_table(study_results()).rows:
        for cell in cells:
            assert cell.replace(", ", ",\u00a0") in page
    facts = ("984,192 parameters", "3f1c0de5", "the holdout set is small", "0 to 1", "1 and up", "3.11.9", "def456")
    assert [text for text in facts if text not in page] == []
    assert 'data-code="small-set"' in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:3] == ["Setup", "Results", "Ranking"] and "All scores" in titles
    assert not [title for title in titles if title.startswith("What")]
    assert '<a href="https://arxiv.org/abs/2012.07805">' in page
    assert "&#34;tau&#34;: 0.95" in page


def test_page_needs_no_network(tmp_path: Path) -> None:
    write_page(study_results(), run_record(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    without = SCRIPT.sub("", text)
    assert not re.search(r"<(link|img|iframe|script)\b", without)
    assert not re.search(r"url\(|@import", without)
    assert not re.search(r"<script\b[^>]*\bsrc=", text)
    assert text.count("plotly.js v") == 1


def test_page_and_figures_escape_names(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    results = changed_run(study_results(), "npo", name=evil)
    study = changed(results.study, title=evil, config={"name": evil})
    sets = {name: changed(info, label=evil) if name == "forget" else info for name, info in results.sets.items()}
    results = changed(results, study=study, sets=sets, warnings=[Warning(code="x", text=evil)])
    write_page(results, run_record(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert tradeoff_figure(results).data[0].name == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_page_of_a_study_with_only_a_diverged_method(tmp_path: Path) -> None:
    results = study_results(unlearned=[unlearned("rmu")], ranking=(), pairs={}, warnings=())
    page = markup(changed(results, references=results.references[:1]), tmp_path)
    assert "rmu (diverged)" in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert not {"Ranking", "Search for alpha", "Frontier", "Tau curve"} & set(titles)
    assert "Warnings" not in page


def test_an_uncalibrated_study_is_shown_as_delivered(tmp_path: Path) -> None:
    results = uncalibrated(study_results())
    rows = columns_of(result_table(results))
    assert rows["gd"] == {
        "model": "gd",
        "forget ES [95% interval]": "0.000 [0.000, 0.050]",
        "forget ES, paraphrased": "0.000",
        "retain ES": "0.810",
    }
    assert list(rows["rmu (diverged)"].values())[1:] == [MISSING] * 3
    drawn = {trace.name: (trace.x[0], trace.y[0]) for trace in tradeoff_figure(results).data}
    assert drawn["kl"] == (0.39, 0.0) and drawn["retrained"] == (0.979, 0.11), "over the retain score"
    assert not tradeoff_figure(results).layout.shapes
    assert "Ranking" not in re.findall(r"<h2>(.*?)</h2>", markup(results, tmp_path))


def test_an_uncalibrated_study_without_extraction_strength_shows_its_first_metric() -> None:
    results = uncalibrated(study_results())
    results = changed(results, metrics={PPL: METRICS[PPL]})
    assert result_table(results).columns[3] == "retain PPL"
    assert columns_of(result_table(results))["retrained"]["retain PPL"] == "1.02", "1 + 2000 * 0.021 ** 3"


def test_page_needs_no_record_of_the_run(tmp_path: Path) -> None:
    assert "Environment" not in markup(study_results(), tmp_path, RunRecord())


def test_a_model_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    results = study_results()
    styles = model_styles(results)
    assert len({style.colour for style in styles.values()}) == 6 == len(COLOURS)
    paths = [trace for trace in tradeoff_figure(results).data if trace.name != "original"]
    curves = alpha_figures(results)
    assert set(curves) == {trace.name for trace in paths} == set(styles) - {"rmu"}
    drawn = [(trace.name, trace) for trace in paths] + [(name, t) for name in curves for t in curves[name].data]
    for name, trace in drawn:
        used = {trace.line.color, trace.marker.color, trace.marker.line.color}
        assert used - {None, "#ffffff"} == {styles[name].colour}
    page = markup(results, tmp_path)
    assert all(f'style="background: {styles[name].colour}"></span>{name}' in page for name in styles)


def test_many_models_differ_in_colour_or_symbol() -> None:
    results = study_results(unlearned=[unlearned(f"m{i}") for i in range(40)], ranking=(), pairs={})
    assert len(set(model_styles(results).values())) == 40


def test_tradeoff_is_drawn_over_the_retention_ratio_with_the_bar_at_tau() -> None:
    """gd as delivered: 0.81 / 0.98 of the original's retain ES."""
    figure = tradeoff_figure(study_results())
    line, delivered, at_tau = (trace for trace in figure.data if trace.name == "gd")
    assert line.x == pytest.approx((0.81 / 0.98, 0.95)) and line.y == (0.0, 0.131)
    assert (delivered.x, delivered.y, delivered.marker.color) == ((pytest.approx(0.81 / 0.98),), (0.0,), "#ffffff")
    assert (at_tau.x, at_tau.y, at_tau.marker.color) == ((0.95,), (0.131,), "#0072B2")
    assert [trace.showlegend for trace in (line, delivered, at_tau)] == [False, False, True]
    (original,) = (trace for trace in figure.data if trace.name == "original")
    assert (original.x, original.y) == ((1.0,), (0.97,))
    bar, retrained = sorted(figure.layout.shapes, key=lambda shape: shape.xref == "x domain")
    assert bar.x0 == bar.x1 == 0.95 and retrained.y0 == retrained.y1 == 0.11


def test_the_interval_at_tau_is_that_of_tables_and_figures() -> None:
    """0.131, with 0.031 to 0.931 as the search for alpha is repeated in each draw."""
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=0.031, high=0.931))
    *_, at_tau = (trace for trace in tradeoff_figure(results).data if trace.name == "gd")
    assert "0.131 [0.031, 0.931]" in at_tau.text[0]
    assert columns_of(result_table(results))["gd"]["residual forget ES [95% interval]"] == "0.131 [0.031, 0.931]"
    figure = ranking_figure(results)
    assert figure is not None
    bar = next(trace for trace in figure.data if trace.name == "gd")
    assert bar.x == (0.131,) and bar.error_x.array == pytest.approx((0.8,))
    assert bar.error_x.arrayminus == pytest.approx((0.1,))


def test_the_ranking_is_drawn_best_on_top_between_the_original_and_retrained() -> None:
    results = study_results()
    figure = ranking_figure(results)
    assert figure is not None
    assert tuple(trace.y[0] for trace in figure.data) == results.ranking
    assert figure.layout.yaxis.autorange == "reversed"  # the first row is the uppermost
    lines = {note.text: shape.x0 for note, shape in zip(figure.layout.annotations, figure.layout.shapes, strict=True)}
    assert lines == {"original": 0.97, "retrained": 0.11}


def test_a_model_without_an_interval_has_no_bar_and_without_a_ranking_there_is_no_figure() -> None:
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=NAN, high=NAN))
    figure = ranking_figure(results)
    assert figure is not None
    assert next(trace for trace in figure.data if trace.name == "gd").error_x.array is None
    assert ranking_figure(changed(results, ranking=())) is None


def test_alpha_figure_draws_retention_and_forget_score_over_alpha_with_tau() -> None:
    """Probed at 0, 1, 0.381 and 0.762; the forget score of a probe on a part of the examples is not drawn."""
    results = study_results()
    found = results.run("gd").calibration
    assert found is not None
    part = Probe(alpha=0.9, retention=0.9, phase="refine", feasible=False, scored=20, of=100)
    calibration = changed(found, probes=[*found.probes, part])
    figure = alpha_figures(changed_run(results, "gd", calibration=calibration))["gd"]
    retention, forget = figure.data
    assert retention.x == forget.x == (0.0, 0.381, 0.762, 0.9, 1.0)
    assert retention.y == pytest.approx((1.0, 0.98, 0.934 / 0.98, 0.9, 0.81 / 0.98))
    assert forget.y == pytest.approx((0.97, (0.97 + 0.131) / 2, 0.131, NAN, 0.0), nan_ok=True)
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(0, 0.95), (0.762, 0)]


def test_a_residual_score_by_another_metric_is_that_of_the_mixture() -> None:
    results = changed_at_tau(study_results(), "gd", forget=estimate(0.2))
    run = results.run("gd")
    residual, mixture = run.residual("forget", ES), run.residual("forget", PPL)
    assert residual is not None and residual.mean == 0.2 and residual.n == 100
    assert mixture == find(run.calibrated_scores, "forget", PPL)


def test_aggregates_of_the_factory_are_valid_and_refuse_what_the_schema_does_not_have() -> None:
    assert StudyResults.parse(study_results().to_json(), where="factory").run("gd").scores[0].mean == 0.0
    with pytest.raises(ValueError, match="extra"):
        aggregate(0.5, meen=0.5)
