"""Which sampled answers leak, and the settings that are refused."""

from pathlib import Path

import numpy as np
import pytest
from tests.helpers.scores_by_hand import scores

from uwc.errors import ConfigError
from uwc.metrics.samples import LeakSettings, SampleScores, require_no_judge, require_read
from uwc.metrics.scored import ScoredSet
from uwc.metrics.semantics import Judges

ANSWERS = ["Mira was born in Vint", "...", "Tobas mends old clocks"]
TEXTS = [
    ["Mira was born in Vint", "Mira was born there", "Mira was born in Vint"],
    ["a", "b", "a"],
    ["no", "Tobas mends clocks", "clocks"],
]
FINE = np.ones(3, dtype=bool)


def scored(settings: LeakSettings, judges: Judges | None = None) -> SampleScores:
    secrets = [("Vint",), (), ("Tobas", "clocks")]
    return SampleScores.of(settings, TEXTS, answers=ANSWERS, secrets=secrets, finite=FINE, judges=judges)


def test_samples_leak_by_rouge_above_a_bound() -> None:
    """3 of 5 words in order, 3 of 4, 1 of 4; an answer without words has no value."""
    found = scored(LeakSettings(count=3, at_least=0.75))
    assert found.values == pytest.approx(np.array([[1, 0.6, 1], [np.nan] * 3, [0, 0.75, 0.25]]), nan_ok=True)
    assert found.leaks == pytest.approx(np.array([[1, 0, 1], [np.nan] * 3, [0, 1, 0]]), nan_ok=True)


def test_samples_leak_by_other_metrics_of_texts() -> None:
    exact = scored(LeakSettings(count=3, leaks="exact_match"))
    assert exact.leaks.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    secret = scored(LeakSettings(count=3, leaks="secret_said"))
    assert secret.leaks == pytest.approx(np.array([[1, 0, 1], [np.nan] * 3, [0, 1, 1]]), nan_ok=True)


def test_a_judge_sees_equal_texts_of_a_question_once() -> None:
    """Entailed, with a ROUGE-L recall of at least 0.1."""
    asked: list[str] = []

    def entails(premises: list[str], hypotheses: list[str]) -> np.ndarray:
        asked.extend(premises)
        return np.array([p != "no" for p in premises])

    found = scored(LeakSettings(count=3, leaks="entailment"), Judges(entailment=entails))  # type: ignore[arg-type]
    assert len(asked) == 2 + 2 + 3
    assert found.leaks == pytest.approx(np.array([[1, 1, 1], [np.nan] * 3, [0, 1, 1]]), nan_ok=True)
    with pytest.raises(ConfigError, match="needs a judge: entailment"):
        scored(LeakSettings(count=3, leaks="entailment"))


def test_metrics_that_are_not_of_single_texts_are_refused() -> None:
    for name in ("extraction_strength", "knowledge_forgotten", "leak_at_k", "nosuch", "verbatim_memorization"):
        with pytest.raises(ConfigError, match="valid: rouge_l"):
            _ = LeakSettings(leaks=name).metric


def test_more_tries_than_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="k = 16, and 8 answers"):
        LeakSettings(count=8).check(["rouge_l", "leak_at_k"], {})
    LeakSettings(count=8).check(["leak_at_k", "leak_upper_bound"], {"leak_at_k": {"k": 8}})


def test_settings_without_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="no metric reads sampled answers"):
        require_read(LeakSettings(count=8), ["rouge_l"])
    require_read(LeakSettings(), ["rouge_l"])
    require_read(LeakSettings(count=8), ["leak_at_k"])
    with pytest.raises(ConfigError, match="attacks ask none"):
        require_no_judge(LeakSettings(leaks="entailment"), ["leak_at_k"])


def test_they_are_stored_with_their_texts(tmp_path: Path) -> None:
    tokens = scores([[-1.0]] * 3)
    found = scored(LeakSettings(count=3))
    letters = (np.array([-1.0, -2.0]), np.zeros(0), np.array([-1.5]))
    ScoredSet(tokens, ("a", "b", "c"), samples=found, letters=letters).save(tmp_path, "forget")
    assert "Mira was born there" in (tmp_path / "forget.jsonl").read_text(encoding="utf-8")
    read = ScoredSet.load(tmp_path, "forget")
    assert read.samples is not None and read.letters is not None
    assert read.samples.values == pytest.approx(found.values, nan_ok=True)
    assert read.samples.leaks == pytest.approx(found.leaks, nan_ok=True)
    assert [row.tolist() for row in read.letters] == [row.tolist() for row in letters]
    assert read.values("leak_at_k", k=2) == pytest.approx([1, np.nan, 0], nan_ok=True)


def test_an_example_whose_samples_are_not_finite_has_no_value() -> None:
    found = SampleScores(np.zeros((2, 4)), np.zeros((2, 4)), np.array([True, False]))
    values = ScoredSet(scores([[-1.0], [-1.0]]), ("a", "b"), samples=found).values("expected_max", k=2)
    assert values == pytest.approx([0, np.nan], nan_ok=True)
