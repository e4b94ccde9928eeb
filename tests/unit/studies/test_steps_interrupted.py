"""Steps that score are interrupted within a pass, and end with the bits of a study that is not."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.small_study import STUDY, run_plan

from uwc.models import chunks, scoring
from uwc.studies.config import StudyConfig
from uwc.studies.plan import make_plan
from uwc.studies.store import Store


class Interrupted(Exception):
    """What a kill is in this test."""


@pytest.mark.slow
def test_a_study_interrupted_within_its_passes_has_the_same_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every 25th batch of scores, calibration and attack; no batch of a step is computed twice."""
    monkeypatch.setattr(chunks, "EVERY", 0.0)
    given = STUDY.model_dump()
    given["unlearn"]["runs"] = [{"method": "gd"}]
    attack = {"metrics": ["extraction_strength"], "chains": [{"chain": "jailbreak"}], "texts": False}
    plan = make_plan(StudyConfig(**{**given, "attack": attack}))
    work, calls, most = scoring._score_batch, [0], [10**9]

    def counted(*arguments: Any) -> Any:
        if calls[0] >= most[0]:
            raise Interrupted
        calls[0] += 1
        return work(*arguments)

    monkeypatch.setattr(scoring, "_score_batch", counted)
    expected, _ = run_plan(plan, Store(tmp_path / "whole"))
    whole, calls[0], resumed = calls[0], 0, 0
    store = Store(tmp_path / "interrupted")
    assert whole > 50
    while True:
        most[0] = calls[0] + 25
        try:
            found, _ = run_plan(plan, store)
        except Interrupted:
            resumed += any((store.root / "checkpoints").rglob("*.npz"))
            continue
        break
    assert resumed > 1
    assert calls[0] == whole
    assert found.to_json() == expected.to_json()
    assert not any((store.root / "checkpoints").rglob("*.npz"))
