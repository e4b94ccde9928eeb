"""Steps that score are interrupted within a pass, and end with the bits of a study that is not."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.small_study import STUDY, run_plan
from torch.optim.optimizer import register_optimizer_step_pre_hook

from uwc.attacks.suffix_search import SuffixSearch
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
    """At every 16th batch of scores, calibration and attack; no batch of a step is computed twice.

    The attacks alone, computed again, are interrupted before every second step of their training and their search.
    """
    monkeypatch.setattr(chunks, "EVERY", 0.0)
    given = STUDY.model_dump()
    given["unlearn"]["runs"] = [{"method": "gd"}]
    relearn, gcg = {"steps": 4, "batch_size": 2}, {"steps": 3, "candidates": 8, "questions": 2, "start": "x x"}
    chains = [
        {"chain": "jailbreak"},
        {"chain": "relearn", "settings": {"relearn": relearn}},
        {"chain": "gcg", "settings": {"gcg": gcg}},
    ]
    attack = {"metrics": ["extraction_strength"], "chains": chains, "texts": False, "models": ["unlearned"]}
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
    assert whole > 2 * 16
    while True:
        most[0] = calls[0] + 16
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

    step, steps, last = SuffixSearch.step, [0], [10**9]

    def begin(*_given: Any) -> None:
        if steps[0] >= last[0]:
            raise Interrupted
        steps[0] += 1

    def search(self: SuffixSearch) -> None:
        begin()
        step(self)

    monkeypatch.setattr(SuffixSearch, "step", search)
    most[0], last[0], resumed = 10**9, 2, 0
    for planned in plan.attacks:
        store.remove(planned.step)
    with ExitStack() as stack:
        stack.callback(register_optimizer_step_pre_hook(begin).remove)
        while True:
            try:
                found, _ = run_plan(plan, store)
            except Interrupted:
                last[0], resumed = steps[0] + 2, resumed + 1
                continue
            break
    assert steps[0] == 4 + 3 and resumed == 3
    assert found.to_json() == expected.to_json()
    assert not any((store.root / "checkpoints").rglob("*.*"))
