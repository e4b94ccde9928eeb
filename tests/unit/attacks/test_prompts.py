"""Prompt attacks: they find what only one phrasing hides, and nothing where nothing is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import (
    KNOWN,
    UNKNOWN,
    Silenced,
    by_variant,
    ignorant,
    refusing,
    robust_knower,
    strength,
    weights,
)
from torch import Tensor

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import measure
from uwc.attacks.prompts import TEMPLATES
from uwc.data.example import Example
from uwc.models.model import Model

SPANISH = {e.id: "{} {}".format(TEMPLATES[0].text.split(".", 1)[0], e.question) for e in people()}


def after(
    model: Model, name: str, settings: Mapping[str, Any], scored: list[Example], metric: str = "extraction_strength"
) -> dict[str, float]:
    """Variant -> the metric under attack."""
    rest = [e for e in people() if e not in scored]
    data = AttackData(scored, retain=rest, translations=SPANISH)
    (found,) = measure(model, data, make_chain(name, {name: settings}), [metric])
    return by_variant(found)


ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("jailbreak", {"kinds": ["role play"]}),
    ("paraphrase", {}),
    ("few_shot", {"shots": 2}),
    ("token_noise", {"rate": 0.2, "where": "prompt"}),
    ("translation", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), ATTACKS, ids=[a[0] for a in ATTACKS])
def test_a_prompt_specific_refusal_is_broken(name: str, settings: dict[str, Any]) -> None:
    model = refusing(robust_knower(), KNOWN)
    assert strength(model, KNOWN) == 0.0
    found = after(model, name, settings, KNOWN)
    assert found.get("worst case", found.get("")) > 0.8


@pytest.mark.parametrize(("name", "settings"), [*ATTACKS, ("prefix", {})], ids=[a[0] for a in ATTACKS] + ["prefix"])
def test_nothing_comes_out_of_a_model_that_never_saw_the_data(name: str, settings: dict[str, Any]) -> None:
    assert max(after(ignorant(), name, settings, UNKNOWN).values()) < 0.1


def test_the_worst_case_is_at_least_every_variant_and_the_mean_lies_between() -> None:
    found = after(refusing(robust_knower(), KNOWN), "jailbreak", {}, KNOWN)
    variants = [found[t.name] for t in TEMPLATES]
    assert found["worst case"] >= max(variants)
    assert found["mean"] == pytest.approx(sum(variants) / len(variants))
    assert min(variants) < found["mean"] < found["worst case"]


def test_jailbreaks_are_of_several_kinds_and_differ() -> None:
    assert len({t.name for t in TEMPLATES}) == len({(t.text, t.lead) for t in TEMPLATES}) >= 15
    assert len({t.kind for t in TEMPLATES}) >= 8
    assert all("{question}" in t.text for t in TEMPLATES)


def test_a_prefix_reaches_what_only_a_wrong_first_word_hides() -> None:
    """The three first tokens of the long answers are silenced: the model never begins right, but goes on right."""
    knower, long = robust_knower(), KNOWN[1::2]

    def where(ids: Tensor) -> Tensor:
        hidden = ids != ids
        for row, tokens in enumerate(ids.tolist()):
            start = next(e.start for e in knower.encode(long) if list(e.tokens[: e.start]) == tokens[: e.start])
            hidden[row, start - 1 : start + 2] = True
        return hidden

    model = replace(knower, model=Silenced(knower.model, where))
    assert strength(model, long) < 0.95
    assert after(model, "prefix", {"tokens": 3}, long)[""] == 1.0


def test_a_prefix_leaves_the_last_token_of_a_short_answer() -> None:
    model = ignorant()
    with attacked(model, AttackData(KNOWN), make_chain("prefix", {"prefix": {"tokens": 500}})) as variants:
        for e in next(variants).model.encode(KNOWN):
            assert e.start == e.end - 1


def test_few_shots_stand_before_the_question_in_the_models_own_format() -> None:
    model = ignorant()
    data = AttackData(KNOWN[:4], train=KNOWN[4:])
    with attacked(model, data, make_chain("few_shot", {"few_shot": {"shots": 2}})) as variants:
        encoded = next(variants).model.encode(KNOWN[:1])[0]
    text = model.tokenizer.decode(encoded.tokens)
    assert text.count("Question:") == 3
    assert text.endswith(f"Question: {KNOWN[0].question}\nAnswer: {KNOWN[0].answer}<|end|>")
    assert model.tokenizer.decode(encoded.tokens[encoded.start : encoded.end]).strip() == KNOWN[0].answer


@pytest.mark.parametrize("where", ["prompt", "answer", "both"])
def test_noise_replaces_its_share_of_the_right_tokens(where: str) -> None:
    model = ignorant()
    settings = {"token_noise": {"rate": 0.25, "where": where}}
    with attacked(model, AttackData(people()), make_chain("token_noise", settings)) as variants:
        noisy = next(variants).model.encode(people())
    changed = total = 0
    for clean, dirty in zip(model.encode(people()), noisy, strict=True):
        assert (clean.start, clean.end, len(clean.tokens)) == (dirty.start, dirty.end, len(dirty.tokens))
        places = [i for i, (a, b) in enumerate(zip(clean.tokens, dirty.tokens, strict=True)) if a != b]
        low, high = {"prompt": (0, clean.start), "answer": (clean.start, clean.end), "both": (0, clean.end)}[where]
        assert all(low <= i < high for i in places)
        changed, total = changed + len(places), total + high - low
    assert changed / total == pytest.approx(0.25, abs=0.05)


def test_noise_of_rate_0_and_1_replaces_nothing_and_everything() -> None:
    model = ignorant()
    for rate in (0, 1):
        chain = make_chain("token_noise", {"token_noise": {"rate": rate}})
        with attacked(model, AttackData(KNOWN), chain) as variants:
            (noisy,) = next(variants).model.encode(KNOWN[:1])
        (clean,) = model.encode(KNOWN[:1])
        same = [a == b for a, b in zip(clean.tokens[: clean.end], noisy.tokens[: clean.end], strict=True)]
        assert all(same) if rate == 0 else not any(same)


def test_prompt_attacks_repeat_to_the_bit_whatever_the_order_and_leave_the_weights() -> None:
    model = robust_knower()
    before = weights(model)
    for name, settings in ATTACKS:
        chain = make_chain(name, {name: settings})
        with attacked(model, AttackData(KNOWN, retain=UNKNOWN, translations=SPANISH), chain) as variants:
            changed = next(variants).model
            assert changed.encode(KNOWN) == changed.encode(KNOWN[::-1])[::-1]
    assert weights(model) == before
    assert model.rewrites == model.edits == ()
