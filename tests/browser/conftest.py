"""One browser for all tests here: Debian's Chromium, driven by Playwright; skipped, with the reason, without either."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    path = os.environ.get("UWC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("there is no Chromium: apt-get install chromium, or name one in UWC_CHROMIUM")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open a file without a network, wait for its answers, and fail the test on a request, a dialog or an error."""
    contexts, faults = [], []

    def open_page(path: Path, fragment: str = "", *, requests: int = 1, **options: Any) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
        context.set_offline(True)
        page = context.new_page()
        page.set_default_timeout(10_000)
        contexts.append((context, seen := [], requests))
        page.on("request", lambda request: seen.append(request.url))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: message.type == "error" and faults.append(f"console: {message.text}"))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("#answers-table .loaded:not([hidden])")
        return page

    yield open_page
    for context, seen, requests in contexts:
        if len([url for url in seen if not url.startswith("blob:")]) != requests:
            faults.append(f"requests: {seen}")
        context.close()
    assert faults == []


def require_no_injected_script(browser: "Browser", page_file: Path, folder: Path) -> None:
    """A script that is put into a page does not run, since its policy does not name it."""
    text = page_file.read_text(encoding="utf-8").replace("<main>", "<main><script>window.broken = 1</script>")
    assert "window.broken" in text
    (folder / "changed.html").write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.goto((folder / "changed.html").as_uri())
    page.wait_for_selector("#answers-table .loaded:not([hidden])")
    assert page.evaluate("window.broken") is None
    page.context.close()
