"""The training of the unlearned models in the report: table and figures."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from tests.helpers.results_factory import NAN, changed, changed_run, run_record, study_results

from uwc.reports.figures_training import effect_figures, training_figures
from uwc.reports.page import write_page
from uwc.reports.tables import training_table
from uwc.results import Collapse, GradientEffects, StopScores, StudyResults, TrainingLog, TrainingRecord

LOG = TrainingLog(
    step=(1, 2),
    loss=(2.0, 1.2346),
    gradient_norm=(4.0, NAN),
    lr=(0.1, 0.05),
    terms={"ga": (-1.0, -2.0), "nll": (3.0, 3.2346)},
    duals={"nll": (1.0, 1.5)},
)
EFFECTS = GradientEffects(
    step=(2,),
    risks={"forget": {"early": (-1.5,), "head": (0.5,)}, "retain": {"early": (0.25,), "head": (0.0,)}},
)


def with_training() -> StudyResults:
    """npo stopped early and recorded its effect, gd collapsed, rmu diverged after a step; the others have no record."""
    collapse = Collapse(before=1.5, after=99.0, bound=10.0, collapsed=True)
    records = {
        "npo": TrainingRecord(
            steps=2,
            log=LOG,
            scores=StopScores(step=(2,), score=(0.25,)),
            effects=EFFECTS,
            stopped=2,
            collapse=changed(collapse, after=2.0, collapsed=False),
        ),
        "gd": TrainingRecord(steps=2, log=changed(LOG, gradient_norm=()), collapse=collapse),
        "rmu": TrainingRecord(
            steps=1,
            log=TrainingLog(step=(1,), loss=(2.0,), gradient_norm=(4.0,)),
            diverged=2,
            collapse=changed(collapse, after=NAN),
        ),
    }
    results = study_results()
    for name, record in records.items():
        results = changed_run(results, name, training=record)
    return results


def test_the_table_has_the_numbers_and_the_end_of_each_training() -> None:
    table = training_table(with_training())
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["npo", "gd", "rmu"], "by rank, the diverged one last"
    assert rows["npo"][:6] == ("2", "2", "1.23", "4", "1.50", "2.00")
    assert "step 2" in rows["npo"][6] and "0.250" in rows["npo"][6]
    assert rows["gd"][:6] == ("2", "2", "1.23", "—", "1.50", "99.0") and rows["gd"][6].startswith("collapsed: ")
    assert rows["rmu"][:6] == ("1", "2", "2", "4", "1.50", "∞")
    assert rows["rmu"][6].startswith("diverged at step 2; collapsed: "), "by the record of its training"


def drawn(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Label of a line -> its points."""
    return {
        str(line.get_label()): [tuple(point) for point in np.asarray(line.get_xydata()).tolist()] for line in axes.lines
    }


def test_the_figures_hold_loss_terms_gradient_and_marks() -> None:
    figures = training_figures(with_training())
    assert list(figures) == ["npo", "gd", "rmu"]
    losses, norms = (drawn(axes) for axes in figures["npo"].figure.axes)
    assert losses["loss"] == [(1, 2.0), (2, 1.2346)] and losses["nll"] == [(1, 3.0), (2, 3.2346)]
    assert norms["gradient norm"] == [(1, 4.0), (2, pytest.approx(NAN, nan_ok=True))]
    assert {x for x, _ in losses["stopped early"]} == {2}
    (axes,) = figures["gd"].figure.axes
    assert set(drawn(axes)) == {"loss", "ga", "nll"}
    losses, norms = (drawn(axes) for axes in figures["rmu"].figure.axes)
    assert set(losses) == {"loss", "diverged"} and {x for x, _ in losses["diverged"]} == {2}


def test_the_effect_is_drawn_by_risk_and_layer_group() -> None:
    (figure,) = effect_figures(with_training()).values()
    forget, retain = figure.figure.axes
    assert drawn(forget)["early"] == [(2, -1.5)] and drawn(forget)["head"] == [(2, 0.5)]
    assert drawn(retain)["early"] == [(2, 0.25)] and drawn(retain)["head"] == [(2, 0.0)]
    assert (forget.get_ylabel(), retain.get_ylabel()) == ("forget risk", "retain risk")


@pytest.mark.slow
def test_the_page_has_the_section_only_where_there_is_a_record(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(with_training(), run_record(), page)
    text = page.read_text(encoding="utf-8")
    assert '<h2 id="training-curves">' in text and '<h3 id="gradient-effect">' in text
    assert "Training curves of rmu" in text and "Gradient effect of npo" in text
    write_page(study_results(), run_record(), page)
    assert 'id="training-curves"' not in page.read_text(encoding="utf-8")
