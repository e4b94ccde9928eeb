"""The record that a study keeps of its trainings."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from uwc.results import Collapse
from uwc.studies.gather import POINTS, thinned, training_record
from uwc.studies.steps import Outcome

LOG = [
    {"step": 1, "loss": 2.0, "ga": -1.0, "nll": 3.0, "gradient_norm": 4.0, "lr": 0.1, "dual nll": 1.0},
    {
        "step": 2,
        "loss": 1.23456789,
        "ga": -2.0,
        "nll": 3.23456789,
        "gradient_norm": None,
        "lr": 0.05,
        "dual nll": 1.5,
        "stop_score": 0.25,
    },
]
EFFECTS = [{"step": 2, "forget": {"early": -1.5, "head": 0.5}, "retain": {"early": 0.25, "head": 0.0}}]


def written(folder: Path, log: list[Any], effects: list[Any]) -> Path:
    (folder / "log.json").write_text(json.dumps(log), encoding="utf-8")
    if effects:
        (folder / "effects.json").write_text(json.dumps(effects), encoding="utf-8")
    return folder


def test_the_log_is_kept_in_columns_with_terms_and_duals_apart(tmp_path: Path) -> None:
    """Five significant digits; the norm of step 2 was not finite."""
    collapse = Collapse(before=1.5, after=float("nan"), bound=10, collapsed=True)
    record = training_record(written(tmp_path, LOG, EFFECTS), Outcome(stopped=2, collapse=collapse))
    assert (record.steps, record.stopped, record.diverged, record.collapse) == (2, 2, None, collapse)
    log = record.log
    assert (log.step, log.loss, log.lr) == ((1, 2), (2.0, 1.2346), (0.1, 0.05))
    assert log.gradient_norm == pytest.approx((4.0, float("nan")), nan_ok=True)
    assert log.terms == {"ga": (-1.0, -2.0), "nll": (3.0, 3.2346)} and log.duals == {"nll": (1.0, 1.5)}
    assert record.scores is not None and (record.scores.step, record.scores.score) == ((2,), (0.25,))
    assert record.effects is not None and record.effects.step == (2,)
    assert record.effects.risks == {
        "forget": {"early": (-1.5,), "head": (0.5,)},
        "retain": {"early": (0.25,), "head": (0.0,)},
    }


def test_a_run_that_diverged_at_once_has_an_empty_log(tmp_path: Path) -> None:
    record = training_record(written(tmp_path, [], []), Outcome(status="diverged", diverged=1))
    assert record.steps == 0 and record.diverged == 1
    assert record.log.step == () and record.effects is None and record.scores is None


@pytest.mark.parametrize("length", [0, 1, POINTS, POINTS + 1, 1000])
def test_a_long_log_is_thinned_to_its_first_last_and_evenly_spread_steps(length: int) -> None:
    kept = [int(e["step"]) for e in thinned([{"step": i} for i in range(length)])]
    assert len(kept) == min(length, POINTS)
    if length:
        assert kept[0] == 0 and kept[-1] == length - 1
        gaps = {b - a for a, b in pairwise(kept)}
        assert not gaps or max(gaps) - min(gaps) <= 1
