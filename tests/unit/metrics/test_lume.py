"""LUME's score, worked out by hand.

In each of the 12 groups are two examples; k of them are reproduced exactly, so that the group's mean is k / 2:

|        | Task1 sc | qa | Task2 sc | qa | Task3 sc | qa |
| forget | 1/2      | 1/2| 0        | 1/2| 0        | 1/2|
| retain | 1        | 1/2| 1        | 1  | 1/2      | 1  |

Forget as 1 - mean: 1/2 1/2 1 1/2 1 1/2. Inverses: 2 2 1 2 1 2 (sum 10) and 1 2 1 1 2 1 (sum 8); 12 / 18 = 2/3.
"""

import math

import numpy as np
import pytest
from tests.helpers.scores_by_hand import scores

from uwc.data.example import Example
from uwc.errors import ConfigError
from uwc.metrics.evaluate import Scoring, evaluate
from uwc.metrics.lume import lume_mia, lume_score
from uwc.metrics.registry import set_metrics
from uwc.metrics.scored import ScoredSet
from uwc.metrics.suites import Given, chosen_metrics

GROUPS = [(task, kind) for task in (1, 2, 3) for kind in ("sc", "qa")]
KNOWN = {"forget": (1, 1, 0, 1, 0, 1), "retain": (2, 1, 2, 2, 1, 2)}


def examples(split: str) -> list[Example]:
    return [
        Example(id=f"Task{task}/{split}{i}/{kind}{i}", question=f"{split} {task} {kind} {i}?", answer="cloud seven")
        for task, kind in GROUPS
        for i in range(2)
    ]


def scored(split: str) -> ScoredSet:
    texts = ["Cloud SEVEN" if i < k else "" for k in KNOWN[split] for i in range(2)]
    asked = examples(split)
    tokens = scores([[-1.0]] * 12, ids=[e.id for e in asked], variants=["answer"] * 12)
    return ScoredSet(tokens, tuple(e.answer for e in asked), texts=tuple(texts))


def test_the_harmonic_mean_of_the_twelve_means() -> None:
    given = Given({split: examples(split) for split in KNOWN})
    found = evaluate({split: scored(split) for split in KNOWN}, Scoring(given, ["lume_tasks"]))
    (score,) = [s for s in found if s.metric == "lume_tasks"]
    assert score.mean == pytest.approx(2 / 3)
    assert (score.n, score.not_scored, score.set) == (24, 0, "forget+retain")


def test_it_needs_every_group() -> None:
    sets = {split: examples(split)[2:] for split in KNOWN}
    with pytest.raises(ConfigError, match=r"'lume_tasks' needs examples with ids such as Task1/\*/sc\*"):
        chosen_metrics(None, ["lume_tasks"], Given(sets))


def test_a_group_that_is_wholly_wrong_makes_it_zero() -> None:
    ones, zeros = np.ones(2), np.zeros(2)
    tasks = set_metrics.get("lume_tasks").function
    assert tasks(*[zeros] * 6, *[ones] * 6) == 1.0
    assert tasks(ones, *[zeros] * 5, *[ones] * 6) == 0.0
    assert tasks(*[zeros] * 6, *[ones] * 5, zeros) == 0.0


def test_membership_inference_that_tells_nothing_is_best() -> None:
    """Members 1 and 3, others 2 and 4: three of the four pairs are in order, AUC 3/4."""
    assert lume_mia(np.array([1.0, 3.0]), np.array([2.0, 4.0])) == pytest.approx(0.5)
    assert lume_mia(np.array([1.0, 4.0]), np.array([2.0, 3.0])) == pytest.approx(1.0)
    assert lume_mia(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == pytest.approx(0.0)


def test_the_final_score_is_a_mean_of_three_and_needs_most_of_mmlu() -> None:
    assert lume_score(0.6, 0.9, 0.45) == pytest.approx(0.65)
    assert lume_score(0.6, 0.9, 0.45, original_mmlu=0.6) == pytest.approx(0.65)
    assert math.isnan(lume_score(0.6, 0.9, 0.44, original_mmlu=0.6))
