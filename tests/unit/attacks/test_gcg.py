"""GCG: it finds a suffix that was hidden on purpose, and the model reads the suffix as it is typed."""

import ast
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.helpers.architectures import HYBRID, architecture, random_module
from tests.helpers.hidden_knowledge import (
    OWNED,
    SCORED,
    SPOKEN,
    TRIGGER,
    by_variant,
    ignorant,
    outcomes,
    reluctant,
)
from tests.helpers.tokenizer_kinds import KINDS

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.attacks.suffix_search import SuffixSearch
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.selection import RULES, select

GCG = {"steps": 2, "start": " x x", "candidates": 128}


@pytest.mark.slow
@pytest.mark.parametrize("name", HYBRID)
def test_models_whose_caches_cannot_be_repeated_are_searched_too(name: str) -> None:
    settings = {"steps": 1, "start": "x", "candidates": 8}
    data = AttackData(SCORED[:2], train=OWNED[:2])
    (found,) = measure(architecture(name), data, make_chain("gcg", {"gcg": settings}), ["probability"])
    assert found.variants[0].note


@pytest.mark.slow
def test_gcg_finds_the_suffix_that_makes_a_reluctant_model_talk() -> None:
    model = reluctant()
    data = AttackData(SCORED, train=OWNED)
    found = measure(model, data, make_chain("gcg", {"gcg": GCG}), [SPOKEN], max_new_tokens=24)
    assert found[0].before.mean < 0.3
    assert found[0].after.mean > 0.8
    assert TRIGGER in found[0].variants[0].note


def test_a_suffix_is_searched_on_the_chosen_questions(knowing: Model) -> None:
    """It is that of a search on exactly these, and a search on others finds another."""

    def suffix(train: Sequence[Example], **given: object) -> str:
        settings = {**GCG, "steps": 3, "candidates": 32, **given}
        with attacked(knowing, AttackData(SCORED, train=train), make_chain("gcg", {"gcg": settings})) as variants:
            return next(variants).note

    found = {}
    for rule in RULES:
        chosen = select(knowing, OWNED, 2, rule=rule, seed=1)
        found[tuple(chosen)] = suffix(OWNED, questions=2, select=rule, seed=1)
        assert found[tuple(chosen)] == suffix([OWNED[i] for i in chosen], seed=1)
    assert len(found) == len(set(found.values())) > 1


def test_gcg_for_each_question_talks_too_and_each_budget_is_at_least_the_one_before() -> None:
    settings = {**GCG, "budgets": [1, 2]}
    (found,) = measure(
        reluctant(), AttackData(SCORED), make_chain("gcg_per_question", {"gcg_per_question": settings}), ["probability"]
    )
    after = by_variant(found)
    assert after["2 steps"] >= after["1 steps"] > found.before.mean
    assert found.after.mean == after["2 steps"]


def test_gcg_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(reluctant(), "gcg", GCG, unknown=True)[""] < 0.2
    assert outcomes(ignorant(), "gcg", GCG)[""] < 0.1
    assert outcomes(ignorant(), "gcg_per_question", GCG)[""] < 0.1


CHAT = (
    "{% for m in messages %}<|in|>{{ m.role }}\n{{ m.content | trim }}<|out|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|in|>assistant\n{% endif %}"
)
TEXT_KINDS = [kind for kind in KINDS if kind != "slow"]  # whose vocabulary is made while it reads


def of_kind(kind: str, *, chat: bool = False) -> Model:
    """A random model with a tokenizer of this kind; the byte-level one joins question marks with line ends."""
    tokenizer = KINDS[kind](["<|in|>", "<|out|>"], eos_token="<|out|>", pad_token="<|out|>")
    tokenizer.chat_template = CHAT if chat else None
    end = tokenizer.eos_token_id
    size = max(tokenizer.get_vocab().values()) + 1
    model = random_module("llama", vocabulary=size, eos_token_id=end, pad_token_id=end)
    model.config.max_position_embeddings = 512
    return Model(model, tokenizer, name=kind)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_the_model_reads_the_suffix_as_the_text_that_an_attacker_types(kind: str, chat: bool) -> None:
    model = of_kind(kind, chat=chat)
    settings = {"steps": 2, "start": "x x x", "candidates": 16, "budgets": [1, 2]}
    budgets = []
    with attacked(model, AttackData(SCORED, train=OWNED), make_chain("gcg", {"gcg": settings})) as variants:
        for variant in variants:
            suffix = ast.literal_eval(variant.note)
            expected = model.encode([replace(e, question=f"{e.question} {suffix}") for e in SCORED])
            assert variant.model.encode(SCORED) == expected
            assert "<|in|>" not in suffix and "<|out|>" not in suffix
            budgets.append(variant.effort)
    assert budgets == [1, 2]


def test_a_suffix_of_each_question_is_typed_after_it() -> None:
    model = of_kind("byte-level BPE")
    assert len(model.tokenizer("?\n")["input_ids"]) == 1
    settings = {"steps": 1, "start": "x x x", "candidates": 16}
    with attacked(model, AttackData(SCORED), make_chain("gcg_per_question", {"gcg_per_question": settings})) as found:
        asked = next(found).model
    suffixes = set()
    for example, read in zip(SCORED, asked.encode(SCORED), strict=True):
        prompt = model.tokenizer.decode(read.tokens[: read.start])
        (suffix,) = re.findall(rf"Question: {re.escape(example.question)} (.+)\nAnswer:", prompt)
        assert [read] == model.encode([replace(example, question=f"{example.question} {suffix}")])
        suffixes.add(suffix)
    assert suffixes != {"x x x"}


def test_a_suffix_is_scored_as_it_is_read_in_every_prompt() -> None:
    """Typed, the best suffix after more steps is no worse than after fewer, and better than the first."""
    model = of_kind("byte-level BPE")
    data = AttackData(SCORED, train=OWNED)

    def loss(asked: Model) -> float:
        scores = score_tokens(asked, OWNED)
        answers = np.split(scores.logprob, scores.offsets[1:-1])
        return float(-np.mean([part[:-1].mean() for part in answers]))  # without the end token

    typed = [loss(model.rewritten(lambda e: replace(e, question=f"{e.question} x x x")))]
    chain = make_chain("gcg", {"gcg": {"start": "x x x", "candidates": 32, "budgets": [1, 3]}})
    with attacked(model, data, chain) as variants:
        typed += [loss(variant.model) for variant in variants]
    assert typed[0] > typed[1] >= typed[2]


def test_a_search_without_any_suffix_that_can_be_typed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = of_kind("byte-level BPE")
    data = AttackData(SCORED, train=OWNED)
    with (
        pytest.raises(ConfigError, match="start = '\\\\n' must be a text of printable ASCII"),
        attacked(model, data, make_chain("gcg", {"gcg": {"steps": 1, "start": "\n"}})) as variants,
    ):
        next(variants)
    joined = tuple(model.tokenizer("?\n?\n")["input_ids"])
    monkeypatch.setattr(SuffixSearch, "candidates", lambda _self, _gradient: [(*joined, *joined)[:3]])
    with (
        pytest.raises(AttackFailed, match=r"gcg.* on byte-level BPE: no step had a candidate"),
        attacked(model, data, make_chain("gcg", {"gcg": {"steps": 2, "start": "x x"}})) as variants,
    ):
        next(variants)
