"""Several things held fixed at once: shares, the least of them and its draws, by hand; what a study refuses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from uwc.calibration.frontier import Frontier, ProbedSet
from uwc.calibration.held import HeldMeans, HeldNumber, HeldSet, LeastShare
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.metrics.set_level import harmonic_means
from uwc.studies.calibrate_config import CalibrateConfig
from uwc.studies.held import describe_held, require_held


def probed(rows: Sequence[Sequence[float]], prefix: str = "", subjects: Sequence[str] = ()) -> ProbedSet:
    count = len(rows[0])
    return ProbedSet(tuple(f"{prefix}{i}" for i in range(count)), tuple(subjects or [""] * count), np.array(rows))


def test_shares_in_each_direction_and_average() -> None:
    """Means 0.8 -> 0.4: half. Losses 1 -> 4: a quarter. Perplexities (1, 4) -> (4, 4): geometric 2 -> 4: half."""
    assert HeldSet(probed([[0.6, 1.0], [0.4, 0.4]])).shares.tolist() == [1.0, 0.5]
    assert HeldSet(probed([[0.5, 1.5], [2.0, 6.0]]), higher=False).shares.tolist() == [1.0, 0.25]
    assert HeldSet(probed([[1.0, 4.0], [4.0, 4.0]]), higher=False, geometric=True).shares == pytest.approx([1.0, 0.5])
    assert HeldNumber("mmlu", np.array([0.8, 0.6])).shares == pytest.approx([1.0, 0.75])
    assert HeldNumber("wikitext", np.array([2.0, 8.0]), higher=False).shares.tolist() == [1.0, 0.25]


def test_the_least_share_decides_alpha() -> None:
    """Retain falls to 0.8 of it, the benchmark to 0.5 at alpha = 1: at tau 0.9 the benchmark allows 0.2, not 0.5."""
    alphas = np.array([0.0, 1.0])
    held = LeastShare([HeldSet(probed([[1.0] * 4, [0.8] * 4]))], [HeldNumber("mmlu", np.array([0.6, 0.3]))])
    frontier = Frontier(alphas, held, probed([[1.0] * 4, [0.0] * 4]))
    assert held.means.tolist() == [1.0, 0.5]
    assert frontier.alpha_at(0.9) == pytest.approx(0.2)
    assert frontier.forget_at(0.9) == pytest.approx(0.8)


def test_a_share_of_exactly_tau_is_kept_whatever_the_rounding() -> None:
    """0.036 / 0.04 is 0.9, and a little less in floating point; the plateau there reaches to alpha = 1."""
    assert 0.036 / 0.04 < 0.9
    held = LeastShare([], [HeldNumber("mmlu", np.array([0.04, 0.036, 0.036]))])
    frontier = Frontier(np.array([0.0, 0.5, 1.0]), held, probed([[1.0], [0.5], [0.0]]))
    assert frontier.alpha_at(0.9) == 1.0


def test_draws_of_one_set_are_shared_and_of_another_are_not() -> None:
    """Two metrics' worth of the same examples move together, a number stays, and the least is taken in each draw."""
    rng = np.random.default_rng(0)
    values = np.stack([np.ones(30), rng.uniform(0.5, 1.0, 30)])
    one, other = HeldSet(probed(values)), HeldSet(probed(values, prefix="other "))
    alone = LeastShare([one]).resampled_means(resamples=50, seed=3)[1]
    assert LeastShare([one, one]).resampled_means(resamples=50, seed=3)[1].tolist() == alone.tolist()
    both = LeastShare([one, other]).resampled_means(resamples=50, seed=3)[1]
    assert (both <= alone).all() and (both < alone).any()
    expected = one.probed.resampled_means(resamples=50, seed=3)
    assert alone == pytest.approx(expected[1] / expected[0])
    number = LeastShare([one], [HeldNumber("mmlu", np.array([1.0, 0.7]))]).resampled_means(resamples=50, seed=3)[1]
    assert number == pytest.approx(np.minimum(alone, 0.7))


def test_a_utility_by_hand_and_in_draws() -> None:
    """Harmonic means: of 1 and 1, then of 0.5 and 1: 2 / (2 + 1) = 2/3; and 0 where one of them is 0."""
    inputs = [probed([[1.0, 1.0], [0.2, 0.8], [0.0, 0.0]]), probed([[1.0, 1.0]] * 3, prefix="other ")]
    held = HeldMeans(inputs, harmonic_means)
    assert held.shares == pytest.approx([1.0, 2 / 3, 0.0])
    assert LeastShare([held]).clusters == 2
    draws = LeastShare([held]).resampled_means(resamples=200, seed=0)[1]
    assert set(draws.round(6)) == {round(2 / (1 / m + 1), 6) for m in (0.2, 0.5, 0.8)}


