"""The output of a check: its exit status, and the summary of the step of a service."""

from pathlib import Path
from typing import Any

import pytest
import typer
from tests.helpers.check_factory import check_results

from uwc.cli.verdicts import exit_status, finish_check
from uwc.results import CheckResults


def of(outcome: str) -> CheckResults:
    found = check_results()
    return found.model_copy(update={"verdict": found.verdict.model_copy(update={"outcome": outcome})})


@pytest.mark.parametrize(
    ("outcome", "undecided", "status"),
    [
        *(("pass", option, 0) for option in (None, "pass", "fail")),
        *(("fail", option, 5) for option in (None, "pass", "fail")),
        ("undecided", None, 6),
        ("undecided", "pass", 0),
        ("undecided", "fail", 5),
    ],
)
def test_exit_statuses(outcome: str, undecided: Any, status: int) -> None:
    assert exit_status(of(outcome), undecided) == status


def test_the_summary_is_appended_and_a_file_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "check.md").write_text("the check", encoding="utf-8")
    summary = tmp_path / "summary.md"
    summary.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    with pytest.raises(typer.Exit):
        finish_check(of("fail"), tmp_path, undecided=None, as_json=False)
    assert summary.read_text(encoding="utf-8").split() == ["before", "the", "check"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAIL")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "nosuch" / "summary.md"))
    finish_check(of("pass"), tmp_path, undecided=None, as_json=True)
    assert "GITHUB_STEP_SUMMARY" in capsys.readouterr().err
