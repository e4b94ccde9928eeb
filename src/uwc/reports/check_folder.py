"""The folder of a check: its results, and what is made of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uwc import answers as table_of_answers
from uwc.io import remove, write_text
from uwc.reports.check_markdown import check_markdown
from uwc.reports.junit import write_junit
from uwc.reports.signoff import PAGE, PDF, write_signoff
from uwc.results import CheckResults

if TYPE_CHECKING:
    import pandas as pd

JUNIT, MARKDOWN = "check.xml", "check.md"


def remove_check(folder: Path) -> None:
    """Remove the files of an earlier check from a folder."""
    for name in (CheckResults.FILE, JUNIT, MARKDOWN, PAGE, PDF):
        remove(folder / name)


def write_check(
    results: CheckResults,
    folder: Path,
    *,
    answers: "pd.DataFrame | None" = None,
    redact: bool = False,
    undecided: Literal["pass", "fail"] | None = None,
    keep_paths: bool = False,
) -> CheckResults:
    """Write ``check.json``, ``check.xml`` (JUnit), ``check.md`` and ``signoff.html``, with ``signoff.pdf`` where it can
    be made; also ``answers.parquet``, unless the folder has that of the result that the check was made of.

    Args:
        results: the check.
        folder: the folder, which is created if missing.
        answers: the table of answers; None if there is none.
        redact: hide true answers and secrets on the page to sign.
        undecided: whether an undecided requirement passes or fails in JUnit; neither by default.
        keep_paths: keep absolute paths.

    Returns:
        The results as written.

    Raises:
        OSError: a file cannot be written.
    """
    written = results.without_paths(folder, keep=keep_paths)
    folder.mkdir(parents=True, exist_ok=True)
    if answers is not None:
        if table_of_answers.written_of(folder) in (None, "", CheckResults.FILE):
            table_of_answers.write(answers, folder, of=CheckResults.FILE)
        written = written.with_answers(answers)
    write_text(folder / CheckResults.FILE, written.to_json())
    write_junit(written, folder / JUNIT, undecided=undecided)
    write_text(folder / MARKDOWN, check_markdown(written))
    write_signoff(written, folder, answers=answers, redact=redact)
    return written
