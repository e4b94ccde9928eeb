"""Figures of the trade-off, the ranking and the search for alpha, for a made-up study."""

import pytest
from tests.helpers.results_factory import (
    NAN,
    changed,
    changed_at_tau,
    changed_run,
    columns_of,
    study_results,
    unlearned,
)

from uwc.reports.figures import alpha_figures, model_styles, ranking_figure, tradeoff_figure
from uwc.reports.tables import result_table
from uwc.results import Estimate, Probe


def test_many_models_differ_in_colour_or_symbol() -> None:
    results = study_results(unlearned=[unlearned(f"m{i}") for i in range(40)], ranking=(), pairs={})
    assert len(set(model_styles(results).values())) == 40


def test_tradeoff_is_drawn_over_the_retention_ratio_with_the_bar_at_tau() -> None:
    """gd as delivered: 0.81 / 0.98 of the original's retain ES."""
    figure = tradeoff_figure(study_results())
    line, delivered, at_tau = (trace for trace in figure.data if trace.name == "gd")
    assert line.x == pytest.approx((0.81 / 0.98, 0.95)) and line.y == (0.0, 0.131)
    assert (delivered.x, delivered.y, delivered.marker.color) == ((pytest.approx(0.81 / 0.98),), (0.0,), "#ffffff")
    assert (at_tau.x, at_tau.y, at_tau.marker.color) == ((0.95,), (0.131,), "#0072B2")
    assert [trace.showlegend for trace in (line, delivered, at_tau)] == [False, False, True]
    (original,) = (trace for trace in figure.data if trace.name == "original")
    assert (original.x, original.y) == ((1.0,), (0.97,))
    bar, retrained = sorted(figure.layout.shapes, key=lambda shape: shape.xref == "x domain")
    assert bar.x0 == bar.x1 == 0.95 and retrained.y0 == retrained.y1 == 0.11


def test_the_interval_at_tau_is_that_of_tables_and_figures() -> None:
    """0.131, with 0.031 to 0.931 as the search for alpha is repeated in each draw."""
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=0.031, high=0.931))
    *_, at_tau = (trace for trace in tradeoff_figure(results).data if trace.name == "gd")
    assert "0.131 [0.031, 0.931]" in at_tau.text[0]
    assert columns_of(result_table(results))["gd"]["residual forget ES"] == "0.131\n[0.031, 0.931]"
    figure = ranking_figure(results)
    assert figure is not None
    bar = next(trace for trace in figure.data if trace.name == "gd")
    assert bar.x == (0.131,) and bar.error_x.array == pytest.approx((0.8,))
    assert bar.error_x.arrayminus == pytest.approx((0.1,))


def test_the_ranking_is_drawn_best_on_top_between_the_original_and_retrained() -> None:
    results = study_results()
    figure = ranking_figure(results)
    assert figure is not None
    assert tuple(trace.y[0] for trace in figure.data) == results.ranking
    assert figure.layout.yaxis.autorange == "reversed"  # the first row is the uppermost
    lines = {note.text: shape.x0 for note, shape in zip(figure.layout.annotations, figure.layout.shapes, strict=True)}
    assert lines == {"original": 0.97, "retrained": 0.11}


def test_a_model_without_an_interval_has_no_bar_and_without_a_ranking_there_is_no_figure() -> None:
    results = changed_at_tau(study_results(), "gd", forget=Estimate(value=0.131, low=NAN, high=NAN))
    figure = ranking_figure(results)
    assert figure is not None
    assert next(trace for trace in figure.data if trace.name == "gd").error_x.array is None
    assert ranking_figure(changed(results, ranking=())) is None


def test_alpha_figure_draws_retention_and_forget_score_over_alpha_with_tau() -> None:
    """Probed at 0, 1, 0.381 and 0.762; the forget score of a probe on a part of the examples is not drawn."""
    results = study_results()
    found = results.run("gd").calibration
    assert found is not None
    part = Probe(alpha=0.9, retention=0.9, phase="refine", feasible=False, scored=20, of=100)
    calibration = changed(found, probes=[*found.probes, part])
    figure = alpha_figures(changed_run(results, "gd", calibration=calibration))["gd"]
    retention, forget = figure.data
    assert retention.x == forget.x == (0.0, 0.381, 0.762, 0.9, 1.0)
    assert retention.y == pytest.approx((1.0, 0.98, 0.934 / 0.98, 0.9, 0.81 / 0.98))
    assert forget.y == pytest.approx((0.97, (0.97 + 0.131) / 2, 0.131, NAN, 0.0), nan_ok=True)
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(0, 0.95), (0.762, 0)]
