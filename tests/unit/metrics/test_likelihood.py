"""Metrics of token likelihoods: by hand, against slow definitions, and by drawing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import copied, people
from tests.helpers.scores_by_hand import greedy_scores, scores

from uwc.errors import ConfigError
from uwc.metrics.likelihood import (
    exact_memorization,
    extraction_strength,
    extraction_strength_similar,
    kl_to_original,
    paraphrase_probability,
    perplexity,
    probabilistic_extraction,
    probability,
)
from uwc.models.generation import Similarity, continue_greedily, places_of, shortest_similar_prefixes
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import Sampling, TokenScores


def test_the_end_token_counts() -> None:
    """The geometric mean of 1, 1 and, for the end token, 1/8."""
    found = scores([[0.0, 0.0, np.log(1 / 8)]], end=True)
    assert probability(found)[0] == pytest.approx(0.5)
    assert perplexity(found)[0] == pytest.approx(2.0)


def test_the_paraphrase_has_its_own_probability() -> None:
    """Two tokens of 1/2 and 1/8: the geometric mean is 1/4."""
    assert paraphrase_probability(scores([[np.log(1 / 2), np.log(1 / 8)]]))[0] == pytest.approx(0.25)


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


bits = st.text("01", min_size=1, max_size=12)


@pytest.mark.parametrize("end", [True, False])
def test_extraction_strength_counts_the_correct_suffix(end: bool) -> None:
    """1111: nothing needed, 1. 0011: two of four. 1101: one. 1110: the last is wrong, 0, not 1/n. 0: 0, not 1."""
    answers = [greedy + "0" * end for greedy in ("1111", "0011", "1101", "1110", "0", "1")]
    assert extraction_strength(greedy_scores(*answers, end=end)).tolist() == [1.0, 0.5, 0.25, 0.0, 0.0, 1.0]


def test_exact_memorization_counts_correct_tokens_and_no_end_token() -> None:
    assert exact_memorization(greedy_scores("11110", "00110", "11010", "00001", end=True)).tolist() == [
        1.0,
        0.5,
        0.75,
        0.0,
    ]


@given(st.lists(bits, min_size=1, max_size=6))
def test_extraction_strength_is_the_slow_definition(answers: list[str]) -> None:
    for answer, value in zip(answers, extraction_strength(greedy_scores(*answers)), strict=True):
        shortest = min(k for k in range(len(answer) + 1) if set(answer[k:]) <= {"1"})
        assert value == pytest.approx(1 - shortest / len(answer))


@given(st.lists(bits, min_size=1, max_size=6))
def test_exact_memorization_is_the_slow_definition(answers: list[str]) -> None:
    for answer, value in zip(answers, exact_memorization(greedy_scores(*answers)), strict=True):
        assert value == pytest.approx(answer.count("1") / len(answer))


def test_similar_extraction_by_hand() -> None:
    """Prefixes 0, 1 and 4 of 4 tokens."""
    assert extraction_strength_similar(greedy_scores("1111", "1111", "0000"), np.array([0.0, 1.0, 4.0])).tolist() == [
        1,
        0.75,
        0,
    ]


@pytest.mark.parametrize(("share", "seed"), [(0.5, None), (0.25, 1), (0.9, 2)])
def test_the_similar_prefix_is_the_first_whose_continuation_has_a_share_in_common(
    share: float, seed: int | None, knowing: Model
) -> None:
    """Against one generation for every prefix and a plain longest common subsequence, also with noise on weights."""
    model, examples = copied(knowing), people()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.model.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    tokens = score_tokens(model, examples)
    exact = np.rint(tokens.answer_lengths() * (1 - extraction_strength(tokens))).astype(int)
    correct = np.split(tokens.greedy[tokens.in_answer], np.cumsum(tokens.answer_lengths())[:-1])
    found = shortest_similar_prefixes(model, examples, correct, share=share)
    for encoded, k_found, k_exact in zip(model.encode(examples), found, exact, strict=True):
        answer = list(encoded.tokens[encoded.start : encoded.end])
        slow = len(answer)
        for k in range(len(answer)):
            prompt = list(encoded.tokens[: encoded.start + k])
            ((said, _),) = continue_greedily(model, [prompt], max_new_tokens=len(answer) - k)
            if said and common(said, answer[k:]) >= share * (len(answer) - k):
                slow = k
                break
        assert k_found == slow <= k_exact
    assert (found < exact).any() or seed is not None


def test_nothing_is_generated_where_correct_tokens_decide(knowing: Model) -> None:
    """All tokens but the last one are more than half of the answer."""
    examples = people(4)[1::2]
    correct = [np.arange(e.end - e.start) < e.end - e.start - 1 for e in knowing.encode(examples)]
    assert shortest_similar_prefixes(knowing, examples, correct).tolist() == [0, 0, 0, 0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.lists(st.integers(0, 3), max_size=9), st.integers(1, 9))
def test_common_tokens_are_counted_as_by_the_table(rest: list[int], said: list[int], least: int) -> None:
    """Ended early, the answer is the same."""
    said = said[: len(rest)]
    need = Similarity(places_of([7, 7, *rest]), 2, 2 + len(rest), least)
    for token in said:
        if need.open:
            need.add(token)
    assert need.similar == (common(said, rest) >= least)
    assert need.open or need.similar or common(said, rest) + len(rest) - len(said) < least or len(said) == len(rest)


def common(a: list[int], b: list[int]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


ALL = Sampling(1.0, 0).name


def test_n_tries_by_hand() -> None:
    """p = 1/2 x 1/4 = 1/8, without the end token; three tries: 1 - (7/8)^3 = 169/512."""
    rows = scores([[0.0] * 3], end=True, sampled={ALL: np.log([0.5, 0.25, 0.1]).tolist()})
    assert probabilistic_extraction(rows, top_k=0, tries=1)[0] == pytest.approx(1 / 8)
    assert probabilistic_extraction(rows, top_k=0, tries=3)[0] == pytest.approx(169 / 512)


def test_small_and_certain_chances_are_exact() -> None:
    """1 - (1 - p)^n for p = 1e-20 and n = 1000 is 1e-17, which 1 - p would lose; p = 1 gives 1; p = 0 gives 0."""
    rows = scores([[0.0], [0.0], [0.0], []], sampled={ALL: [float(np.log(1e-20)), 0.0, -np.inf]})
    values = probabilistic_extraction(rows, top_k=0, tries=1000)
    assert values[0] == pytest.approx(1e-17, rel=1e-5)
    assert values[1:3].tolist() == [1.0, 0.0]
    assert np.isnan(values[3])


def test_what_was_not_scored_is_named() -> None:
    with pytest.raises(ConfigError, match=r"temperature=0\.5 top_k=7 was not scored"):
        probabilistic_extraction(scores([[0.0]]), temperature=0.5, top_k=7)
    with pytest.raises(ConfigError, match="at least 1"):
        probabilistic_extraction(scores([[0.0]]), tries=0)
    with pytest.raises(ConfigError, match="must be positive"):
        Sampling(temperature=0.0)
