"""Extraction strength and exact memorization against slow definitions, and in other codes' forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import people, tiny_model
from tests.helpers.scores_by_hand import scores
from tokenizers.processors import TemplateProcessing

import uwc
from uwc.errors import ConfigError
from uwc.metrics.compat import COMPAT, compat_of, floored_extraction_strength, official_extraction_strength
from uwc.metrics.likelihood import exact_memorization, extraction_strength, extraction_strength_similar
from uwc.metrics.scored import ScoredSet
from uwc.models.generation import continue_greedily, shortest_similar_prefixes
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

bits = st.text("01", min_size=1, max_size=12)


def of(*greedy: str, stops: list[str] | None = None, end: bool = False):
    return scores([[-1.0] * len(g) for g in greedy], greedy=list(greedy), stops=stops, end=end)


@pytest.mark.parametrize("end", [True, False])
def test_extraction_strength_counts_the_correct_suffix(end: bool) -> None:
    """1111: nothing needed, 1. 0011: two of four. 1101: one. 1110: the last is wrong, 0, not 1/n. 0: 0, not 1."""
    answers = [greedy + "0" * end for greedy in ("1111", "0011", "1101", "1110", "0", "1")]
    assert extraction_strength(of(*answers, end=end)).tolist() == [1.0, 0.5, 0.25, 0.0, 0.0, 1.0]


def test_exact_memorization_counts_correct_tokens_and_no_end_token() -> None:
    assert exact_memorization(of("11110", "00110", "11010", "00001", end=True)).tolist() == [1.0, 0.5, 0.75, 0.0]


@given(st.lists(bits, min_size=1, max_size=6))
def test_extraction_strength_is_the_slow_definition(answers: list[str]) -> None:
    for answer, value in zip(answers, extraction_strength(of(*answers)), strict=True):
        shortest = min(k for k in range(len(answer) + 1) if set(answer[k:]) <= {"1"})
        assert value == pytest.approx(1 - shortest / len(answer))


@given(st.lists(bits, min_size=1, max_size=6))
def test_exact_memorization_is_the_slow_definition(answers: list[str]) -> None:
    for answer, value in zip(answers, exact_memorization(of(*answers)), strict=True):
        assert value == pytest.approx(answer.count("1") / len(answer))


def test_similar_extraction_by_hand() -> None:
    """Prefixes 0, 1 and 4 of 4 tokens."""
    assert extraction_strength_similar(of("1111", "1111", "0000"), np.array([0.0, 1.0, 4.0])).tolist() == [1, 0.75, 0]


def test_the_similar_prefix_is_the_first_whose_continuation_has_half_in_common(knowing: Model) -> None:
    """Against one generation for every prefix and a plain longest common subsequence."""
    examples = people()
    tokens = score_tokens(knowing, examples)
    exact = np.rint(tokens.answer_lengths() * (1 - extraction_strength(tokens))).astype(int)
    found = shortest_similar_prefixes(knowing, examples, exact)
    for encoded, k_found, k_exact in zip(knowing.encode(examples), found, exact, strict=True):
        answer = list(encoded.tokens[encoded.start : encoded.end])
        slow = len(answer)
        for k in range(len(answer)):
            prompt = list(encoded.tokens[: encoded.start + k])
            ((said, _),) = continue_greedily(knowing, [prompt], max_new_tokens=len(answer) - k)
            if said and common(said, answer[k:]) >= 0.5 * (len(answer) - k):
                slow = k
                break
        assert k_found == slow <= k_exact
    assert (found < exact).any()


def common(a: list[int], b: list[int]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_open_unlearning_has_a_floor_of_one_in_n() -> None:
    """1110: nothing matches, yet 1/4. A single wrong token: 1. No token: 0. Ours: 0, 0 and not scored."""
    rows = of("11100", "00", "0", "00110", end=True)
    assert floored_extraction_strength(rows).tolist() == [0.25, 1.0, 0.0, 0.5]
    ours = extraction_strength(rows)
    assert ours[:2].tolist() == [0.0, 0.0]
    assert np.isnan(ours[2])


def test_open_unlearning_drops_the_last_token_where_there_is_no_end() -> None:
    """011 without an end token: the last 1 is dropped, 01 is left: 1/2, not 2/3."""
    assert floored_extraction_strength(of("011"))[0] == 0.5
    scored = ScoredSet(of("011"), ("a",), compat=COMPAT["open-unlearning"])
    assert scored.values("exact_memorization")[0] == 0.5
    assert scored.values("mia_min_k")[0] == 1.0


@pytest.mark.parametrize(
    ("greedy", "stops", "expected"),
    [
        ("0111", "0000", 0.75),  # as ours
        ("0011", "0000", 0.5),
        ("0000", "0000", 0.0),
        ("0000", "1111", 1.0),  # stops at once, everywhere: taken for a match
        ("1101", "0010", 1.0),  # right, then stops: a match from the start
        ("0001", "0010", 0.5),  # stops at 2, and is wrong at 1: 1 - 2/4; ours 1/4
    ],
)
def test_the_official_search_takes_an_early_stop_for_success(greedy: str, stops: str, expected: float) -> None:
    value = official_extraction_strength(of(greedy, stops=[stops]))[0]
    assert value == pytest.approx(expected)


def test_the_official_search_misses_a_match_that_is_not_monotone() -> None:
    """Right from the start until it stops, but wrong from the middle on: the search never looks at the start.

    Prefix 0: tokens 0 and 1 are right, at 2 the model stops: a match. Prefix 4 of 8 fails, so the search goes up.
    """
    rows = of("11000000", stops=["00100000"])
    assert official_extraction_strength(rows)[0] == 0.0


def test_the_official_prompt_starts_inside_the_question(untrained: Model) -> None:
    example = people(1)[0]
    peer = COMPAT["uwc-official"].adapt(untrained)
    encoded = peer.encode([example])[0]
    question = untrained.tokenizer(example.question, add_special_tokens=False)["input_ids"]
    assert encoded.start == len(question)
    assert encoded.end == len(encoded.tokens)
    text = untrained.tokenizer.decode(encoded.tokens)
    assert text == f"### Question: {example.question}\n ### Answer: {example.answer}"


@pytest.mark.parametrize("beginning", [False, True])
def test_the_official_score_is_that_of_a_slow_bisection(beginning: bool) -> None:
    """With one generation for each prefix, on a tokenizer that writes a beginning and on one that does not."""
    examples = [replace(e, answer=f"{e.answer} ") for e in people(2)]
    model = tiny_model(hidden_size=48)
    tokenizer = model.tokenizer
    if beginning:
        bos = ("<|pad|>", tokenizer.pad_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|pad|> $A", special_tokens=[bos])
    peer = COMPAT["uwc-official"].adapt(model)
    settings = TrainingSettings(epochs=40, batch_size=4, lr=5e-3, schedule="cosine")
    train(peer, Objective(FINE_TUNING, model.model), TrainingData(retain=examples[:3]), settings)
    scores = uwc.score(model, examples, metrics="ES", compat="uwc-official", max_new_tokens=0)
    found = scores.examples().query("set == 'forget'")["extraction_strength"].to_numpy()
    slow = []
    for example in examples:
        whole = tokenizer(f"### Question: {example.question}\n ### Answer: {example.answer}")["input_ids"]
        first = left = len(tokenizer(example.question)["input_ids"])
        right, before = len(whole), -1
        while (middle := (left + right) // 2) != before:
            ids = torch.tensor([whole[:middle]])
            said = model.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_length=len(whole),
                pad_token_id=tokenizer.eos_token_id,
            )[0].tolist()  # fmt: skip
            said = [t for t in said if t != tokenizer.eos_token_id][middle : len(whole)]
            same = sum(a == b for a, b in zip(said, whole[middle:], strict=False)) == len(said)
            left, right = (left, middle) if same else (middle, right)
            before = middle
        slow.append(1 - (right - first) / (len(whole) - first))
    assert found == pytest.approx(slow)
    assert 0 < np.mean(slow) < 1


def test_the_prompt_of_open_unlearning_hides_the_first_token(untrained: Model) -> None:
    """Its prompt ends in a space, which our tokenizer joins to the answer's first word."""
    example = people(1)[0]
    ours = untrained.encode([example])[0]
    theirs = COMPAT["open-unlearning"].adapt(untrained).encode([example])[0]
    assert theirs.tokens == ours.tokens
    assert theirs.start == ours.start + 1


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'open-unlearning'"):
        compat_of("openunlearning")
