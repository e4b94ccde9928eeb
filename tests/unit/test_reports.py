"""The reports: what the tables say for hand-made results, and that the page and figures show it."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from uwc.errors import UserError
from uwc.progress import duration
from uwc.reports.conclusion import summary
from uwc.reports.grid import Table, print_table, to_markdown
from uwc.reports.page import write_page
from uwc.reports.plots import COLOURS, alpha_figures, method_styles, tradeoff_figure
from uwc.reports.ranking_plot import ranking_figure
from uwc.reports.records import aggregate_of, reference_scores
from uwc.reports.tables import metrics_table, result_table, settings_table, split_sizes, steps_table
from uwc.reports.words import listed, number

from .example_results import aggregate, calibration, example_results, example_run, pairs, renamed

SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)


@pytest.fixture
def results() -> dict[str, Any]:
    return example_results()


def page_of(results: dict[str, Any], folder: Path) -> str:
    """The page's markup, without the content of its scripts."""
    write_page(results, example_run(), folder / "new" / "report.html")
    return SCRIPT.sub("", (folder / "new" / "report.html").read_text(encoding="utf-8"))


def method_named(results: dict[str, Any], name: str) -> dict[str, Any]:
    return next(method for method in results["unlearned"] if method["name"] == name)


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.21249, "extraction_strength", "0.212"),
        (1, "extraction_strength", "1.000"),
        (None, "extraction_strength", "—"),
        (float("nan"), "perplexity", "—"),
        (float("inf"), "kl_to_original", "∞"),
        (1.2, "perplexity", "1.20"),
        (99.96, "perplexity", "100"),
        (12345.0, "perplexity", "12,300"),
        (2.5e7, "perplexity", "2.50e+07"),
    ],
)
def test_numbers_as_text(value: float | None, metric: str, text: str) -> None:
    assert number(value, metric) == text


def test_durations_and_lists_as_text() -> None:
    assert [duration(s) for s in (4.04, 125, 3725)] == ["4.0 s", "2 min 05 s", "1 h 02 min"]
    assert duration(59.97) == "1 min 00 s"
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_result_table_is_sorted_by_rank_with_references_first_and_diverged_last(results: dict[str, Any]) -> None:
    rows = result_table(results).rows
    assert [row[0] for row in rows] == ["original", "retrained", "npo", "gd", "kl", "po", "ga", "rmu (diverged)"]
    assert rows[1] == ("retrained", "", "", "", "0.110 [0.060, 0.160]", "0.088", "0.979")
    assert rows[3] == ("gd", "0.000", "0.810", "0.762", "0.131 [0.081, 0.181]", "0.105", "0.934")
    assert rows[7] == ("rmu (diverged)", *["—"] * 6)
    assert "rmu: training diverged: the gradient was not finite at step 7." in result_table(results).caption
    assert "forget n = 100;" in result_table(results).caption


def test_result_table_without_paraphrases_or_gold_says_why(results: dict[str, Any]) -> None:
    del results["models"][1], results["sets"]["forget_paraphrased"]
    for scores in [results["models"][0]["scores"]] + [m[k] for m in results["unlearned"] for k in ("before", "after")]:
        if scores:
            del scores["forget_paraphrased"]
    table = result_table(results)
    assert [row[0] for row in table.rows][:2] == ["original", "npo"]
    assert {row[5] for row in table.rows} == {"—"}
    assert "paraphrased forget questions are not part of this benchmark" in table.caption
    assert "retrained" not in table.caption
    assert "retrained" not in " ".join(summary(results))


def test_a_score_without_an_interval_is_shown_alone(results: dict[str, Any]) -> None:
    method_named(results, "npo")["after"]["forget"]["extraction_strength"].update(low=None, high=None, se=None)
    method_named(results, "npo")["intervals"]["forget"] = [None, None]
    assert result_table(results).rows[2][4] == "0.040"
    assert metrics_table(results, "extraction_strength").rows[3][1] == "0.040"
    assert summary(results)[1].startswith("Not every method has an interval")


def test_summary_names_the_best_and_what_it_is_held_against(results: dict[str, Any]) -> None:
    assert summary(results) == [
        "npo has the lowest forget ES at equal retention (at least 0.95 of the original's retain ES): "
        "0.040 [0.000, 0.090], n = 100; lower is better.",
        "In paired draws of the same questions it leaves less than every other method.",
        "For comparison: the original model scores 0.970 [0.920, 1.020] and the retrained model (trained like the "
        "original, but without the forget data) scores 0.110 [0.060, 0.160].",
        "Training diverged for rmu, which is not ranked.",
    ]


def test_summary_of_a_near_winner_and_of_nothing_to_rank(results: dict[str, Any]) -> None:
    results["pairs"] = pairs(npo=0.96)
    assert summary(results)[1] == "It cannot be told apart from gd (96% sure that it leaves less)."
    results["ranking"] = []
    assert summary(results)[0] == "No method reached a calibrated score, so there is nothing to rank."