def test_without_values_by_example_alpha_has_no_interval_and_the_score_has() -> None:
    rng = np.random.default_rng(0)
    held = LeastShare([], [HeldNumber("mmlu", np.array([0.8, 0.4]))])
    frontier = Frontier(np.array([0.0, 1.0]), held, probed([[1.0] * 20, rng.uniform(0, 1, 20)]))
    assert np.isnan(frontier.alpha_interval(0.75)).all()
    low, high = frontier.interval(0.75)
    assert low < frontier.forget_at(0.75) < high and frontier.clusters == 20


QUESTIONS = [Example(id=str(i), question=f"q{i}", answer=f"a{i}") for i in range(3)]
SETS = {"forget": QUESTIONS, "retain": QUESTIONS, "maths": QUESTIONS}


@pytest.mark.parametrize(
    ("section", "essentials"),
    [
        ({"sets": ["retain", "mats"]}, ["unknown set to hold fixed 'mats'", "did you mean 'maths'", "retain, maths"]),
        ({"sets": ["forget"]}, ["unknown set to hold fixed 'forget'"]),
        ({"metric": "rouge_l"}, ["'rouge_l' needs generated answers"]),
        ({"metric": "probability_normalised", "sets": ["maths"], "rank_by": "probability"}, ["perturbed", "'maths'"]),
        ({"metric": "model_utility"}, ["real_authors and world_facts", "books does not have"]),
    ],
)
def test_what_the_questions_do_not_allow_is_refused(section: dict[str, Any], essentials: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        require_held(CalibrateConfig(**section), SETS, benchmark="books", max_new_tokens=0)
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)


def test_a_task_without_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uwc.calibration.harness.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'uwc\[harness\]'"):
        require_held(CalibrateConfig(tasks=("mmlu",)), SETS, benchmark="books", max_new_tokens=0)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"metric": "kl_to_original"}, "unknown metric to hold fixed 'kl_to_original'"),
        ({"rank_by": "perplexity"}, "unknown metric to rank by 'perplexity'"),
        ({"sets": []}, "nothing is held fixed"),
        ({"tasks": ["mmlu", "mmlu"]}, "tasks names one twice"),
        ({"metric": "model_utility", "sets": ["maths"]}, "sets of its own"),
    ],
)
def test_a_section_that_says_nothing_sensible_is_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CalibrateConfig(**section)


def test_what_models_are_ranked_by() -> None:
    """The metric held fixed where less of it is more forgotten, on a scale from 0 to 1; else extraction strength."""
    for metric in ("probability", "rouge_l", "extraction_strength"):
        assert CalibrateConfig(metric=metric).ranked_by == metric
    for metric in ("perplexity", "truth_ratio_forget", "model_utility", "mia_loss"):
        assert CalibrateConfig(metric=metric).ranked_by == "extraction_strength"
    assert CalibrateConfig(metric="perplexity", rank_by="probability").ranked_by == "probability"


def test_settings_that_were_there_before_there_was_a_choice_are_as_they_were() -> None:
    """The key of a stored calibration is made of them."""
    plain = {"tau": 0.9, "metric": "probability", "scan": 8, "resolution": 1 / 128}
    assert CalibrateConfig(tau=0.9, metric="probability").settings() == plain
    assert CalibrateConfig(tau=0.9, metric="probability", rank_by="probability").settings() == plain
    chosen = CalibrateConfig(tau=0.9, metric="probability", tasks=("mmlu",)).settings()
    assert chosen == {**plain, "sets": ["retain"], "tasks": ["mmlu"], "rank_by": "probability"}


def test_what_is_held_fixed_in_words() -> None:
    words = describe_held(CalibrateConfig(metric="perplexity", sets=("retain", "maths"), tasks=("mmlu",)), {})
    assert words["held"] == ["retain PPL", "maths PPL", "mmlu"] and words["without_spread"] == ["mmlu"]
    assert words["share"] and not words["plain"] and words["label"] == "ES"
    assert describe_held(CalibrateConfig(), {})["held"] == ["retain ES"]
    assert describe_held(CalibrateConfig(), {})["plain"] and not describe_held(CalibrateConfig(), {})["share"]
