"""OpenUnlearning's aggregates, by hand and against published numbers of 152 models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import people

from uwc.metrics.evaluate import Scoring
from uwc.metrics.open_unlearning import (
    membership_closeness,
    ou_memorization,
    ou_overall,
    ou_privacy,
    ou_utility,
    utility_aggregate,
)
from uwc.metrics.set_metrics import harmonic_mean, model_utility
from uwc.metrics.suites import Given

RESULTS = Path(__file__).parents[3].parent / "shared" / "data" / "uds" / "method_results.json"
MEMBERS, OTHERS = np.array([1.0, 2.0]), np.array([3.0, 4.0])
"""Scores with an AUC of 1; exchanged, of 0; one member against itself has 1 / 2."""
SAME = np.array([1.0])


def test_memorization_is_the_harmonic_mean_of_what_is_not_remembered() -> None:
    """Means 1/2, 1/2, 1/2, 3/4: 4 / (2 + 2 + 2 + 4) = 0.4. A mean of 1 gives 0."""
    half = np.array([0.25, 0.75])
    assert ou_memorization(half, half, half, np.array([0.75])) == pytest.approx(0.4)
    assert ou_memorization(half, half, half, np.ones(2)) == 0.0


def test_closeness_is_relative_to_the_retrained_auc_and_clipped() -> None:
    assert membership_closeness(0.6, 0.5) == pytest.approx(0.8)
    assert membership_closeness(0.4, 0.5) == pytest.approx(0.8), "over-unlearning costs as much"
    assert membership_closeness(1.0, 0.4) == 0.0
    assert np.isnan(membership_closeness(0.5, 0.0))


def test_privacy_compares_each_attack_with_the_retrained_models() -> None:
    """AUC 1/2, 1, 1, 1 against 1, 1, 1, 1: closeness 1/2, 1, 1, 1, and 4 / (2 + 1 + 1 + 1) = 0.8."""
    known = (MEMBERS, OTHERS)
    assert ou_privacy(SAME, SAME, *known * 3, *known * 4) == pytest.approx(0.8)
    assert ou_privacy(*known * 4, *known * 4) == 1.0
    assert ou_privacy(OTHERS, MEMBERS, *known * 3, *known * 4) == 0.0
    assert np.isnan(ou_privacy(*known * 4, OTHERS, MEMBERS, *known * 3)), "relative to an AUC of 0"


def test_overall_is_the_harmonic_mean_of_three() -> None:
    """Memorization 0.4 and privacy 0.8 as above, utility 1/2 (nine means of it): 3 / (2.5 + 1.25 + 2)."""
    half, known = np.array([0.5]), (MEMBERS, OTHERS)
    remembered = (half, half, half, np.array([0.75]))
    found = ou_overall(*remembered, *[half] * 9, SAME, SAME, *known * 3, *known * 4)
    assert found == pytest.approx(3 / 5.75)
    fluent = ou_overall(*remembered, *[half] * 9, SAME, SAME, *known * 3, *known * 4, np.array([0.0, 0.5]))
    assert fluent == pytest.approx(3 / (2.5 + 1.25 + 3)), "utility HM(1/2, 1/4) = 1/3"


def test_utility_counts_fluency_where_it_is_given() -> None:
    assert ou_utility(0.5) == 0.5
    assert ou_utility(0.5, 1.0) == pytest.approx(2 / 3)
    half = [np.array([0.5])] * 9
    assert utility_aggregate(*half) == pytest.approx(0.5)
    assert utility_aggregate(*half, np.array([1.0])) == pytest.approx(2 / 3)


def test_fluency_is_read_where_a_classifier_is_given() -> None:
    """And then judged too, though it is not among the metrics."""
    examples = [replace(e, perturbed_answers=("In Rome",)) for e in people()]
    sets = dict.fromkeys(("forget", "retain", "real_authors", "world_facts", "holdout"), examples)
    for models in (frozenset({"retrained"}), frozenset({"retrained", "classifier"})):
        scoring = Scoring(Given(sets, models), ["ou_utility", "ou_overall"])
        fluent = "classifier" in models
        assert ("fluency" in scoring.read("forget")) is fluent
        assert list(scoring.work().judged["forget"]) == ["fluency"] * fluent
        assert "fluency" not in scoring.read("retain")


@pytest.mark.skipif(not RESULTS.exists(), reason="needs ../shared/data/uds")
def test_published_aggregates_are_recomputed() -> None:
    """Theirs have 1e-12 added to each part. Their privacy includes the unlearning depth score, and their utility is
    relative to the original's, at most 1."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    models: list[dict[str, Any]] = found["models"]
    assert len(models) == 152
    nine = [f"{of}_{m}" for of in ("retain", "ra", "wf") for m in ("q_rouge", "q_prob", "truth_ratio")]
    for row in models:
        kept = [np.array([1 - row[f"one_minus_{part}"]]) for part in ("es", "em", "paraprob", "truth")]
        membership = harmonic_mean([row[f"s_{a}"] for a in ("loss", "zlib", "mink", "minkpp")])
        utility = ou_utility(model_utility(*(np.array([row[name]]) for name in nine)), row["fluency"])
        relative = min(1.0, utility / found["full_utility"][row["epoch"]])
        privacy = harmonic_mean([membership, row["uds"]])
        parts = {
            "mem": ou_memorization(*kept),
            "privacy_mia": membership,
            "privacy": privacy,
            "model_utility": model_utility(*(np.array([row[name]]) for name in nine)),
            "utility": utility,
            "utility_rel": relative,
        }
        parts["overall"] = harmonic_mean([parts["mem"], privacy, relative])
        assert parts == pytest.approx({name: row[name] for name in parts}, abs=1e-9), row["model"]