def test_metrics_table_has_every_model_before_and_after_calibration(results: dict[str, Any]) -> None:
    table = metrics_table(results, "extraction_strength")
    assert table.columns[:3] == ("model", "forget\nn = 100", "forget, paraphrased\nn = 100")
    assert [row[0] for row in table.rows][:4] == ["original", "retrained", "npo, before", "npo, after"]
    assert len(table.rows) == 2 + 2 * 5
    assert table.rows[1][1] == "0.110 ± 0.025\n[0.060, 0.160]"


def test_metrics_table_counts_examples_in_the_cell_where_they_differ(results: dict[str, Any]) -> None:
    scores = results["models"][1]["scores"]["forget"]
    scores["perplexity"] = {**aggregate(1234.5, n=97, half=20.0), "not_scored": 3}
    results["models"][0]["scores"]["forget"]["perplexity"] = aggregate(None)
    table = metrics_table(results, "perplexity")
    assert table.columns[1:3] == ("forget", "forget, paraphrased\nn = 100")
    assert table.rows[0][1] == "— (100 not scored)\nn = 0"
    assert table.rows[1][1] == "1,230 ± 10.0 (3 not scored)\n[1,210, 1,250]\nn = 97"


def test_settings_table_keeps_what_differs_and_says_what_does_not(results: dict[str, Any]) -> None:
    method_named(results, "gd")["tricks"] = {"temperature": 0.5}
    table = settings_table(results)
    assert table.columns == ("method", "lr", "trick: temperature")
    assert table.rows[0] == ("ga", "0.0001", "—")
    assert table.rows[1] == ("gd", "0.0005", "0.5")
    assert (
        table.caption == "The same for all methods: epochs = 5, batch_size = 16; the configuration below has the rest."
    )


def test_splits_and_steps(results: dict[str, Any]) -> None:
    assert split_sizes(results)[1] == "retain: 300 examples of 30 subjects"
    table = steps_table(example_run())
    assert table.rows[0] == ("fine-tune original", "31.2 s", "computed", "abc123")
    assert table.rows[2] == ("score original", "4.0 s", "reused", "789abc")
    assert table.caption.startswith("Computed in this run: 2 min 36 s.")


def test_markdown_aligns_numbers_and_escapes_cells() -> None:
    table = Table("Scores", ("method", "ES"), (("a|b", "0.100"), ("<i>", "—")), "One remark.")
    assert to_markdown(table) == (
        "### Scores\n\n| method | ES |\n| --- | ---: |\n| a\\|b | 0.100 |\n| &lt;i> | — |\n\n- One remark.\n"
    )


def test_terminal_table_does_not_wrap_numbers_and_takes_brackets_literally(results: dict[str, Any]) -> None:
    renamed(results, "gd", "gd[bold]")
    stream = StringIO()
    print_table(result_table(results), Console(file=stream, width=110))
    assert re.search(
        r"gd\[bold\] +0\.000 +0\.810 +0\.762 +0\.131 \[0\.081, 0\.181\] +0\.105 +0\.934", stream.getvalue()
    )


