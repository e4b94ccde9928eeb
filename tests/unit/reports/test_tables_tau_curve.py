"""The tau curve and the frontier in the report."""

import numpy as np
import pytest
from tests.helpers.results_factory import (
    changed,
    changed_calibration,
    changed_run,
    frontier,
    study_results,
    unlearned,
)

from uwc.reports.figures import frontier_figure, tau_figure
from uwc.reports.format import MISSING
from uwc.reports.tables import curves, runs_tau_table, summary, tau_table, tau_words, winners
from uwc.results import Group, MeanFrontier, PathPoint, SeededPoint, StudyResults

TAUS = (0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
LEFT = {"gd": {t: t / 2 for t in TAUS}, "npo": dict.fromkeys(TAUS, 0.35)}


def with_curves(sets: tuple[str, ...] = ("forget",), **left: dict[float, float]) -> StudyResults:
    """Two methods whose curves cross between 0.6 and 0.8: gd leaves tau / 2, npo a constant 0.35."""
    results = study_results()
    results = changed(results, unlearned=[m for m in results.unlearned if m.name in LEFT], ranking=("npo", "gd"))
    for name, scores in {**LEFT, **left}.items():
        results = changed_calibration(results, name, frontier=dict.fromkeys(sets, frontier(scores)))
    return results


def test_the_winners_are_named_with_their_ranges() -> None:
    assert winners(with_curves()).endswith("gd for tau from 0.4 to 0.6, npo for tau from 0.8 to 1.")
    assert winners(study_results()) == ""


def test_a_tie_has_two_winners() -> None:
    """npo's constant 0.35 is made equal to gd's score, but for rounding, up to 0.6: both are named."""
    tied = {t: min(0.35, t / 2 + 1e-15) for t in TAUS}
    assert winners(with_curves(npo=tied)).endswith("npo and gd for tau from 0.4 to 0.6, npo for tau from 0.8 to 1.")


def test_the_table_shows_score_and_interval_at_each_tau() -> None:
    table = tau_table(with_curves())
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(rows) == {"gd", "npo"}
    assert rows["gd"]["at tau 0.8"] == "0.400 [0.300, 0.500]"
    assert rows["npo"]["area"] == "0.350"
    assert rows["npo"]["area, paraphrased"] == MISSING


def test_the_figure_has_a_line_for_each_method() -> None:
    drawing = tau_figure(with_curves())
    axes = drawing.figure.axes[0]
    assert {line.get_label(): dict(np.asarray(line.get_xydata()).tolist()) for line in axes.lines} == LEFT
    assert drawing.tips(axes.lines[0])[2] == "npo\n0.350 [0.250, 0.450] at tau 0.8"


def test_the_curves_as_rows() -> None:
    rows = list(with_curves().curve_rows())
    assert len(rows) == 2 * len(TAUS)
    assert rows[0] | {"low": 0, "high": 0} == {
        "model": "npo",
        "set": "forget",
        "tau": 0.4,
        "alpha": 0.5,
        "value": 0.35,
        "low": 0,
        "high": 0,
        "area": pytest.approx(0.35),
    }


def test_a_sentence_names_no_more_than_a_few_methods() -> None:
    results = study_results()
    names = [f"m{i}" for i in range(9)]
    more = [unlearned(name, calibration=results.run("ga").calibration) for name in names]
    results = changed(
        results,
        unlearned=[*results.unlearned, *more],
        ranking=("npo", *names),
        pairs={"npo": dict.fromkeys(names, 0.5)},
    )
    told = " ".join(summary(results))
    assert "m4 (confidence 50%) and 4 more." in told and "m5" not in told


def test_the_frontier_is_drawn_over_the_retention_ratio_with_the_bar_at_tau() -> None:
    drawing = frontier_figure(with_curves())
    axes = drawing.figure.axes[0]
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert drawn.keys() == {"gd", "npo", "tau = 0.95"} and {x for x, _ in drawn["tau = 0.95"]} == {0.95}
    assert drawn["gd"] == [[1.0, 1.0], [0.75, 0.5], [0.5, 0.0]]
    assert drawing.tips(axes.lines[0])[1].endswith("at alpha 0.500")
    assert axes.get_xlim() == (-0.03, 1.03)


def test_a_retention_above_1_is_inside_the_frontier_figure() -> None:
    path = tuple(PathPoint(alpha=a, retention=1 + a / 2, forget=1 - a) for a in (0.0, 0.5, 1.0))
    wide = changed(frontier(LEFT["gd"]), path=path)
    drawing = frontier_figure(changed_calibration(with_curves(), "gd", frontier={"forget": wide}))
    assert drawing.figure.axes[0].get_xlim()[1] > 1.5


def test_the_curve_in_words_for_each_set_that_was_probed() -> None:
    """Areas: gd (0.4 + 0.6 + 0.8 + 0.9 + 0.95 + 1) / 2 / 6 = 0.3875, npo 0.35."""
    words = tau_words(with_curves())
    assert len(words) == 2 and words[1].endswith(": npo 0.350, gd 0.388.")
    both = tau_words(with_curves(("forget", "forget_paraphrased")))
    assert len(both) == 4 and "paraphrased" in both[2]


def with_seeds() -> StudyResults:
    """gd and npo as two seeds of one method, `both`: mean and deviation of tau / 2 and 0.35."""
    results = with_curves()
    for name in LEFT:
        results = changed_run(results, name, group="both")
    points = []
    for tau in TAUS:
        first, second = LEFT["gd"][tau], LEFT["npo"][tau]
        mean, sd = (first + second) / 2, abs(first - second) / 2**0.5
        spread = {"sd_seeds": sd, "se_examples": 0.01, "se": 0.05, "low": mean - 0.2, "high": mean + 0.2}
        points.append(SeededPoint(tau=tau, mean=mean, **spread))
    found = MeanFrontier(curve=tuple(points), area=0.36875, area_sd=0.0265)
    at_tau = {name: value for name, value in dict(points[-2]).items() if name != "tau"}
    group = Group(name="both", runs=("gd", "npo"), next=None, frontier={"forget": found}, **at_tau)
    return changed(results, groups=(group,))


def test_a_method_with_several_seeds_has_its_mean_and_every_run() -> None:
    """At tau 0.8: (0.4 + 0.35) / 2 = 0.375, sd 0.05 / sqrt 2 = 0.035."""
    results = with_seeds()
    (row,) = tau_table(results).rows
    cells = dict(zip(tau_table(results).columns, row, strict=True))
    assert cells["at tau 0.8"] == "0.375 [0.175, 0.575]\nsd 0.035" and cells["area"] == "0.369\nsd 0.026"
    every = runs_tau_table(results)
    assert every is not None and {r[0] for r in every.rows} == {"gd", "npo"}
    assert runs_tau_table(with_curves()) is None
    assert tau_words(results)[-1].endswith(": both 0.369, sd 0.026.")
    rows = list(results.mean_curve_rows())
    assert len(rows) == len(TAUS) and rows[0]["seeds"] == 2 and rows[2]["mean"] == 0.375


def test_the_figure_of_seeds_has_the_mean_a_band_and_every_run_in_one_colour() -> None:
    results = with_seeds()
    (curve,) = curves(results)
    axes = tau_figure(results).figure.axes[0]
    *thin, mean = axes.lines
    assert mean.get_label() == "both, mean over 2 seeds" and list(np.asarray(mean.get_ydata())) == curve.scores
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).y0 == pytest.approx(
        min(point.mean - point.sd_seeds for point in results.groups[0].frontier["forget"].curve)
    )
    assert [dict(np.asarray(line.get_xydata()).tolist()) for line in thin] == [LEFT["gd"], LEFT["npo"]]
    assert len({line.get_color() for line in axes.lines}) == 1
