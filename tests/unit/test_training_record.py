"""What a study keeps of its training, and how the report shows it."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.example_results import example_results, example_run

from uwc.reports.page import write_page
from uwc.reports.training_plots import effect_figures, training_figures, training_table
from uwc.studies.training_record import POINTS, thinned, training_record

LOG = [
    {"step": 1, "loss": 2.0, "ga": -1.0, "nll": 3.0, "gradient_norm": 4.0, "lr": 0.1, "dual nll": 1.0},
    {"step": 2, "loss": 1.23456789, "ga": -2.0, "nll": 3.23456789, "gradient_norm": None, "lr": 0.05, "dual nll": 1.5,
     "stop_score": 0.25},
]  # fmt: skip
EFFECTS = [{"step": 2, "forget": {"early": -1.5, "head": 0.5}, "retain": {"early": 0.25, "head": 0.0}}]


def written(folder: Path, log: list[Any], effects: list[Any]) -> Path:
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    if effects:
        (folder / "effects.json").write_text(json.dumps(effects), encoding="utf-8")
    return folder


def test_the_log_is_kept_in_columns_with_terms_and_duals_apart(tmp_path: Path) -> None:
    outcome = {"status": "ok", "stopped": 2, "collapse": {"before": 1.5, "after": None, "bound": 10, "collapsed": True}}
    record = training_record(written(tmp_path, LOG, EFFECTS), outcome)
    assert record == {
        "steps": 2,
        "log": {
            "step": [1, 2], "loss": [2.0, 1.2346], "gradient_norm": [4.0, None], "lr": [0.1, 0.05],
            "terms": {"ga": [-1.0, -2.0], "nll": [3.0, 3.2346]}, "duals": {"nll": [1.0, 1.5]},
        },
        "scores": {"step": [2], "score": [0.25]},
        "effects": {
            "step": [2], "forget": {"early": [-1.5], "head": [0.5]}, "retain": {"early": [0.25], "head": [0.0]},
        },
        "stopped": 2, "diverged": None, "collapse": outcome["collapse"],
    }  # fmt: skip


def test_a_run_that_diverged_at_once_has_an_empty_log(tmp_path: Path) -> None:
    record = training_record(written(tmp_path, [], []), {"status": "diverged", "step": 1, "term": "loss"})
    assert record["steps"] == 0 and record["diverged"] == 1
    assert record["log"]["step"] == [] and record["effects"] == {} and record["scores"] == {}


@pytest.mark.parametrize("length", [0, 1, POINTS, POINTS + 1, 1000])
def test_a_long_log_is_thinned_to_its_first_last_and_evenly_spread_steps(length: int) -> None:
    kept = [int(e["step"]) for e in thinned([{"step": i} for i in range(length)])]
    assert len(kept) == min(length, POINTS)
    if length:
        assert kept[0] == 0 and kept[-1] == length - 1
        gaps = {b - a for a, b in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1


def with_training(tmp_path: Path) -> dict[str, Any]:
    """npo stopped early and recorded its effect, gd collapsed, rmu diverged after a step; the others have no record."""
    results = example_results()
    collapse = {"before": 1.5, "after": 99.0, "bound": 10.0, "collapsed": True}
    outcomes = {
        "npo": {"stopped": 2, "collapse": {**collapse, "after": 2.0, "collapsed": False}},
        "gd": {"collapse": collapse},
        "rmu": {"status": "diverged", "step": 2, "term": "gradient", "collapse": {**collapse, "after": None}},
    }
    for method in results["unlearned"]:
        if method["name"] in outcomes:
            folder = tmp_path / method["name"]
            folder.mkdir()
            log = LOG[:1] if method["name"] == "rmu" else LOG
            written(folder, log, EFFECTS if method["name"] == "npo" else [])
            method["training"] = training_record(folder, outcomes[method["name"]])
    return results


def test_the_table_says_how_each_run_ended(tmp_path: Path) -> None:
    table = training_table(with_training(tmp_path))
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["npo", "gd", "rmu"], "by rank, the diverged one last"
    assert rows["npo"] == ("2", "2", "1.23", "4", "1.50", "2.00", "stopped early after step 2, at a score of 0.250")
    assert rows["gd"] == ("2", "2", "1.23", "4", "1.50", "99.0", "collapsed")
    assert rows["rmu"] == ("1", "2", "2", "4", "1.50", "∞", "diverged at step 2; collapsed")
    assert "more than 10 times the original's" in table.caption


def test_the_figures_hold_loss_terms_gradient_and_marks(tmp_path: Path) -> None:
    figures = training_figures(with_training(tmp_path))
    assert list(figures) == ["npo", "gd", "rmu"]
    lines = {trace.name: (list(trace.x), list(trace.y)) for trace in figures["npo"].data}
    assert lines["loss"] == ([1, 2], [2.0, 1.2346]) and lines["nll"] == ([1, 2], [3.0, 3.2346])
    assert lines["gradient norm"] == ([1, 2], [4.0, None])
    marked = {name: sorted({shape.x0 for shape in figure.layout.shapes}) for name, figure in figures.items()}
    assert marked == {"npo": [2], "gd": [], "rmu": [2]}


def test_the_effect_is_drawn_by_risk_and_layer_group(tmp_path: Path) -> None:
    (figure,) = effect_figures(with_training(tmp_path)).values()
    drawn = {(trace.yaxis, trace.name): list(trace.y) for trace in figure.data}
    assert drawn == {("y", "early"): [-1.5], ("y", "head"): [0.5], ("y2", "early"): [0.25], ("y2", "head"): [0.0]}
    assert figure.layout.yaxis.title.text == "forget risk" and figure.layout.yaxis2.title.text == "retain risk"


def test_the_page_has_the_section_only_where_there_is_a_record(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_page(with_training(tmp_path), example_run(), page)
    text = page.read_text(encoding="utf-8")
    assert "What training did" in text and "The gradient effect" in text
    assert "curve-training-2" in text and "curve-effect-0" in text
    write_page(example_results(), example_run(), page)
    assert "What training did" not in page.read_text(encoding="utf-8")