def test_page_has_the_numbers_and_the_sections(results: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(results, tmp_path)
    for cells in result_table(results).rows:
        for cell in cells:
            assert cell.replace(", ", ",\u00a0") in page
    for text in (
        "984,192 parameters",
        "3f1c0de5",
        "the holdout set is small",
        "0 to 1",
        "1 and up",
        "3.11.9",
        "def456",
    ):
        assert text in page
    assert "the gradient was not finite at step 7" in page
    assert '<a href="https://arxiv.org/abs/2012.07805">' in page
    assert "&#34;tau&#34;: 0.95" in page


def test_page_needs_no_network(results: dict[str, Any], tmp_path: Path) -> None:
    write_page(results, example_run(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    markup = SCRIPT.sub("", text)
    assert not re.search(r"<(link|img|iframe|script)\b", markup)
    assert not re.search(r"url\(|@import", markup)
    assert not re.search(r"<script\b[^>]*\bsrc=", text)
    assert text.count("plotly.js v") == 1


def test_page_and_figures_escape_names(results: dict[str, Any], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    renamed(results, "npo", evil)
    results["study"]["title"] = results["notes"][0] = evil
    results["study"]["config"] = {"name": evil}
    write_page(results, example_run(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert evil not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert tradeoff_figure(results).data[0].name == "&lt;script&gt;alert(1)&lt;/script&gt;"


def test_page_of_a_study_with_only_a_diverged_method(results: dict[str, Any], tmp_path: Path) -> None:
    results["unlearned"] = [method_named(results, "rmu")]
    results["ranking"], results["notes"] = [], []
    del results["models"][1]
    page = page_of(results, tmp_path)
    assert "nothing to rank" in page
    assert "rmu (diverged)" in page
    assert "How each alpha was found" not in page


def test_what_was_not_calibrated_is_shown_as_it_is(results: dict[str, Any]) -> None:
    results |= {"ranking": [], "pairs": {}, "retention": None}
    for method in results["unlearned"]:
        for key in ("after", "calibration", "at_tau", "intervals"):
            method.pop(key, None)
    table = result_table(results)
    assert table.columns == ("model", "forget ES [95% interval]", "forget ES, paraphrased", "retain ES")
    rows = {row[0]: row[1:] for row in table.rows}
    before = aggregate_of(method_named(results, "gd")["before"], "forget")
    assert rows["gd"][0].startswith(number(before["mean"]))
    assert rows["rmu (diverged)"] == ("—", "—", "—")
    assert summary(results)[0].startswith("Nothing was calibrated")


def test_page_of_another_schema_is_refused(results: dict[str, Any], tmp_path: Path) -> None:
    results["schema"] = 7
    with pytest.raises(UserError, match="schema 7, this version of uwc reads schema 1"):
        write_page(results, {}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_page_needs_no_record_of_the_run(results: dict[str, Any], tmp_path: Path) -> None:
    write_page(results, {}, tmp_path / "report.html")
    assert "Environment" not in (tmp_path / "report.html").read_text(encoding="utf-8").split("plotly.js v")[0]


def test_a_method_has_one_colour_in_all_figures(results: dict[str, Any], tmp_path: Path) -> None:
    styles = method_styles(results)
    assert len({style.colour for style in styles.values()}) == 6 == len(COLOURS)
    paths = [trace for trace in tradeoff_figure(results).data if trace.name not in ("original", "retrained")]
    curves = alpha_figures(results)
    assert set(curves) == {trace.name for trace in paths} == set(styles) - {"rmu"}
    drawn = [(trace.name, trace) for trace in paths] + [(name, t) for name in curves for t in curves[name].data]
    for name, trace in drawn:
        used = {trace.line.color, trace.marker.color, trace.marker.line.color}
        assert used - {None, "#ffffff"} == {styles[name].colour}
    page = page_of(results, tmp_path)
    assert all(f'style="background: {styles[name].colour}"></span>{name}' in page for name in styles)


def test_many_methods_are_told_apart_by_colour_and_symbol(results: dict[str, Any]) -> None:
    results["unlearned"] = [{**results["unlearned"][0], "name": f"m{i}"} for i in range(40)]
    assert len(set(method_styles(results).values())) == 40


def test_tradeoff_shows_before_after_and_threshold(results: dict[str, Any]) -> None:
    figure = tradeoff_figure(results)
    line, before, after = (trace for trace in figure.data if trace.name == "gd")
    assert (line.x, line.y) == ((0.81, 0.934), (0.0, 0.131))
    assert (before.x, before.y, before.marker.color) == ((0.81,), (0.0,), "#ffffff")
    assert (after.x, after.y, after.marker.color) == ((0.934,), (0.131,), "#0072B2")
    assert [trace.showlegend for trace in (line, before, after)] == [False, False, True]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.931]
    assert any("Lower right is better" in note.text for note in figure.layout.annotations)


def test_the_calibrated_interval_in_the_figure_is_that_of_the_tables(results: dict[str, Any]) -> None:
    """0.131, with 0.031 to 0.931 when alpha is found anew in each draw."""
    method_named(results, "gd")["intervals"]["forget"] = [0.031, 0.931]
    *_, after = (trace for trace in tradeoff_figure(results).data if trace.name == "gd")
    assert "forget 0.131 [0.031, 0.931]" in after.text[0]
    bar = next(trace for trace in ranking_figure(results).data if trace.name == "gd")
    assert bar.x == (0.131,) and bar.error_x.array == pytest.approx((0.8,))
    assert bar.error_x.arrayminus == pytest.approx((0.1,))


def test_the_ranking_is_drawn_best_on_top_between_the_original_and_retrained(results: dict[str, Any]) -> None:
    figure = ranking_figure(results)
    assert [trace.y[0] for trace in figure.data] == results["ranking"]
    assert figure.layout.yaxis.autorange == "reversed"  # the first row is the uppermost
    lines = {note.text: shape.x0 for note, shape in zip(figure.layout.annotations, figure.layout.shapes, strict=True)}
    assert lines == {name: reference_scores(results, name)["forget"]["extraction_strength"]["mean"] for name in lines}
    assert set(lines) == {model["name"] for model in results["models"]}


def test_a_model_without_an_interval_has_no_bar_and_without_a_ranking_there_is_no_figure(
    results: dict[str, Any],
) -> None:
    method_named(results, "gd")["intervals"]["forget"] = [None, None]
    assert next(trace for trace in ranking_figure(results).data if trace.name == "gd").error_x.array is None
    assert ranking_figure({**results, "ranking": []}) is None


def test_alpha_figure_sorts_the_probes_and_marks_the_choice(results: dict[str, Any]) -> None:
    figure = alpha_figures(results)["gd"]
    assert figure.data[0].x == (0.0, 0.381, 0.762, 1.0)
    assert [probe["alpha"] for probe in calibration("gd")["trace"]] == [0.0, 1.0, 0.381, 0.762]
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(0, 0.931), (0.762, 0)]
