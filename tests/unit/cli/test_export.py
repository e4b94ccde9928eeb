"""`uwc export`: printed, to a file and to a folder."""

from pathlib import Path

import pytest
from tests.helpers.results_factory import study_results
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.errors import UserError
from uwc.reports.export import export


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_one_is_printed_or_written_and_all_go_to_a_folder(tmp_path: Path) -> None:
    results = study_results()
    results.save(tmp_path)
    expected = export(results, "latex")
    printed = run(str(tmp_path), "--format", "latex", "--table", "ranking")
    assert printed.encode() == expected["ranking.tex"]
    file = tmp_path / "new" / "a.tex"
    run(str(tmp_path / "results.json"), "--format", "latex", "--table", "ranking", "-o", str(file))
    assert file.read_bytes() == expected["ranking.tex"]
    run(str(tmp_path), "--format", "latex", "--table", "ranking", "-o", str(tmp_path / "new"))
    assert (tmp_path / "new" / "ranking.tex").read_bytes() == expected["ranking.tex"]
    told = run(str(tmp_path), "--format", "latex", "-o", str(tmp_path / "all"))
    assert {path.name for path in (tmp_path / "all").iterdir()} == set(expected) and "ranking.tex" in told


@pytest.mark.parametrize("arguments", [["--format", "latex"], ["--format", "pdf", "--figure", "tradeoff"]])
def test_an_output_is_asked_for_where_nothing_can_be_printed(arguments: list[str], tmp_path: Path) -> None:
    study_results().save(tmp_path)
    with pytest.raises(UserError, match="-o"):
        run(str(tmp_path), *arguments)
