"""The report of a study with its answers in Chromium: no request, no text that becomes code, no finding of axe."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.browser.conftest import require_no_injected_script
from tests.helpers.answers_frame import answers_frame
from tests.helpers.results_factory import attacked_results, run_record, study_results
from tests.unit.reports.test_page_injection import EVIL, spoiled

from uwc.paths import renamed
from uwc.reports.page import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
RESULTS = {"study": study_results, "attacks": attacked_results}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name, make in RESULTS.items():
        write_page(make(), run_record(), folder / f"{name}.html", answers=answers_frame())
        evil = renamed(run_record(), lambda text: text + EVIL)
        answers = answers_frame().map(lambda value: value + EVIL if isinstance(value, str) and value else value)
        write_page(spoiled(make()), evil, folder / f"{name}-evil.html", answers=answers)
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize(("name", "scheme"), [("study", "dark"), ("attacks", "light")])
def test_axe_finds_nothing(opened: Open, reports: dict[str, Path], name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(reports[name], color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    found = axe.run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []


@pytest.mark.parametrize("name", RESULTS)
def test_a_phone_scrolls_in_one_direction(opened: Open, reports: dict[str, Path], name: str) -> None:
    page = opened(reports[name], viewport={"width": 420, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


@pytest.mark.parametrize("name", RESULTS)
def test_no_text_becomes_markup_or_code(opened: Open, reports: dict[str, Path], name: str) -> None:
    count = "[...document.querySelectorAll('script, img, iframe, object, embed')].map((found) => found.tagName)"
    plain = opened(reports[name]).evaluate(count)
    page = opened(reports[f"{name}-evil"])
    page.locator("#answers-table button.row").first.click()
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert page.evaluate(count) == plain
    assert page.evaluate("[...document.links].filter((link) => link.host == 'evil.example').length") == 0
    assert EVIL.split("\x1b")[0].strip() in page.locator("tr.open dd").first.inner_text()


def test_answers_and_other_parts_share_the_address(opened: Open, reports: dict[str, Path]) -> None:
    page = opened(reports["study"], "#answers?model=rmu&id=q1&set=forget")
    assert page.locator("tr.open").count() == 1
    page.goto(reports["study"].as_uri() + "#nowhere")
    assert page.locator("tr.open").count() == 1, "the address of another part changes nothing"
    page.go_back()
    assert page.locator("#answers-table [name=model]").input_value() == "rmu"
    page.goto(reports["study"].as_uri() + "#nowhere")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement === document.body"), "keys belong to the table only"


def test_an_injected_script_does_not_run(browser: "Browser", reports: dict[str, Path], tmp_path: Path) -> None:
    require_no_injected_script(browser, reports["study"], tmp_path)


def test_tables_are_sorted_with_the_mouse_and_with_keys(opened: Open, reports: dict[str, Path]) -> None:
    page = opened(reports["study"])
    table = page.locator("table.results.sortable")
    first = table.locator("thead th:not(.no-sort)").first

    def names() -> list[str]:
        page.wait_for_timeout(50)  # sorting begins a millisecond after a click
        return [text.split()[0] for text in table.locator("tbody th").all_inner_texts()]

    before = names()
    first.click()
    assert names() in (sorted(before), sorted(before, reverse=True)) and first.get_attribute("aria-sort")
    after = names()
    first.focus()
    page.keyboard.press("Enter")
    assert names() == after[::-1] != before


def test_contents_follow_the_scroll(opened: Open, reports: dict[str, Path]) -> None:
    page = opened(reports["study"])
    page.get_by_role("navigation", name="Contents").get_by_role("link", name="Answers").click()
    page.locator("nav.contents a[aria-current]", has_text="Answers").wait_for()
    assert page.url.endswith("#answers")
    assert page.evaluate("document.querySelector('#answers').getBoundingClientRect().top < innerHeight / 3")
