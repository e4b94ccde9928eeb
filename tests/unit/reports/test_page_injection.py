"""Text in every field of results cannot break a page, Markdown or a terminal."""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console
from tests.helpers.results_factory import attacked_results, run_record, study_results

from uwc.cli.printing import print_warnings
from uwc.metrics.registry import metrics, set_metrics
from uwc.paths import renamed, texts_of
from uwc.reports.format import print_table
from uwc.reports.markdown import results_markdown
from uwc.reports.page import write_page
from uwc.reports.tables import groups_table, ranking_table, result_table
from uwc.results import Role, StudyResults

EVIL = " <script>alert(1)</script><img src=x onerror=y>\x1b]0;t\x07\x9b2J\u202e|`*[a](http://evil.example)\n# b"
KNOWN = {*metrics.names(), *set_metrics.names(), *get_args(Role), "forget", "retain", "retain_eval", "holdout"}
KNOWN |= {
    "ok",
    "diverged",
    "not_finite",
    "arithmetic",
    "geometric",
    "set",
    "difference",
    "ratio",
    "end",
    "scan",
    "refine",
}
KNOWN |= {"study", "comparison", ""}
"""Names that are looked up, and values of a fixed list."""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def spoiled(results: StudyResults) -> StudyResults:
    found: StudyResults = renamed(results, lambda text: text if text in KNOWN else text + EVIL)
    assert sum(EVIL in text for text in texts_of(found)) > 100
    return found


@pytest.mark.parametrize("make", [study_results, attacked_results])
def test_the_page_and_markdown_show_all_text_as_it_is(make: Callable[[], StudyResults], tmp_path: Path) -> None:
    results = spoiled(make())
    write_page(results, renamed(run_record(), lambda text: text + EVIL), tmp_path / "report.html")
    page, markdown = (tmp_path / "report.html").read_text(encoding="utf-8"), results_markdown(results)
    for text in (page, markdown, shown := results._repr_html_()):
        assert "<script>alert" not in text and "<img src=x" not in text
    assert (
        not CONTROL.search(markdown) and "](http://evil" not in markdown.replace("\\](", "") and "\n# b" not in markdown
    )
    drawn = re.sub(r"<script\b.*?</script>", "", page, flags=re.DOTALL)
    assert "alert(1)" in drawn and not CONTROL.search(drawn + shown)


def test_tables_and_warnings_leave_the_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    results, stream = spoiled(study_results()), StringIO()
    for table in (result_table, ranking_table, groups_table):
        print_table(table(results), Console(file=stream, width=100))
    print_warnings(results.warnings)
    for text in (stream.getvalue(), capsys.readouterr().out, repr(results)):
        assert not CONTROL.search(text)
