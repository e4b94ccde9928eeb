"""Printing a page: a browser on the path, one that fails or hangs, weasyprint, and neither."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from uwc import progress
from uwc.reports import pdf
from uwc.reports.pdf import write_pdf

pytestmark = pytest.mark.usefixtures("browsers")
Install = Callable[[str], None]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(progress, "note", found.append)
    monkeypatch.setattr(progress, "warned", set())
    return found


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page, with nothing on the path, no weasyprint, and an old PDF beside it."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(pdf, "find_spec", lambda name: None)
    (tmp_path / "bin").mkdir()
    (tmp_path / "page.html").write_text("<p>a", encoding="utf-8")
    (tmp_path / "page.pdf").write_bytes(b"%PDF old")
    return tmp_path / "page.html"


def browser(page: Path, script: str, name: str = "chromium") -> None:
    path = page.parent / "bin" / name
    path.write_text(f"#!{sys.executable}\nimport sys, time, pathlib\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


PRINTS = """
target = next(word.partition("=")[2] for word in sys.argv if word.startswith("--print-to-pdf="))
profile = next(word.partition("=")[2] for word in sys.argv if word.startswith("--user-data-dir="))
assert "--headless" in sys.argv and sys.argv[-1].startswith("file://") and profile
pathlib.Path(target).write_bytes(b"%PDF-1.7 " + pathlib.Path(sys.argv[-1][7:]).read_bytes())
"""


@pytest.mark.parametrize("name", ["chromium", "google-chrome", "msedge"])
def test_a_browser_on_the_path_prints(page: Path, said: list[str], name: str) -> None:
    browser(page, PRINTS, name)
    assert write_pdf(page, page.with_suffix(".pdf"))
    assert page.with_suffix(".pdf").read_bytes() == b"%PDF-1.7 <p>a" and not said


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("sys.exit(3)", "status 3"),
        ("time.sleep(60)", "did not end"),
        (f"{PRINTS}\npathlib.Path(target).write_text('no')", ""),
    ],
)
def test_a_browser_that_fails_or_hangs_is_a_warning(
    page: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, script: str, word: str
) -> None:
    monkeypatch.setattr(pdf, "TIMEOUT", 1.0)
    browser(page, script)
    assert not write_pdf(page, page.with_suffix(".pdf"))
    assert not page.with_suffix(".pdf").exists(), "an old PDF is that of another check"
    assert len(said) == 1 and said[0].startswith("warning: ") and word in said[0] and "chromium" in said[0]


def test_a_program_that_cannot_be_started_is_a_warning(page: Path, said: list[str]) -> None:
    browser(page, "")
    (page.parent / "bin" / "chromium").write_text("#!/nowhere/at/all\n", encoding="utf-8")
    assert not write_pdf(page, page.with_suffix(".pdf")) and said[0].startswith("warning: ")


def test_weasyprint_prints_where_there_is_no_browser(
    page: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("weasyprint")
    made.HTML = lambda filename: SimpleNamespace(  # type: ignore[attr-defined]
        write_pdf=lambda: b"%PDF of " + Path(filename).name.encode()
    )
    monkeypatch.setitem(sys.modules, "weasyprint", made)
    monkeypatch.setattr(pdf, "find_spec", lambda name: made)
    assert write_pdf(page, page.with_suffix(".pdf")) and not said
    assert page.with_suffix(".pdf").read_bytes() == b"%PDF of page.html"
    browser(page, "sys.exit(1)")
    assert write_pdf(page, page.with_suffix(".pdf")), "also where a browser fails"
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    (page.parent / "bin" / "chromium").unlink()
    assert not write_pdf(page, page.with_suffix(".pdf")) and "weasyprint" in said[-1]


def test_without_either_a_note_says_what_to_install(page: Path, said: list[str]) -> None:
    assert not write_pdf(page, page.with_suffix(".pdf"))
    assert len(said) == 1 and "uwc[pdf]" in said[0] and not said[0].startswith("warning")
    assert not page.with_suffix(".pdf").exists()
