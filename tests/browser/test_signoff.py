"""The page to sign in Chromium: one A4 page in print, light and dark, a phone, and no text that becomes code."""

import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from tests.helpers.answers_frame import answers_frame
from tests.helpers.check_factory import SHA, check_results, requirement, with_change
from tests.unit.reports.test_check_markdown import KEPT
from tests.unit.reports.test_page_injection import EVIL

from uwc.paths import renamed
from uwc.reports.pdf import BROWSERS
from uwc.reports.signoff import signoff_page, write_signoff
from uwc.results import CheckedSet, CheckedSystem, CheckResults, Warning

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
A4 = (594.96, 841.92)


def long_check() -> CheckResults:
    """As much as a page may have to hold: twelve requirements and long texts everywhere."""
    text = "the worst of its variants for each question, minus the retrained model's under the same attack, " * 3
    found = [
        requirement(
            f"a-requirement-with-a-long-name-{i}",
            ("met", "violated", "undecided", "left out")[i % 4],
            text=text,
            reason=text if i % 4 > 1 else "",
            cluster="Somebody with a very long name " * 3,
            clusters_needed=240 if i % 4 == 2 else None,
        )
        for i in range(12)
    ]
    found[0] = with_change(found[0], worse=True)
    sets = {
        f"set{i}": CheckedSet(label=text, examples=100_000, clusters=20_000, file="/path" * 90, file_sha256=SHA)
        for i in range(9)
    }
    return check_results(
        *found,
        model=CheckedSystem(source="/a/long/path" * 40, files={f"model-{i:05}.safetensors": SHA for i in range(99)}),
        sets=sets | {"forget": CheckedSet(label="forget", examples=1)},
        retrained=None,
        warnings=tuple(Warning(code=f"w{i}", text="A warning that goes on. " * 40) for i in range(9)),
        command="uwc check " + "--option a/long/path " * 90,
        environment={f"library{i}": "1.2.3" for i in range(90)},
        baseline="check.json",
    )


def long_answers() -> "pd.DataFrame":
    frame = pd.concat([answers_frame().assign(id=str(i)) for i in range(20)])
    for name in ("question", "answer", "generated", "variant"):
        frame[name] = [text + " and more words, 漢字漢字 WWWWWWWW" * 9 if text else "" for text in frame[name]]
    return frame


def evil_page() -> str:
    answers = answers_frame().map(lambda value: value + EVIL if isinstance(value, str) and value else value)
    for name in ("role", "set", "condition"):
        answers[name] = answers_frame()[name]
    evil = renamed(check_results(), lambda text: text if text in KEPT else text + EVIL)
    return signoff_page(evil, answers=answers.assign(model="npo"))


PAGES = {
    "usual": lambda: signoff_page(check_results(), answers=answers_frame()),
    "short": lambda: signoff_page(check_results(requirement(), outcome="pass", warnings=())),
    "long": lambda: signoff_page(long_check(), answers=long_answers()),
    "redacted": lambda: signoff_page(check_results(), answers=answers_frame(), redact=True),
    "evil": evil_page,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signoff")
    for name, page in PAGES.items():
        (folder / f"{name}.html").write_text(page(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(browser: "Browser") -> "Page":
    """A page without a network, with what happened on it in ``faults``."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, offline=True)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("dialog", lambda dialog: (faults.append("dialog"), dialog.dismiss()))
    opened.on("pageerror", lambda error: faults.append(f"error: {error}"))
    opened.on("console", lambda message: message.type == "error" and faults.append(message.text))
    opened.on("request", lambda request: request.url.endswith(".html") or faults.append(request.url))
    opened.faults = faults  # type: ignore[attr-defined]
    yield opened
    context.close()
    assert faults == []


@pytest.mark.parametrize("name", PAGES)
def test_it_prints_on_one_a4_page(page: "Page", folder: Path, name: str) -> None:
    page.goto((folder / f"{name}.html").as_uri())
    printed = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1
    (box,) = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", printed)
    assert tuple(map(float, box)) == pytest.approx(A4, abs=1)


@pytest.mark.usefixtures("browsers")
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="there is no browser on the path")
def test_a_browser_of_the_machine_prints_the_same(tmp_path: Path) -> None:
    written = write_signoff(long_check(), tmp_path, answers=long_answers())
    assert [path.name for path in written] == ["signoff.html", "signoff.pdf"]
    assert len(re.findall(rb"/Type\s*/Page\b", written[1].read_bytes())) == 1


@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_over_in_print(page: "Page", folder: Path, name: str) -> None:
    page.set_viewport_size({"width": 703, "height": 1054})  # the printed part of A4 at 96 dots an inch
    page.emulate_media(media="print")
    page.goto((folder / f"{name}.html").as_uri())
    measure = "[...document.querySelectorAll('main > *')].map((part) => part.getBoundingClientRect())"
    boxes = page.evaluate(f"{measure}.map((box) => [box.top, box.bottom])")
    assert all(below[0] >= above[1] - 0.5 for above, below in pairwise(boxes))
    assert boxes[-1][1] <= 1054
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    size = page.evaluate("getComputedStyle(document.body).fontSize")
    assert float(size.removesuffix("px")) >= 8, "6 points"
    page.emulate_media(media=None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page: "Page", folder: Path, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.set_viewport_size({"width": 1300, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto((folder / "usual.html").as_uri())
    found = axe.run(page).response["violations"]
    assert [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found] == []


@pytest.mark.parametrize("name", ["usual", "long"])
def test_a_phone_scrolls_in_one_direction(page: "Page", folder: Path, name: str) -> None:
    page.set_viewport_size({"width": 420, "height": 800})
    page.goto((folder / f"{name}.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_no_text_becomes_markup_or_code(page: "Page", folder: Path) -> None:
    tags = "[...document.querySelectorAll('main *, script')].map((found) => found.tagName)"
    count = f"{tags}.filter((tag) => !['B', 'I', 'MARK'].includes(tag))"
    page.goto((folder / "usual.html").as_uri())
    plain = page.evaluate(count)
    page.goto((folder / "evil.html").as_uri())
    assert page.evaluate(count) == plain
    assert page.evaluate("document.links.length") == 0 and page.evaluate("document.images.length") == 0


def test_an_injected_script_does_not_run(browser: "Browser", folder: Path) -> None:
    text = (folder / "usual.html").read_text(encoding="utf-8")
    broken = text.replace("<main>", "<main><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>")
    assert broken != text
    (folder / "changed.html").write_text(broken, encoding="utf-8")
    page = browser.new_page()
    page.goto((folder / "changed.html").as_uri())
    assert page.evaluate("window.broken") is None
    page.context.close()
