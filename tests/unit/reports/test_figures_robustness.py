"""The panels of metrics before against after attacks."""

from math import exp

import numpy as np
import pytest
from tests.helpers.results_factory import attacked_results, study_results

from uwc.reports.figures_robustness import panels_figure


def test_the_figure_has_a_panel_for_each_metric_and_attack_with_both_lines() -> None:
    """The fit of ES from 0.2 to 0.8: 0.9 + 0.9 x; of PPL on logarithms exp(1 + log x)."""
    results = attacked_results()
    drawing = panels_figure(results, "forget")
    assert drawing is not None
    panels = drawing.figure.axes
    assert [panel.get_xscale() for panel in panels] == ["linear", "log"]
    for panel, fitted in zip(panels, ((0.9 + 0.9 * 0.2, 0.9 + 0.9 * 0.8), (0.2 * exp(1), 0.8 * exp(1))), strict=True):
        identity, fit, *points = panel.lines
        assert list(np.asarray(identity.get_xdata())) == list(np.asarray(identity.get_ydata()))
        assert list(np.asarray(fit.get_ydata())) == pytest.approx(fitted)
        assert len(points) == 3 and drawing.tips(points[0]) == ["ga weak\nbefore 0.2, after 0.1"]
    assert [{text.get_text() for text in panel.texts} for panel in panels] == [{"ES", "0.90"}, {"PPL", "1.00"}]
    assert panels_figure(results, "retain") is None
    assert panels_figure(study_results(), "forget") is None
