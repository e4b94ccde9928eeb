"""The unlearning depth score against numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import copied, people, tiny_model

from uwc.errors import ConfigError, DataError
from uwc.metrics.depth import (
    Depth,
    depth_profiles,
    depth_work,
    load_drops,
    save_drops,
    unlearning_depth_score,
    with_depth,
    without_change,
)
from uwc.metrics.evaluate import Scoring, evaluate, score_sets
from uwc.metrics.suites import Given, chosen_metrics
from uwc.models.patching import patched_drops
from uwc.results import ModelKey, find

NAN = float("nan")


def depth(known: list[list[float]], changed: list[list[float]]) -> Depth:
    return Depth("answer", np.array(known), np.array(changed))


def test_by_hand() -> None:
    """K = {2, 3}: (0.4 * 0.5 + 0.6 * 1) / (0.4 + 0.6) = 0.8; the ratio 1.5 counts as 1, the ratio -1 as 0."""
    known = [[0.05, 0.4, 0.6]] * 3
    changed = [[9.0, 0.2, 0.9], [9.0, -0.4, 0.0], [9.0, 0.4, 0.6]]
    assert unlearning_depth_score(depth(known, changed)) == pytest.approx([0.8, 0.0, 1.0])


def test_the_threshold_decides_which_layers_hold_knowledge() -> None:
    """With 0 the first layer is one too: (0.05 * 1 + 0.4 * 0.5 + 0.6 * 1) / 1.05."""
    one = depth([[0.05, 0.4, 0.6]], [[9.0, 0.2, 0.9]])
    assert unlearning_depth_score(one, threshold=0.0) == pytest.approx([0.85 / 1.05])
    assert unlearning_depth_score(one, threshold=0.5) == pytest.approx([1.0])
    assert np.isnan(unlearning_depth_score(one, threshold=0.6)).all()


def test_missing_values() -> None:
    """No layer with knowledge; no span; a drop that is not finite within K, and one outside of it."""
    known = [[0.01, -0.3], [NAN, NAN], [0.01, 0.5], [0.01, 0.5], [NAN, 0.5]]
    changed = [[0.5, 0.5], [NAN, NAN], [0.0, NAN], [NAN, 0.25], [0.1, 0.1]]
    found = unlearning_depth_score(depth(known, changed))
    assert found == pytest.approx([NAN, NAN, NAN, 0.5, NAN], nan_ok=True)


def test_another_span_was_scored() -> None:
    with pytest.raises(ConfigError, match="span='answer'"):
        unlearning_depth_score(depth([[1.0]], [[1.0]]), span="secret")


def test_the_original_scores_0_and_the_retrained_model_1_with_its_profile() -> None:
    original, retrained = tiny_model(layers=3), tiny_model(layers=3, seed=5)
    given = Given({"forget": people(3)}, frozenset({"original", "retrained"}), 0)
    scoring = Scoring(given, ["uds"], {"uds": {"threshold": 0.001}})
    work = depth_work(scoring)
    assert work is not None and list(work.sets) == ["forget"] and work.span == "answer"
    known = work.drops(original, retrained)
    scored = score_sets(retrained, scoring.work())
    for changed, expected in (
        (known, 1.0),
        (work.drops(original, copied(original)), 0.0),
        (without_change(known), 0.0),
    ):
        measured = with_depth(scored, work.span, known=known, changed=changed)
        score = find(evaluate(measured, scoring), "forget", "uds")
        assert score is not None and score.mean == pytest.approx(expected, abs=1e-3)
        assert score.n + score.not_scored == 6
    (profile,) = depth_profiles(
        with_depth(scored, "answer", known=known, changed=known), ModelKey(role="retrained"), scoring
    )
    assert (profile.n, profile.threshold, profile.set) == (6, 0.001, "forget")
    assert profile.known == pytest.approx(known["forget"].mean(axis=0)) and profile.changed == profile.known
    assert profile.share == pytest.approx((known["forget"] > 0.001).mean(axis=0))
    assert profile.without_layer == score.not_scored
    assert known["forget"] == pytest.approx(patched_drops(original, retrained, {"f": people(3)})["f"])


def test_a_metric_that_reads_states_needs_no_depth() -> None:
    sets = {name: people(2) for name in ("forget", "retain", "unrelated")}
    scoring = Scoring(Given(sets, frozenset({"original", "retrained"}), 0), ["trace_auc_retrained_retain"])
    assert any("@states" in scoring.read(of_set) for of_set in sets)
    assert depth_work(scoring) is None


@pytest.mark.parametrize(
    ("models", "said"),
    [(["original"], "--retrained"), (["retrained"], "--original"), ([], "--original and --retrained")],
)
def test_a_missing_model_is_named(models: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        chosen_metrics(None, ["uds"], Given({"forget": people(2)}, frozenset(models)))
    if models == ["original"]:
        with pytest.raises(ConfigError, match=r"^((?!--original).)*$"):
            chosen_metrics(None, ["UDS"], Given({"forget": people(2)}, frozenset(models)))


def test_files(tmp_path: Path) -> None:
    drops = {"forget": np.array([[0.1, NAN]]), "retain": np.zeros((0, 2))}
    save_drops(tmp_path, drops)
    found = load_drops(tmp_path, ["forget", "retain"])
    assert all(np.array_equal(found[name], drops[name], equal_nan=True) for name in drops)
    (tmp_path / "forget.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"forget\.npy"):
        load_drops(tmp_path, ["forget"])
