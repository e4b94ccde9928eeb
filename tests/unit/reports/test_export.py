"""Tables and figures as files: names, formats, marks, the same bytes, and the same numbers as the results."""

import csv
from io import StringIO
from pathlib import Path

import pytest
from tests.helpers.results_factory import attacked_results, changed, changed_at_tau, pairs, study_results
from tests.unit.reports.test_latex import require_latex

from uwc.errors import UserError
from uwc.reports.export import export, tables
from uwc.results import Estimate, StudyResults


@pytest.mark.parametrize("make", [study_results, attacked_results])
def test_every_table_in_every_format(make: type[StudyResults], tmp_path: Path) -> None:
    results = make()
    made = export(results, "latex", output=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made
    for content in made.values():
        require_latex(content.decode("utf-8"))
    found = tables(results)
    assert {f"{name}.tex" for name in found} == set(made) and {"results", "scores-perplexity"} <= set(found)
    for name, content in export(results, "csv").items():
        header, *rows = csv.reader(StringIO(content.decode("utf-8")))
        table = found[name.removesuffix(".csv")]
        assert [row[0] for row in rows] == [row[0] for row in table.rows] and {len(row) for row in rows} == {
            len(header)
        }
    assert export(results, "md").keys() == {f"{name}.md" for name in found}
    assert ("attacks" in found) == (results.attacks is not None) and ("ranking" in found) == bool(results.ranking)


def test_the_best_is_bold_and_those_not_significantly_worse_are_marked() -> None:
    """npo is best; gd is worse with confidence 0.6 only."""
    results = study_results(pairs=pairs(npo=0.6))
    for name in ("results", "ranking"):
        (content,) = export(results, "latex", table=name).values()
        lines = content.decode("utf-8").splitlines()
        marked = {mark: [line for line in lines if mark in line and "&" in line] for mark in ("textbf", "dagger")}
        assert [len(found) for found in marked.values()] == [1, 1]
        assert (
            r"npo & " in marked["textbf"][0] and r"\textbf{0.040} {\scriptsize [0.000, 0.090]}" in marked["textbf"][0]
        )
        assert "gd & " in marked["dagger"][0] and r"0.131$^{\dagger}$" in marked["dagger"][0]
    alone = changed(results, ranking=("npo",), pairs={})
    (content,) = export(alone, "latex", table="results").values()
    assert b"textbf" not in content


def test_intervals_have_columns_of_their_own_in_csv() -> None:
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=0.031, high=0.931))
    (content,) = export(results, "csv", table="results").values()
    rows = {row["method"]: row for row in csv.DictReader(StringIO(content.decode("utf-8")))}
    name = "residual forget ES [95% interval]"
    assert [rows["gd"][f"{name}{end}"] for end in ("", ", low", ", high")] == ["0.131", "0.031", "0.931"]
    (content,) = export(results, "csv", table="scores-extraction_strength").values()
    row = next(csv.DictReader(StringIO(content.decode("utf-8"))))
    assert [row[f"forget n = 100{end}"] for end in ("", ", low", ", high")] == ["0.970 ± 0.025", "0.920", "1.020"]
    assert rows["original"]["alpha at tau"] == "" == rows["rmu (diverged)"][f"{name}, low"]


@pytest.mark.slow
def test_figures_are_files_with_the_same_bytes_every_time(tmp_path: Path) -> None:
    made = export(study_results(), "svg", output=tmp_path)
    assert made.keys() >= {"ranking.svg", "tradeoff.svg", "alpha-npo.svg"}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == made
    for format, start in (("svg", b"<?xml"), ("pdf", b"%PDF-")):
        file = tmp_path / f"one.{format}"
        one = export(study_results(), format, figure="ranking", output=file)  # type: ignore[arg-type]
        assert file.read_bytes() == one[f"ranking.{format}"] and one[f"ranking.{format}"].startswith(start)
    assert (tmp_path / "one.svg").read_bytes() == made["ranking.svg"]


def test_the_results_are_read_from_their_file_or_folder(tmp_path: Path) -> None:
    path = study_results().save(tmp_path)
    assert export(path, "md", table="ranking") == export(tmp_path, "md", table="ranking")
    assert export(tmp_path, "md", table="ranking") == export(study_results(), "md", table="ranking")


def test_no_file_of_another_kind_is_replaced(tmp_path: Path) -> None:
    path = study_results().save(tmp_path)
    with pytest.raises(UserError, match=r"end in \.tex"):
        export(path, "latex", table="ranking", output=path)
    assert StudyResults.load(path) is not None


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("latex", {"table": "rankings"}, "'ranking'"),
        ("svg", {"figure": "trade"}, "tradeoff"),
        ("latex", {"figure": "tradeoff"}, "svg or pdf"),
        ("pdf", {"table": "ranking"}, "latex, csv or md"),
        ("word", {}, "latex"),
        ("md", {"table": "ranking", "figure": "tradeoff"}, "one at a time"),
    ],
)
def test_errors_name_what_is_valid(format: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(study_results(), format, **options)  # type: ignore[arg-type]
