"""The page to sign: its content for every kind of check, worst answers, redaction, and any text."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.helpers.answers_frame import QUESTIONS, answers_frame
from tests.helpers.check_factory import SHA, check_results, requirement, with_change
from tests.helpers.results_factory import METRICS, PPL
from tests.unit.reports.test_check_markdown import KEPT
from tests.unit.reports.test_page_injection import CONTROL, EVIL

from uwc.answers import MARK
from uwc.paths import renamed
from uwc.reports import signoff
from uwc.reports.signoff import fitted, signoff_page, write_signoff
from uwc.results import CheckedSystem, CheckResults, Estimate


def shown(page: str) -> str:
    """The words of a page."""
    body = page[page.index("<body>") :]
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


def rows(page: str) -> list[list[str]]:
    """Question, what was said, true answer and score of the worst answers."""
    found = re.search(r'<table class="answers">.*?</table>', page, re.DOTALL)
    body = found[0].partition("<tbody>")[2] if found else ""
    lines = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [
        [" ".join(re.sub(r"<[^>]*>", "", cell).split()) for cell in re.findall(r"<td.*?</td>", line, re.DOTALL)]
        for line in lines
    ]


def test_it_says_what_was_checked_and_what_was_found() -> None:
    words = shown(signoff_page(check_results(), answers=answers_frame()))
    assert "Has this model forgotten?" in words and "Fail" in words
    for text in (
        "out/npo",
        f"model.safetensors {SHA[:12]}",
        "forget.csv",
        "120 questions, 10 subjects",
        "216 questions",
    ):
        assert text in words
    assert "3 of 123 lines of forget.csv (line 7: no answer)" in words
    for status in ("met", "violated", "undecided", "left out"):
        assert f" {status} " in words
    for text in ("0.400 [0.300, 0.500]", "≤ 0.1", "≥ 0.9", "31,700 [900, 1.20e+06]", "needs ~24 subjects", "3 of 40"):
        assert text in words
    for text in (
        "Collapsed as delivered",
        "jailbreak and relearn",
        "uwc check out/npo",
        "torch 2.8.0",
        "signature",
        "date",
    ):
        assert text in words


def test_without_any_requirement_that_could_be_checked_nothing_is_met() -> None:
    words = shown(signoff_page(check_results(requirement(status="left out"), outcome="undecided")))
    assert "No requirement could be checked" in words and "all 0" not in words


@pytest.mark.parametrize("outcome", ["pass", "fail", "undecided"])
def test_the_verdict_is_a_word(outcome: str) -> None:
    page = signoff_page(check_results(requirement(), outcome=outcome))
    assert outcome.capitalize() in shown(page) and f"verdict {outcome}" in page
    assert "the requirement is met" in shown(page).lower()


def test_worst_answers_are_those_of_the_checked_model_under_attack_too() -> None:
    found = rows(signoff_page(check_results(), answers=answers_frame()))
    assert [row[3] for row in found] == ["0.900", "0.800", "0.700", "0.700", "0.600", "0.200", "0.100"]
    assert found[0][0] == QUESTIONS[0][2] and found[0][1].startswith("under jailbreak, role play: She writes")
    assert found[2][1] == "under jailbreak, role play: At the Sketter school in"
    assert found[3][0] == QUESTIONS[3][2] and not found[3][1].startswith("under"), "of equal ones the plain one"


def test_an_attack_that_trains_on_the_questions_shows_nothing_and_a_low_perplexity_is_memory() -> None:
    frame = answers_frame()
    frame["attack"] = frame["attack"].replace("jailbreak", "relearn")
    assert [row[3] for row in rows(signoff_page(check_results(), answers=frame))][:2] == ["0.800", "0.700"]
    by_ppl = check_results(requirement(metric=PPL, relative_to=None))
    scores = [row[3] for row in rows(signoff_page(by_ppl, answers=answers_frame()))]
    assert scores == ["2.00", "5.00", "10.0", "10.0", "17.0", "65.0", "82.0"], "the least perplexity first"


def test_at_most_ten_answers_and_words_that_leak_are_marked() -> None:
    many = pd.concat([answers_frame().assign(id=f"{i}") for i in range(30)])
    assert len(rows(signoff_page(check_results(), answers=many))) == 10
    page = signoff_page(check_results(), answers=answers_frame())
    assert "<mark>She writes in a rented kitchen at 302 Tired Clerk</mark>" in page
    assert "<b>Street</b>" not in page and "<b>She writes" not in page


@pytest.mark.parametrize(
    "table",
    [
        None,
        answers_frame().iloc[:0],
        answers_frame().assign(role="original"),
        answers_frame().drop(columns=["extraction_strength", "perplexity"]),
    ],
)
def test_without_answers_the_page_says_so(table: Any) -> None:
    page = signoff_page(check_results(), answers=table)
    assert rows(page) == [] and "Answers" in shown(page) and "What this does not show" in shown(page)


def test_redaction_hides_answers_and_secrets() -> None:
    page = signoff_page(check_results(), answers=answers_frame(), redact=True)
    words = shown(page)
    assert "302" not in words and "Tired" not in words and "kitchen" not in words
    assert MARK in words and "sha256:" in words


def test_a_change_for_the_worse_is_seen() -> None:
    words = shown(signoff_page(check_results(with_change(requirement(), worse=True), baseline="old.json")))
    assert " worse " in words and "significantly worse than in the baseline" in words


def test_texts_and_servers_have_their_own_limits() -> None:
    found = {}
    for kind in ("checkpoint", "texts", "endpoint"):
        model = CheckedSystem(source="http://localhost:8000", kind=kind)
        found[kind] = shown(signoff_page(check_results(model=model, original=None, retrained=None, attacks=())))
    assert "No attack was tried" in found["texts"] and "never saw the data" in found["texts"]
    assert len({words.partition("What this does not show")[2] for words in found.values()}) == 3


def test_numbers_that_are_missing_or_far_apart_are_drawn() -> None:
    nothing = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    numbers = [nothing, Estimate(value=0.0, low=0.0, high=0.0), Estimate(value=-3, low=-50, high=0.01)]
    numbers += [Estimate(value=1e-9, low=float("nan"), high=float("nan")), Estimate(value=1e30, low=1e-30, high=1e38)]
    numbers += [Estimate(value=0.5, low=float("-inf"), high=float("inf"))]
    found = [requirement(f"r{i}", value=number, metric=m) for i, number in enumerate(numbers) for m in METRICS]
    found += [requirement("zero", bound=0, value=numbers[1]), requirement("low", bound=-0.5, direction="at_least")]
    for some in found:
        page = signoff_page(check_results(some))
        drawn = page[page.index('<span class="chart') : page.index("</tbody>", page.index('<span class="chart'))]
        assert not re.search(r'(?:[xy]|cx|width|d)="[^"]*(?:nan|inf)', drawn)
        assert all(-2 <= float(x) <= 102 for x in re.findall(r'(?:cx|x)="([-\d.e]+)"', drawn))


def test_no_text_becomes_markup() -> None:
    evil: CheckResults = renamed(check_results(), lambda text: text if text in KEPT else text + EVIL)
    answers = answers_frame().map(lambda value: value + EVIL if isinstance(value, str) and value else value)
    for name in ("role", "set", "condition"):
        answers[name] = answers_frame()[name]
    page = signoff_page(evil, answers=answers.assign(model="npo"))
    assert "<script" not in page and "<img" not in page and not CONTROL.search(page)
    assert "&lt;script&gt;alert(1)" in page and len(rows(page)) == 7


@pytest.mark.parametrize(
    ("text", "width", "most", "expected", "lines"),
    [
        ("abc", 20, 2, "abc", 1),
        ("a" * 30, 20, 2, "a" * 30, 2),
        ("a" * 100, 20, 2, "a" * 33 + "…", 2),
        ("漢" * 100, 20, 1, "漢" * 8 + "…", 1),
        ("a\nb\tc", 20, 1, "a b c", 1),
        ("", 20, 3, "", 1),
    ],
)
def test_texts_are_cut_to_their_lines(text: str, width: float, most: int, expected: str, lines: int) -> None:
    found = fitted(text, width, most)
    assert "".join(piece for piece, _ in found.pieces) == expected and found.lines == lines


def test_marks_are_kept_where_a_text_is_cut() -> None:
    assert fitted("one two three", 40, 1, [(4, 7)]).pieces == (("one ", False), ("two", True), (" three", False))
    assert fitted("one two three", 11, 1, [(4, 13)]).pieces == (("one ", False), ("two…", True))


def test_files_are_written_and_the_same_check_gives_the_same_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(page: Path, path: Path) -> bool:
        path.write_bytes(b"%PDF")
        return True

    monkeypatch.setattr(signoff, "write_pdf", lambda page, path: False)
    folder = tmp_path / "new" / "folder"
    assert write_signoff(check_results(), folder, answers=answers_frame()) == [folder / "signoff.html"]
    first = (folder / "signoff.html").read_bytes()
    monkeypatch.setattr(signoff, "write_pdf", printed)
    assert write_signoff(check_results(), folder, answers=answers_frame()) == [
        folder / "signoff.html",
        folder / "signoff.pdf",
    ]
    assert (folder / "signoff.html").read_bytes() == first
