"""Logits that are NaN or infinite say nothing: no metric has a value, and no such model is ranked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import copied, people

import uwc
from uwc.errors import UserError
from uwc.metrics.registry import JUDGES, metrics
from uwc.metrics.scored import NOT_FINITE, ScoredSet, needs_of, score_set
from uwc.models.model import Model


def overflowing(model: Model) -> Model:
    """Finite weights with which the logits overflow."""
    changed = copied(model)
    with torch.no_grad():
        changed.model.model.norm.weight.fill_(3e38)
    assert all(bool(torch.isfinite(p).all()) for p in changed.model.parameters())
    return changed


def test_no_metric_has_a_value_and_the_reason_is_told(knowing: Model) -> None:
    elsewhere = {*JUDGES, "depth"}  # computed after scoring
    names = [m.name for m in metrics if not elsewhere & set(m.facts["needs"]) and m.facts.get("only", "data") == "data"]
    examples = people(3)
    scored = score_set(overflowing(knowing), examples, needs=needs_of(names), reference=knowing, max_new_tokens=8)
    for name in names:
        values = scored.values(name)
        assert np.isnan(values).all(), name
        assert scored.unscored(name) == {NOT_FINITE: len(examples)}, name
        assert scored.aggregate(name).n == 0


def test_an_example_whose_text_met_a_broken_logit_is_not_scored_by_any_metric(knowing: Model) -> None:
    scored = score_set(knowing, people(2), needs=needs_of(["rouge_l"]), max_new_tokens=8)
    broken = ScoredSet(scored.tokens, scored.answers, scored.texts, scored.text_tokens, np.array([True, False] * 2))
    assert np.isnan(broken.values("rouge_l")).tolist() == [False, True] * 2
    assert np.isnan(broken.values("extraction_strength")).tolist() == [False, True] * 2


def test_what_was_not_finite_survives_storage(knowing: Model, tmp_path: Path) -> None:
    scored = score_set(overflowing(knowing), people(2), needs=needs_of(["rouge_l"]), max_new_tokens=8)
    scored.save(tmp_path, "data")
    assert np.isnan(ScoredSet.load(tmp_path, "data").values("rouge_l")).all()


@pytest.mark.slow
def test_such_a_model_is_not_ranked_and_such_an_original_is_refused(knowing: Model, tmp_path: Path) -> None:
    forget, retain = people(4)[:4], people(4)[4:]
    settings = {"forget": forget, "retain": retain, "attacks": [], "overrides": ["score.max_new_tokens=0"]}
    models = {"same": copied(knowing), "broken": overflowing(knowing)}
    done = uwc.compare(knowing, models, **settings, output_dir=tmp_path / "one")
    assert done.ranking == ("same",)
    broken = done.run("broken")
    assert broken.status == "not_finite" and not broken.calibrated_scores
    assert "(logits not finite)" in (tmp_path / "one" / "results.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="not finite"):
        uwc.compare(overflowing(knowing), {"same": copied(knowing)}, **settings, output_dir=tmp_path / "two")
