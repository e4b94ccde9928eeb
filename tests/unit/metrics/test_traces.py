"""The probe that classifies the states of two models."""

import numpy as np
import pytest
from tests.conftest import people, tiny_model

from uwc.metrics.evaluate import Scoring, evaluate, load_sets, save_sets, score_sets
from uwc.metrics.set_metrics import auc
from uwc.metrics.stats import aggregate_sets, cluster_codes
from uwc.metrics.suites import Given, chosen_metrics
from uwc.metrics.traces import out_of_fold, trace_auc
from uwc.models.contrast import contrast
from uwc.models.model import Model
from uwc.models.states import capturing_outputs, prompt_states


def measured(ours: np.ndarray, others: np.ndarray, subjects: list[str]) -> tuple[float, float, float]:
    scores = out_of_fold(ours, others, cluster_codes(subjects))
    found = aggregate_sets(trace_auc, scores, [subjects] * 2, groups=["retain"] * 2, resamples=200)
    return found.mean, found.low, found.high


def states(seed: int, examples: int = 120, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(examples, width))


SUBJECTS = [str(i // 4) for i in range(120)]


def test_models_that_are_the_same_have_an_auc_of_one_half() -> None:
    ours = states(0)
    mean, low, high = measured(ours, ours.copy(), SUBJECTS)
    assert mean == pytest.approx(0.5, abs=0.02)
    for seed in range(3):
        mean, low, high = measured(ours + 0.1 * states(10 + seed), ours + 0.1 * states(20 + seed), SUBJECTS)
        assert low <= 0.5 <= high and high - low < 0.3


def test_a_shift_in_one_direction_is_found() -> None:
    """The shift is a third of the spread between questions, in each of 16 directions: AUC 0.83 of a single pair."""
    ours = states(0)
    mean, low, _ = measured(ours + 0.35, ours, SUBJECTS)
    assert mean > 0.75 and low > 0.6
    assert measured(ours + 3.0, ours, SUBJECTS)[0] > 0.99


def test_a_probe_never_sees_the_subject_that_it_scores() -> None:
    """A shift of another direction for each subject is not found from other subjects, but from the same ones."""
    ours, of_subject = states(1), 3.0 * states(2, examples=30)
    shift = np.repeat(of_subject, 4, axis=0)
    assert measured(ours + shift, ours - shift, SUBJECTS)[0] < 0.7
    assert measured(ours + shift, ours - shift, ["" for _ in SUBJECTS])[0] > 0.9


def test_the_probe_is_ridge_regression_by_an_independent_solution() -> None:
    """The primal form: w = (X^T X + I)^-1 X^T y on standardised states divided by sqrt(d), fold by fold."""
    ours, others = states(3, examples=20, width=3) + 0.5, states(4, examples=20, width=3)
    codes = np.arange(20)
    found = out_of_fold(ours, others, codes)
    for fold in range(5):
        held = codes % 5 == fold
        x = np.concatenate([ours[~held], others[~held]])
        y = np.array([1.0] * 16 + [-1.0] * 16)
        centre, scale = x.mean(axis=0), x.std(axis=0) * np.sqrt(3)
        z = (x - centre) / scale
        w = np.linalg.inv(z.T @ z + np.eye(3)) @ z.T @ y
        assert found[0][held] == pytest.approx((ours[held] - centre) / scale @ w)
        assert found[1][held] == pytest.approx((others[held] - centre) / scale @ w)
    assert trace_auc(*found) == auc(found[1], found[0])


def test_states_that_are_not_finite_and_single_clusters_have_no_score() -> None:
    ours, others = states(5, examples=12), states(6, examples=12)
    ours[3] = np.inf
    first, second = out_of_fold(ours, others, np.arange(12))
    assert np.isnan(first[3]) and np.isnan(second[3]) and np.isfinite(np.delete(first, 3)).all()
    assert np.isnan(out_of_fold(ours, others, np.zeros(12, dtype=np.int64))).all()


def test_prompt_states_are_block_outputs_at_the_last_token_of_the_prompt(knowing: Model) -> None:
    examples = people(2)
    found = prompt_states(knowing, examples)
    for example, state in zip(knowing.encode(examples), found, strict=True):
        import torch

        with torch.no_grad(), capturing_outputs(knowing.model, [1]) as captured:
            knowing.model(input_ids=torch.tensor([example.tokens[: example.start]], device=knowing.device))
        assert state == pytest.approx(captured[1][0, -1].float().cpu().numpy(), abs=1e-5)


def test_a_contrast_of_two_models_has_no_trace(knowing: Model, untrained: Model) -> None:
    """Other metrics of such a model are measured, and it is said."""
    examples = people()
    given = Given({"forget": examples[:6], "retain": examples[6:]}, frozenset({"original"}), 4)
    scoring = Scoring(given, ["trace_auc_original_retain", "extraction_strength"])
    mixed = contrast(knowing, untrained, strength=0.5)
    found = score_sets(mixed, scoring.work(), original=knowing)
    scores = {(score.metric, score.set): score for score in evaluate(found, scoring)}
    trace = scores["trace_auc_original_retain", "retain"]
    assert np.isnan(trace.mean) and trace.not_scored == 2 * len(examples[6:]), "of both models"
    assert np.isfinite(scores["extraction_strength", "retain"].mean)


def test_a_study_of_two_models_has_their_trace(knowing: Model, untrained: Model, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Against the original itself 1/2, against a model with other weights near 1; states are stored."""
    other = tiny_model(hidden_size=64, seed=5)
    sets = {"forget": people(2), "retain": people(6)[4:]}
    given = Given(sets, frozenset({"original", "retrained"}), 0)
    names, _ = chosen_metrics(None, ["trace_auc_original_retain", "trace_auc_retrained_retain"], given)
    scoring = Scoring(given, names)
    ours = score_sets(knowing, scoring.work(), original=knowing)
    retrained = score_sets(other, scoring.work(control=True), original=knowing)
    assert retrained["retain"].reference_states is None and "forget" not in retrained
    save_sets(ours, tmp_path)
    for of_model in (ours, load_sets(tmp_path, list(ours))):
        first, second = evaluate(of_model, scoring, retrained=retrained)
        assert first.mean == 0.5 and second.mean > 0.95
        assert (first.set, first.n) == ("retain", 8)
