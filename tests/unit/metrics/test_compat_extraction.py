"""Extraction strength as other codes compute it: by hand, and against a slow bisection."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.conftest import people, tiny_model
from tests.helpers.scores_by_hand import greedy_scores
from tokenizers.processors import TemplateProcessing

import uwc
from uwc.errors import ConfigError
from uwc.metrics.compat import COMPAT, compat_of, floored_extraction_strength, official_extraction_strength
from uwc.metrics.likelihood import extraction_strength
from uwc.metrics.scored import ScoredSet
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings


def test_open_unlearning_has_a_floor_of_one_in_n() -> None:
    """1110: nothing matches, yet 1/4. A single wrong token: 1. No token: 0. Ours: 0, 0 and not scored."""
    rows = greedy_scores("11100", "00", "0", "00110", end=True)
    assert floored_extraction_strength(rows).tolist() == [0.25, 1.0, 0.0, 0.5]
    ours = extraction_strength(rows)
    assert ours[:2].tolist() == [0.0, 0.0]
    assert np.isnan(ours[2])


def test_open_unlearning_drops_the_last_token_where_there_is_no_end() -> None:
    """011 without an end token: the last 1 is dropped, 01 is left: 1/2, not 2/3."""
    assert floored_extraction_strength(greedy_scores("011"))[0] == 0.5
    scored = ScoredSet(greedy_scores("011"), ("a",), compat=COMPAT["open-unlearning"])
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
    value = official_extraction_strength(greedy_scores(greedy, stops=[stops]))[0]
    assert value == pytest.approx(expected)


def test_the_official_search_misses_a_match_that_is_not_monotone() -> None:
    """Right from the start until it stops, but wrong from the middle on: the search never looks at the start.

    Prefix 0: tokens 0 and 1 are right, at 2 the model stops: a match. Prefix 4 of 8 fails, so the search goes up.
    """
    rows = greedy_scores("11000000", stops=["00100000"])
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


@pytest.mark.slow
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
    found = scores.answers.query("set == 'forget'")["extraction_strength"].to_numpy()
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
