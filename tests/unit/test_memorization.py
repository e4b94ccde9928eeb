"""Metrics of one pass, by hand."""

import numpy as np
import pytest

from uwc.metrics.divergence import kl_to_original
from uwc.metrics.likelihood import perplexity, probability
from uwc.metrics.memorization import exact_memorization, extraction_strength
from uwc.models.token_scores import TokenScores


def scores_of(*greedy: str, logprob: float = -1.0, end: bool = True) -> TokenScores:
    """Token scores of answers given as strings of 1 (the greedy choice) and 0, each with an end token that is wrong."""
    flat = [c == "1" for answer in greedy for c in answer + ("0" if end else "")]
    lengths = [len(answer) + end for answer in greedy]
    zeros = np.zeros(len(flat), dtype=np.float32)
    return TokenScores(
        ids=tuple(map(str, range(len(greedy)))), subjects=("",) * len(greedy), variants=("answer",) * len(greedy),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        has_end=np.full(len(greedy), end), logprob=np.full(len(flat), logprob, dtype=np.float32),
        greedy=np.array(flat, dtype=bool), stops=zeros > 0, mean_logprob=zeros, var_logprob=zeros,
        kl=zeros + 0.5, reference_logprob=zeros,
    )  # fmt: skip


@pytest.mark.parametrize("end", [True, False])
def test_extraction_strength_counts_the_correct_suffix(end: bool) -> None:
    """1111: nothing needed, 1. 0011: two of four. 1101: one. 1110: the last is wrong, 0, not 1/n. 0: 0, not 1."""
    scores = scores_of("1111", "0011", "1101", "1110", "0", "1", end=end)
    assert extraction_strength(scores).tolist() == [1.0, 0.5, 0.25, 0.0, 0.0, 1.0]


def test_exact_memorization_counts_correct_tokens() -> None:
    assert exact_memorization(scores_of("1111", "0011", "1101", "0000")).tolist() == [1.0, 0.5, 0.75, 0.0]


def test_the_end_token_does_not_count_for_memorization_but_for_likelihood() -> None:
    scores = scores_of("11", logprob=0.0)
    scores.logprob[2] = np.log(1 / 8)
    assert extraction_strength(scores)[0] == exact_memorization(scores)[0] == 1.0
    assert probability(scores)[0] == pytest.approx(0.5)  # the geometric mean of 1, 1 and 1/8
    assert perplexity(scores)[0] == pytest.approx(2.0)


def test_an_empty_answer_is_not_scored() -> None:
    scores = scores_of("", "1")
    assert np.isnan(extraction_strength(scores)[0])
    assert np.isnan(exact_memorization(scores)[0])
    assert np.isnan(probability(scores_of("", end=False))[0])


def test_perplexity_stays_finite() -> None:
    assert np.isfinite(perplexity(scores_of("1", logprob=-1e6))[0])


def test_divergence_is_the_mean_over_labelled_tokens() -> None:
    assert kl_to_original(scores_of("11"))[0] == pytest.approx(0.5)


def test_scores_survive_storage_to_the_bit(tmp_path) -> None:  # type: ignore[no-untyped-def]
    scores = scores_of("1101", "0", logprob=-0.1)
    scores.save(tmp_path / "scores.parquet")
    assert TokenScores.load(tmp_path / "scores.parquet").equals(scores)
    assert scores.select([1, 0]).select([1, 0]).equals(scores)
    assert not scores.select([1, 0]).equals(scores)
