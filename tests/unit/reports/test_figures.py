"""Figures of the trade-off, the ranking and the search for alpha, for a made-up study."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from tests.helpers.results_factory import (
    NAN,
    changed,
    changed_at_tau,
    changed_run,
    columns_of,
    study_results,
    uncalibrated,
    unlearned,
)

from uwc.reports.drawing import COLOURS, PAPER, Drawing
from uwc.reports.figures import alpha_figures, model_styles, ranking_figure, tradeoff_figure
from uwc.reports.tables import result_table
from uwc.results import Estimate, Probe


def lines(axes: Axes, label: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_label() == label]


def points(line: Line2D) -> list[tuple[float, float]]:
    return [tuple(point) for point in np.asarray(line.get_xydata()).tolist()]


def axes_of(drawing: Drawing | None) -> Axes:
    assert drawing is not None
    (axes,) = drawing.figure.axes
    return axes


def test_many_models_differ_in_colour_or_symbol() -> None:
    results = study_results(unlearned=[unlearned(f"m{i}") for i in range(40)], ranking=(), pairs={})
    assert len(set(model_styles(results).values())) == 40


def test_tradeoff_is_drawn_over_the_retention_ratio_with_the_bar_at_tau() -> None:
    """gd as delivered: 0.81 / 0.98 of the original's retain ES."""
    axes = axes_of(tradeoff_figure(study_results()))
    delivered, at_tau = lines(axes, "gd")
    assert points(delivered) == [(pytest.approx(0.81 / 0.98), 0.0)] and delivered.get_markerfacecolor() == PAPER
    assert points(at_tau) == [(0.95, 0.131)] and at_tau.get_markerfacecolor() == "#0072B2"
    assert [points(line) for line in lines(axes, "original")] == [[(1.0, 0.97)]]
    (bar,), (retrained,) = lines(axes, "tau = 0.95"), lines(axes, "retrained")
    assert set(bar.get_xdata()) == {0.95} and set(retrained.get_ydata()) == {0.11}
    legend = axes.figure.legends[0]  # type: ignore[union-attr]
    assert {text.get_text() for text in legend.get_texts()} == {"npo", "gd", "kl", "po", "ga", "original"}


def test_an_uncalibrated_study_is_drawn_over_the_retain_score() -> None:
    axes = axes_of(tradeoff_figure(uncalibrated(study_results())))
    drawn = {str(line.get_label()): points(line) for line in axes.lines}
    assert drawn["kl"] == [(0.39, 0.0)] and drawn["retrained"] == [(0.979, 0.11)]
    assert "tau = 0.95" not in drawn


def test_the_interval_at_tau_is_that_of_tables_and_figures() -> None:
    """0.131, with 0.031 to 0.931 as the search for alpha is repeated in each draw."""
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=0.031, high=0.931))
    drawing = tradeoff_figure(results)
    *_, at_tau = lines(axes_of(drawing), "gd")
    assert "0.131 [0.031, 0.931]" in drawing.tips(at_tau)[0]
    assert columns_of(result_table(results))["gd"]["residual forget ES [95% interval]"] == "0.131 [0.031, 0.931]"
    axes = axes_of(ranking_figure(results))
    (marker,) = lines(axes, "gd")
    row = marker.get_ydata()[0]
    assert points(marker) == [(0.131, row)]
    assert [(0.031, row), (0.931, row)] in [points(line) for line in axes.lines]


def test_the_ranking_is_drawn_best_on_top_between_the_original_and_retrained() -> None:
    results = study_results()
    axes = axes_of(ranking_figure(results))
    assert tuple(label.get_text() for label in axes.get_yticklabels()) == results.ranking
    assert [lines(axes, name)[0].get_ydata()[0] for name in results.ranking] == list(axes.get_yticks())
    assert axes.yaxis.get_inverted()  # the first row is the uppermost
    assert {role: lines(axes, role)[0].get_xdata()[0] for role in ("original", "retrained")} == {
        "original": 0.97,
        "retrained": 0.11,
    }


def test_a_model_without_an_interval_has_no_bar_and_without_a_ranking_there_is_no_figure() -> None:
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=NAN, high=NAN))
    axes = axes_of(ranking_figure(results))
    row = results.ranking.index("gd")
    assert [points(line) for line in axes.lines if row in line.get_ydata() and len(points(line)) == 1] == [
        [(0.131, row)]
    ]
    assert ranking_figure(changed(results, ranking=())) is None


def test_alpha_figure_draws_retention_and_forget_score_over_alpha_with_tau() -> None:
    """Probed at 0, 1, 0.381 and 0.762; the forget score of a probe on a part of the examples is not drawn."""
    results = study_results()
    found = results.run("gd").calibration
    assert found is not None
    part = Probe(alpha=0.9, retention=0.9, phase="refine", feasible=False, scored=20, of=100)
    calibration = changed(found, probes=[*found.probes, part])
    axes = axes_of(alpha_figures(changed_run(results, "gd", calibration=calibration))["gd"])
    (retention,), (forget,) = lines(axes, "retention"), lines(axes, "forget ES")
    expected = [(0, 1), (0.381, 0.98), (0.762, 0.934 / 0.98), (0.9, 0.9), (1, 0.81 / 0.98)]
    assert points(retention) == [pytest.approx(point) for point in expected]
    expected = [(0, 0.97), (0.381, (0.97 + 0.131) / 2), (0.762, 0.131), (1, 0)]
    assert points(forget) == [pytest.approx(point) for point in expected]
    (tau,), (alpha,) = lines(axes, "tau"), lines(axes, "alpha")
    assert set(tau.get_ydata()) == {0.95} and set(alpha.get_xdata()) == {0.762}


def test_a_model_has_one_colour_in_all_figures() -> None:
    results = study_results()
    styles = model_styles(results)
    assert len({style.colour for style in styles.values()}) == 6 == len(COLOURS)
    curves = alpha_figures(results)
    assert set(curves) == set(styles) - {"rmu"}
    axes = axes_of(tradeoff_figure(results))
    for name in curves:
        drawn = [*lines(axes, name), *lines(axes_of(curves[name]), "retention")]
        assert len(drawn) == 3
        assert {to_hex(line.get_color()).upper() for line in drawn} == {styles[name].colour}
