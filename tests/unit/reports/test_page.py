"""The HTML page: its numbers and sections, nothing from the network, names escaped."""

import re
from pathlib import Path

import pytest
from tests.helpers.results_factory import (
    SET_METRIC,
    attacked_results,
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
from uwc.reports.tables import methods_table, metrics_table, result_table, settings_table
from uwc.results import RunRecord, Score, StudyResults, Warning

SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)


def markup(results: StudyResults, folder: Path, run: RunRecord | None = None) -> str:
    """The page, without the content of its scripts."""
    write_page(results, run or run_record(), folder / "new" / "report.html")
    return SCRIPT.sub("", (folder / "new" / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the made-up study, with its scripts."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(study_results(), run_record(), path)
    return path.read_text(encoding="utf-8")


def headings(page: str, level: int = 2) -> list[str]:
    return re.findall(rf'<h{level} id=".*?"><a href="#.*?">(.*?)</a></h{level}>', page)


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


def test_page_has_the_numbers_and_the_sections(page: str) -> None:
    for cells in result_table(study_results()).rows:
        for cell in cells:
            assert cell.replace(", ", ",\u00a0") in page
    facts = ("984,192 parameters", "3f1c0de5", "the holdout set is small", "0 to 1", "1 and up", "3.11.9", "def456")
    assert [text for text in facts if text not in page] == []
    assert 'data-code="small-set"' in page
    titles = headings(page)
    assert titles[:4] == ["Warnings", "Setup", "Results", "Ranking"] and "All scores" in titles
    assert not [title for title in titles if title.startswith("What")]
    assert '<a href="https://arxiv.org/abs/2012.07805">' in page
    assert "&#34;tau&#34;: 0.95" in page


def test_page_needs_no_network(page: str) -> None:
    without = SCRIPT.sub("", page)
    assert not re.search(r"<(link|img|iframe|script)\b", without)
    assert not re.search(r"url\((?!#)|@import", without)
    assert not re.search(r"<script\b[^>]*\bsrc=", page)


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
    titles = headings(page)
    assert not {"Ranking", "Search for alpha", "Frontier", "Tau curve"} & set(titles)
    assert "Warnings" not in titles


def test_an_uncalibrated_study_is_shown_as_delivered(tmp_path: Path) -> None:
    results = uncalibrated(study_results())
    rows = columns_of(result_table(results))
    assert rows["gd"] == {
        "model": "gd\n(collapsed)",
        "forget ES": "0.000\n[0.000, 0.050]",
        "retain ES": "0.810\n[0.760, 0.860]",
    }
    assert list(rows["rmu"].values())[1:] == [MISSING] * 2
    assert "Ranking" not in headings(markup(results, tmp_path))


def test_page_needs_no_record_of_the_run(tmp_path: Path) -> None:
    page = markup(study_results(), tmp_path, RunRecord())
    assert "Environment" not in page and "UTC" not in page


def test_a_row_has_the_colour_of_its_model_in_figures(page: str) -> None:
    styles = model_styles(study_results())
    assert all(f'style="background: {styles[name].colour}"></span>{name}' in page for name in styles)


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(page: str, tmp_path: Path) -> None:
    write_page(study_results(), run_record(), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_the_page_has_the_dates_of_the_run_and_a_link_to_the_numbers(page: str) -> None:
    assert "2026-11-26 20:40 to 20:51 UTC" in page and '<a href="results.json">' in page


@pytest.mark.slow
def test_every_heading_is_linked_and_sections_are_in_the_contents(tmp_path: Path) -> None:
    page = markup(attacked_results(), tmp_path)
    assert len(headings(page)) == page.count("<h2") and len(headings(page, 3)) == page.count("<h3")
    ids = re.findall(r'<h[23] id="(.*?)"><a href="#(.*?)">', page)
    assert len({first for first, _ in ids}) == len(ids) and all(first == second for first, second in ids)
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'<a href="#.*?">(.*?)</a>', contents) == headings(page)
    every = re.findall(r'\bid="(.*?)"', page)
    assert len(set(every)) == len(every)


def test_numbers_are_sorted_by_value_and_cells_have_the_names_of_their_columns(page: str) -> None:
    assert '<td data-label="retention" class="number" data-sort="0.950">' in page
    assert 'data-label="time" class="number" data-sort="125"' in page, "2 min 05 s"
    assert len(re.findall("<table", page)) == len(re.findall('<table class="sortable', page)) > 5


def test_tables_are_by_rank() -> None:
    results = study_results()
    for table in (methods_table(results), settings_table(results)):
        assert [row[0] for row in table.rows] == [*results.ranking, "rmu"]


@pytest.mark.slow
def test_figures_of_single_methods_are_chosen_by_name_where_there_are_many(page: str, tmp_path: Path) -> None:
    results, found = study_results(), study_results().run("gd").calibration
    assert "data-choice" not in SCRIPT.sub("", page)
    more = [unlearned(f"m{i}", calibration=found) for i in range(8)]
    page = markup(changed(results, unlearned=[*results.unlearned, *more]), tmp_path)
    assert page.count("data-choice") == 1 and page.count('<div data-name="m') == 8
