"""The HTML page: its numbers and sections, nothing from the network, names escaped."""

import re
from pathlib import Path

from tests.helpers.results_factory import (
    SET_METRIC,
    changed,
    changed_run,
    columns_of,
    run_record,
    study_results,
    uncalibrated,
    unlearned,
)

from uwc.reports.figures import model_styles
from uwc.reports.format import (
    MISSING,
)
from uwc.reports.page import write_page
from uwc.reports.tables import metrics_table, result_table
from uwc.results import RunRecord, Score, StudyResults, Warning

SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)


def markup(results: StudyResults, folder: Path, run: RunRecord | None = None) -> str:
    """The page, without the content of its scripts."""
    write_page(results, run or run_record(), folder / "new" / "report.html")
    return SCRIPT.sub("", (folder / "new" / "report.html").read_text(encoding="utf-8"))


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
    assert not re.search(r"url\((?!#)|@import", without)
    assert not re.search(r"<script\b[^>]*\bsrc=", text)


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


def test_page_of_a_study_with_only_a_diverged_method(tmp_path: Path) -> None:
    results = study_results(unlearned=[unlearned("rmu")], ranking=(), pairs={}, warnings=())
    page = markup(changed(results, references=results.references[:1]), tmp_path)
    assert "rmu\n(diverged)" in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert not {"Ranking", "Search for alpha", "Frontier", "Tau curve"} & set(titles)
    assert "Warnings" not in page


def test_an_uncalibrated_study_is_shown_as_delivered(tmp_path: Path) -> None:
    results = uncalibrated(study_results())
    rows = columns_of(result_table(results))
    assert rows["gd"] == {
        "model": "gd\n(collapsed)",
        "forget ES": "0.000\n[0.000, 0.050]",
        "retain ES": "0.810\n[0.760, 0.860]",
    }
    assert list(rows["rmu"].values())[1:] == [MISSING] * 2
    assert "Ranking" not in re.findall(r"<h2>(.*?)</h2>", markup(results, tmp_path))


def test_page_needs_no_record_of_the_run(tmp_path: Path) -> None:
    assert "Environment" not in markup(study_results(), tmp_path, RunRecord())


def test_a_row_has_the_colour_of_its_model_in_figures(tmp_path: Path) -> None:
    page, styles = markup(study_results(), tmp_path), model_styles(study_results())
    assert all(f'style="background: {styles[name].colour}"></span>{name}' in page for name in styles)
