"""Probability, perplexity and divergence by hand, and token scores in files."""

from pathlib import Path

import numpy as np
import pytest
from tests.helpers.scores_by_hand import scores

from uwc.metrics.likelihood import kl_to_original, perplexity, probability
from uwc.models.token_scores import TokenScores


def test_the_end_token_counts() -> None:
    """The geometric mean of 1, 1 and, for the end token, 1/8."""
    found = scores([[0.0, 0.0, np.log(1 / 8)]], end=True)
    assert probability(found)[0] == pytest.approx(0.5)
    assert perplexity(found)[0] == pytest.approx(2.0)


def test_perplexity_stays_finite() -> None:
    assert np.isfinite(perplexity(scores([[-1e6]]))[0])


def test_divergence_is_the_mean_over_labelled_tokens() -> None:
    assert kl_to_original(scores([[-1.0, -2.0]], kl=0.5))[0] == pytest.approx(0.5)


def test_scores_survive_storage_to_the_bit(tmp_path: Path) -> None:
    found = scores([[-0.1, -0.2, -0.3], [-0.4]], greedy=["110", "0"], end=True, sampled={"drawn": [-1.0] * 4})
    found.save(tmp_path / "scores.parquet")
    assert TokenScores.load(tmp_path / "scores.parquet").equals(found)
    assert found.select([1, 0]).select([1, 0]).equals(found)
    assert not found.select([1, 0]).equals(found)
