"""The figure and the table of the depth profile."""

import re

import pytest
from tests.helpers.results_factory import changed, columns_of, depth_profile, study_results, with_profiles

from uwc.reports.depth import depth_figures, depth_profiles, depth_table
from uwc.reports.gallery import FIGURES, tables
from uwc.results import ModelKey


def test_lines_of_the_figure() -> None:
    """The retrained model and each model as delivered, best first; below them the share of questions."""
    results = with_profiles(study_results())
    (figure,) = depth_figures(results).values()
    above, below = figure.figure.axes
    assert above.get_title(loc="left") == "forget"
    drawn = {line.get_label(): list(line.get_ydata()) for line in above.lines if len(line.get_xdata()) > 2}
    assert list(drawn) == ["retrained", "npo", "gd"]
    first = depth_profiles(results)[0]
    assert drawn["retrained"] == list(first.known) and drawn["npo"] == list(first.changed)
    assert list(below.lines[0].get_ydata()) == list(first.share)
    assert figure.tips(above.lines[1])[5] == "npo\nblock 6: 0.960"
    assert re.search(r"<svg.*npo.*</svg>", figure.inline("depth"), re.DOTALL)


def test_the_table_has_a_row_for_each_block() -> None:
    table = depth_table(with_profiles(study_results()))
    assert table is not None
    rows = columns_of(table)
    assert list(rows) == ["1", "2", "3", "4", "5", "6"]
    names = ["retrained", "npo", "npo, calibrated", "gd", "gd, calibrated"]
    assert list(rows["6"]) == ["block", "share with knowledge", *names]
    assert rows["6"]["gd"] == "2.160" and rows["2"]["share with knowledge"] == "0.400"
    assert "20 forget questions" in table.caption and "0.05" in table.caption


def test_secrets_and_missing_numbers() -> None:
    nan = float("nan")
    profile = depth_profile(
        ModelKey(role="unlearned", run="gd"), 0.5, span="secret", known=(nan, 0.2, 0.9, 1.7, 2.1, 2.4)
    )
    results = changed(study_results(), depth=[profile])
    table = depth_table(results)
    assert table is not None and "secrets" in table.caption and columns_of(table)["1"]["retrained"] == "—"
    line = depth_figures(results)[""].figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("profiles", [[], [depth_profile(ModelKey(role="unlearned", run="gd"), 1.0, n=0)]])
def test_a_study_without_the_score_has_neither(profiles: list) -> None:
    results = changed(study_results(), depth=profiles)
    assert depth_table(results) is None and not FIGURES["depth"](results) and tables(results)["depth"] is None
