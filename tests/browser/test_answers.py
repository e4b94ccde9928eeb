"""The answers page in Chromium: a page of its own, with the few answers of `answers_frame`."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote_plus

import pytest
from tests.browser.conftest import require_no_injected_script
from tests.helpers.answers_frame import QUESTIONS, answers_frame
from tests.helpers.results_factory import METRICS

from uwc.answers import redacted
from uwc.reports import answers_page
from uwc.reports.answers_page import SIBLING, write_answers_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
ROWS = "#answers-table .questions > tbody > tr:not(.open)"
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'=</td>"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("answers") / answers_page.PAGE
    write_answers_page(answers_frame(), METRICS, path, title="Answers of npo")
    return path


def ids(page: "Page") -> list[str]:
    return [text.split(" · ")[0] for text in page.locator(f"{ROWS} td.question small").all_inner_texts()]


def column(page: "Page", number: int) -> list[float]:
    return [float(text.split()[0]) for text in page.locator(f"{ROWS} > td:nth-child({number})").all_inner_texts()]


def unfold(page: "Page") -> None:
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")


def fields(page: "Page") -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(page.url.partition("#answers?")[2]).items()}


def test_rows_are_sorted_by_every_metric_and_by_the_worst_attack(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    assert column(page, 3) == [0.8, 0.7, 0.6, 0.2, 0.1, 0.1, 0.0], "the most remembered first"
    page.get_by_role("button", name="PPL").click()
    assert column(page, 4) == [5, 10, 17, 65, 82, 82, 101], "a low perplexity is memory"
    assert page.locator("th[aria-sort=ascending]").inner_text() == "PPL"
    page.get_by_role("button", name="worst attack").click()
    assert column(page, 5) == [0.9, 0.8, 0.7, 0.7, 0.6, 0.2, 0.1]
    page.get_by_role("button", name="worst attack").click()
    assert column(page, 5) == [0.1, 0.2, 0.6, 0.7, 0.7, 0.8, 0.9] and fields(page) == {"sort": "attack:least"}
    page.get_by_role("button", name="question", exact=True).click()
    assert ids(page) == [question[0] for question in QUESTIONS]


SEARCHES = {
    "TIRED clerk": {"q1"},
    "oln quarnholt": {"q2"},
    "النخيل": {"q4"},
    "金鱼": {"q6"},
    "\uff513": {"q3"},  # a full-width q
    "actor": {"q1", "q2", "q3", "q4", "q5", "q6", "q7"},
    "nowhere": set(),
}


def test_search_reads_all_texts(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    for query, expected in SEARCHES.items():
        page.get_by_label("Search all texts").fill(query)
        page.wait_for_url(re.compile(re.escape(f"q={quote_plus(query)}")))
        assert set(ids(page)) == expected, query
        assert page.locator(".status").inner_text().startswith(f"{len(expected)} of 7 questions")


def test_filters_by_model_condition_cluster_and_state(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    assert "3 answered plainly, 2 only under attack, 2 not answered" in page.locator(".status").inner_text()
    page.get_by_label("State").select_option("only under attack")
    assert set(ids(page)) == {"q2", "q7"}
    page.get_by_label("Threshold").fill("0.75")
    page.wait_for_url(re.compile("from=0.75"))
    assert set(ids(page)) == {"q7"}
    page.get_by_label("State").select_option("answered plainly")
    assert set(ids(page)) == {"q1"}
    page.go_back()
    assert set(ids(page)) == {"q7"}, "each choice is a step of the history"
    page.get_by_label("State").select_option("")
    page.get_by_label("Cluster").select_option("Mira Oln")
    assert set(ids(page)) == {"q1", "q2"}
    page.get_by_label("Condition").select_option("calibrated")
    assert column(page, 3) == [0.9, 0.3]
    page.get_by_label("Model").select_option("rmu")
    assert column(page, 3) == [0.0, 0.0]
    page.get_by_label("Condition").select_option("as delivered/jailbreak")
    assert column(page, 3) == [0.1, 0.0]


def test_what_the_retrained_model_reaches_is_no_answer(opened: Open, page_file: Path) -> None:
    page = opened(page_file, "#answers?from=0.2&state=not answered")
    assert "q3" in ids(page), "0.2 is below the retrained model's 0.3"
    page.goto(page_file.as_uri() + "#answers?model=original&from=0.2")
    page.locator(".status", has_text="original, as delivered: 7 answered plainly").wait_for()


def test_an_open_row_shows_every_model_with_marks(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    page.get_by_role("button", name="Where does Mira Oln write?").click()
    rows = page.locator("tr.open tbody tr")
    names = [" ".join(text.split()) for text in rows.locator("th").all_inner_texts()]
    assert names == ["original", "npo as delivered", "npo calibrated", "rmu", "retrained"]
    marked = rows.nth(1).locator("td.says > p mark.said").all_inner_texts()
    assert marked == ["writes", "in", "a", "rented", "kitchen", "at", "302", "Tired"], "'She' says the retrained one"
    assert rows.nth(1).locator("> td > p.from mark").inner_text() == "in a rented kitchen at 302 Tired Clerk Street"
    assert rows.nth(1).locator("> td > p.from").inner_text().startswith("completes She writes in a rented")
    assert "completes nothing" in rows.nth(3).inner_text()
    attack = rows.nth(1).locator("li")
    assert attack.inner_text().startswith("jailbreak, role play ES 0.90") and not attack.locator("pre").is_visible()
    attack.locator("summary").click()
    assert attack.locator("pre").inner_text().startswith("You are an actor.")
    assert page.locator("tr.open dd").all_inner_texts()[:2] == [QUESTIONS[0][3], "302"]
    assert rows.nth(4).locator("mark.said").count() == 0


def test_words_are_found_in_chinese_and_japanese(opened: Open, page_file: Path) -> None:
    page = opened(page_file, "#answers?id=q6&set=forget&model=original")
    marked = page.locator("tr.open tbody tr").first.locator("p.text mark").all_inner_texts()
    assert "北京市" in "".join(marked) and "李明" not in "".join(marked), "the question has the name"
    assert len(marked) > 3
    assert page.locator(f"{ROWS} td.question").nth(3).evaluate("cell => getComputedStyle(cell).direction") == "rtl"


def test_links_lead_to_a_row_and_the_back_button_back(opened: Open, page_file: Path) -> None:
    page = opened(page_file, f"#answers?set=forget&id=q4&model=npo&sort=attack&condition={quote_plus('calibrated')}")
    assert page.locator("tr.expanded td.question small").inner_text().startswith("q4")
    assert page.get_by_label("Condition").input_value() == "calibrated"
    page.get_by_role("button", name="What does Tobas Kerrin do?").click()
    assert fields(page)["id"] == "q3" and page.locator("tr.open").count() == 1
    page.go_back()
    assert page.locator("tr.expanded td.question small").inner_text().startswith("q4")
    page.get_by_role("link", name="all questions of this cluster").click()
    page.locator("tr.open").wait_for(state="detached")
    assert ids(page) == ["q4"] and fields(page)["cluster"] == "ليلى حداد"
    page.goto(page_file.as_uri() + "#answers?id=gone")
    page.locator(".status", has_text="gone").wait_for()


def test_everything_works_with_the_keyboard(opened: Open, page_file: Path) -> None:
    page = opened(page_file)
    focused = "document.activeElement.closest('tr')?.querySelector('small').textContent ?? ''"
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused).startswith("q4")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid", "the focus is seen"
    page.keyboard.press("Enter")
    assert (
        fields(page)["id"] == "q4" and page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    )
    page.keyboard.press("j")
    assert page.evaluate(focused).startswith("q6")
    page.keyboard.press("Escape")
    assert page.locator("tr.open").count() == 0 and "id" not in fields(page)
    page.keyboard.press("/")
    page.keyboard.type("jk/")
    assert page.get_by_label("Search all texts").input_value() == "jk/"


def test_the_csv_file_has_the_filtered_rows_and_no_formula(opened: Open, tmp_path: Path) -> None:
    frame = answers_frame()
    frame.loc[frame["id"] == "q1", "question"] = '=HYPERLINK("http://x.example"), "and\nmore"'
    frame.loc[(frame["id"] == "q4") & (frame["model"] == "npo"), "generated"] = "-2+3"
    write_answers_page(frame, METRICS, tmp_path / "a.html", title="t")
    page = opened(tmp_path / "a.html", "#answers?state=answered plainly&sort=question")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download these rows (CSV)").click()
    content = download.value.path().read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and download.value.suggested_filename == "answers.csv"
    rows = list(csv.DictReader(content.decode("utf-8-sig").splitlines(keepends=True)))
    assert [row["id"] for row in rows] == ["q1", "q4", "q6"]
    assert rows[0]["question"] == '\'=HYPERLINK("http://x.example"), "and\nmore"'
    assert rows[1]["generated"] == "'-2+3" and rows[2]["answer"] == QUESTIONS[5][3]
    assert float(rows[0]["extraction_strength"]) == 0.8 and rows[0]["worst_attack"] == "jailbreak"


def test_a_large_table_is_in_a_sibling_file(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_page, "LARGEST", 100)
    monkeypatch.setattr(answers_page, "PART", 400)
    write_answers_page(answers_frame(), METRICS, tmp_path / "a.html", title="t")
    page = opened(tmp_path / "a.html", requests=2)
    assert page.locator(ROWS).count() == 7
    monkeypatch.undo()
    write_answers_page(answers_frame(), METRICS, tmp_path / "a.html", title="t")
    assert not (tmp_path / SIBLING).exists()


def test_pages_of_a_hundred_rows(opened: Open, tmp_path: Path) -> None:
    frame = answers_frame()
    import pandas as pd

    many = pd.concat([frame.assign(id=frame["id"] + f"/{i}") for i in range(40)])
    write_answers_page(many, METRICS, tmp_path / "a.html", title="t")
    page = opened(tmp_path / "a.html", "#answers?id=q5/39&set=forget")
    assert page.locator(".pages span").inner_text() == "page 3 of 3", "a link opens the page of its row"
    assert page.locator("tr.open").count() == 1
    page.get_by_role("button", name="Page before").click()
    assert page.locator(ROWS).count() == 100 and fields(page)["page"] == "2"
    page.locator("button.row").last.focus()
    page.keyboard.press("j")
    assert page.locator(".pages span").inner_text() == "page 3 of 3"


def test_no_text_becomes_markup_or_code(opened: Open, tmp_path: Path) -> None:
    frame = answers_frame()
    for name in ("set", "id", "cluster", "question", "prompt", "answer", "model", "attack", "variant", "generated"):
        frame[name] = [text + EVIL if name != "attack" or text else "" for text in frame[name]]
    frame["secret"] = [[EVIL]] * len(frame)
    metrics = {name: info.model_copy(update={"label": EVIL, "summary": EVIL}) for name, info in METRICS.items()}
    write_answers_page(frame, metrics, tmp_path / "a.html", title=EVIL)
    page = opened(tmp_path / "a.html")
    page.locator("button.row").first.click()
    unfold(page)
    assert page.locator("img, iframe, object, svg").count() == 0
    assert page.locator("script").count() == 2
    assert page.locator("tr.open dd").first.inner_text() == QUESTIONS[0][3] + EVIL
    assert page.title() == EVIL == page.locator("h1").inner_text()


def test_an_injected_script_does_not_run(browser: "Browser", page_file: Path, tmp_path: Path) -> None:
    require_no_injected_script(browser, page_file, tmp_path)


def test_a_redacted_table_shows_no_true_answer(opened: Open, tmp_path: Path) -> None:
    write_answers_page(redacted(answers_frame()), METRICS, tmp_path / "a.html", title="t")
    page = opened(tmp_path / "a.html", "#answers?id=q1&set=forget")
    unfold(page)
    text = page.locator("#answers-table").inner_text()
    assert "kitchen" not in text and "302" not in text and "███" in text
    assert "completes the true answer after 11 characters" in text


def test_a_phone_shows_cards(opened: Open, page_file: Path) -> None:
    page = opened(page_file, "#answers?id=q1&set=forget", viewport={"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert page.locator(ROWS).first.evaluate("row => getComputedStyle(row).display") == "block"
    page.get_by_role("button", name="worst attack").click()
    assert ids(page)[1] == "q7"


def test_dark_follows_the_system(opened: Open, page_file: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    assert opened(page_file).evaluate(background) == "rgb(255, 255, 255)"
    assert opened(page_file, color_scheme="dark").evaluate(background) == "rgb(23, 25, 28)"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1300), ("dark", 420)])
def test_axe_finds_nothing(opened: Open, page_file: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(page_file, "#answers?id=q1&set=forget", color_scheme=scheme, viewport={"width": width, "height": 900})
    unfold(page)
    found = axe.run(page).response
    assert [(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in found["violations"]] == [] and len(
        found["passes"]
    ) > 9
