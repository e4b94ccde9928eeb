"""The check as Markdown: its parts, and that no text breaks a table, a list or a block of code."""

import re

import pytest
from tests.helpers.check_factory import SHA, check_results, requirement, with_change
from tests.unit.reports.test_page_injection import CONTROL, EVIL, KNOWN

from uwc.paths import renamed
from uwc.reports.check_markdown import check_markdown
from uwc.results import CheckResults

KEPT = {*KNOWN, "met", "violated", "undecided", "left out", "pass", "fail", "mean", "at_most", "at_least", "original"}
KEPT |= {"retrained", "control", "checkpoint", "check.json"}


def tables(markdown: str) -> list[list[list[str]]]:
    """The cells of each table, as a reader of GitHub's Markdown splits them."""
    found: list[list[list[str]]] = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found = [*found[:-1], [*found[-1], cells]] if inside else [*found, [cells]]
        inside = line.startswith("|")
    return found


def test_the_verdict_comes_first_and_each_requirement_has_a_row() -> None:
    markdown = check_markdown(check_results())
    assert markdown.splitlines()[0].endswith("Fail: policy standard")
    head, _, *rows = tables(markdown)[0]
    assert head == ["requirement", "status", "number [interval]", "bound", "clusters", "clusters needed"]
    assert [row[0].split(":")[0] for row in rows] == [
        *("forgotten", "under-jailbreak", "retained", "secrets", "perplexity"),
    ]
    assert [row[1].split()[1].rstrip(":") for row in rows] == ["met", "violated", "undecided", "left", "met"]
    assert rows[1][2:5] == ["0.400 [0.300, 0.500]", "≤ 0.1", "10"]
    assert rows[2][5] == "about 24" and rows[3][2] == "—"
    assert rows[4][2] == "31,700 [900, 1.20e+06]", "a geometric average has three digits"


def test_data_models_warnings_and_the_command_are_there() -> None:
    results = check_results()
    markdown = check_markdown(results)
    assert tables(markdown)[1][2:] == [
        ["forget", "120", "10", "forget.csv", SHA[:12]],
        ["retain", "216", "18", "retain.csv", SHA[:12]],
    ]
    for text in (results.warnings[0].text, f"model.safetensors {SHA[:12]}", "3 of 40", "torch 2.8.0"):
        assert text in markdown
    assert f"```bash\n{results.command}\n```" in markdown


def test_changes_since_the_baseline_are_a_column() -> None:
    ppl = check_results().verdict.requirements[-1]
    results = check_results(
        with_change(requirement(), worse=True), with_change(ppl, worse=False, by=0.5), baseline="old/check.json"
    )
    head, _, first, second = tables(check_markdown(results))[0]
    assert head[-1].startswith("worse")
    assert first[-1].startswith("+0.200 [+0.100, +0.300]") and "baseline" in first[1]
    assert second[-1] == "x 1.65 [1.49, 1.82]", "of a logarithm of a ratio the ratio"
    assert "significantly worse" in check_markdown(results)


@pytest.mark.parametrize("outcome", ["pass", "fail", "undecided"])
def test_outcomes_differ_by_a_word(outcome: str) -> None:
    assert outcome.capitalize() in check_markdown(check_results(outcome=outcome)).splitlines()[0]


def test_no_text_breaks_out_of_its_place() -> None:
    plain = check_results()
    evil: CheckResults = renamed(plain, lambda text: text if text in KEPT else text + EVIL + "\n```\n| x |")
    markdown, blocks = re.subn(r"^(`{3,})bash\n.*?\n\1\n", "", check_markdown(evil), flags=re.DOTALL | re.MULTILINE)
    shape = [[len(row) for row in table] for table in tables(check_markdown(plain))]
    assert blocks == 1 and [[len(row) for row in table] for table in tables(markdown)] == shape
    assert not CONTROL.search(markdown) and "\n# b" not in markdown and "\n```" not in markdown
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)
    assert "<script>" not in outside and "<img" not in outside
