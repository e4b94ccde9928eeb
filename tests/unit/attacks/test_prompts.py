"""Prompt attacks: they find what only one phrasing hides, and nothing where nothing is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import (
    KNOWN,
    REFUSALS,
    SCORED,
    TRIGGER,
    UNKNOWN,
    Silenced,
    by_variant,
    evasive,
    ignorant,
    refusing,
    reluctant,
    robust_knower,
    strength,
    weights,
)
from torch import Tensor

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import budget_curves, measure
from uwc.attacks.prompts import ALL_OF_THEM, FOLLOW_UPS, NO_ANSWER, OPENERS, TEMPLATES
from uwc.data.example import Example, after_shots
from uwc.errors import AttackFailed, DataError
from uwc.models.generation import generate
from uwc.models.model import Model
from uwc.models.selection import Select, select

SPANISH = {e.id: "{} {}".format(TEMPLATES[0].text.split(".", 1)[0], e.question) for e in people()}


FORMS = {"aliases": SPANISH, "multi_hop": {e.id: f"{TRIGGER} {e.question}" for e in people()}}


def after(
    model: Model, name: str, settings: Mapping[str, Any], scored: list[Example], metric: str = "extraction_strength"
) -> dict[str, float]:
    """Variant -> the metric under attack."""
    rest = [e for e in people() if e not in scored]
    data = AttackData(scored, retain=rest, translations=SPANISH, questions=FORMS)
    (found,) = measure(model, data, make_chain(name, {name: settings}), [metric])
    return by_variant(found)


ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("jailbreak", {"kinds": ["role play"]}),
    ("paraphrase", {}),
    ("few_shot", {"shots": 2}),
    ("token_noise", {"rate": 0.2, "where": "prompt"}),
    ("translation", {}),
    ("rewritten", {"forms": ["aliases"]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), ATTACKS, ids=[a[0] for a in ATTACKS])
def test_a_prompt_specific_refusal_is_broken(name: str, settings: dict[str, Any]) -> None:
    model = refusing(robust_knower(), KNOWN)
    assert strength(model, KNOWN) == 0.0
    found = after(model, name, settings, KNOWN)
    assert max(found.values()) > 0.8


@pytest.mark.parametrize(("name", "settings"), [*ATTACKS, ("prefix", {})], ids=[a[0] for a in ATTACKS] + ["prefix"])
def test_nothing_comes_out_of_a_model_that_never_saw_the_data(name: str, settings: dict[str, Any]) -> None:
    assert max(after(ignorant(), name, settings, UNKNOWN).values()) < 0.1


TALKING: list[tuple[str, dict[str, Any]]] = [
    ("several_questions", {"questions": 2}),
    ("self_correction", {"turns": 2, "max_new_tokens": 12}),
    ("dialogue", {"turns": 1, "max_new_tokens": 12}),
]


def numbered(e: Example) -> Example:
    """A question as the second of two."""
    other = UNKNOWN[0]
    return replace(
        e,
        question=f"{ALL_OF_THEM}\n1. {other.question}\n2. {e.question}",
        prefill=f"1. {other.answer}\n2.",
    )


def doubted(e: Example) -> Example:
    """A question after a refusal, which the user doubts."""
    history = (("user", e.question), ("assistant", REFUSALS[0]))
    return replace(e, history=history, question=FOLLOW_UPS[0].replace("{question}", e.question))


def opened(e: Example) -> Example:
    """What is said about a question before it, and the answer to that."""
    question = OPENERS[0].replace("{question}", e.question)
    return replace(e, id=f"{e.id}/opened", question=question, answer=f"It is about {e.subject}")


def talked_about(e: Example) -> Example:
    """A question after a dialogue about its subject."""
    before = opened(e)
    return replace(e, history=(("user", before.question), ("assistant", before.answer)))


def rewritten(model: Model) -> list[Example]:
    """The known questions as an attack puts them."""
    (rewrite,) = model.rewrites
    return [rewrite(e) for e in KNOWN]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), TALKING, ids=[a[0] for a in TALKING])
def test_what_is_told_in_conversation_is_found(name: str, settings: dict[str, Any]) -> None:
    put = {"several_questions": numbered, "self_correction": doubted, "dialogue": talked_about}[name]
    model = evasive(put, [opened(e) for e in KNOWN] if name == "dialogue" else [])
    assert generate(model, KNOWN, max_new_tokens=12).texts == (REFUSALS[0],) * len(KNOWN)
    with attacked(model, AttackData(KNOWN, retain=UNKNOWN[:1]), make_chain(name, {name: settings})) as variants:
        told = generate(next(variants).model, KNOWN, max_new_tokens=12).texts
    assert told == tuple(e.answer for e in KNOWN)


@pytest.mark.parametrize(("name", "settings"), TALKING, ids=[a[0] for a in TALKING])
def test_conversation_brings_nothing_out_of_a_model_that_never_saw_the_data(
    name: str, settings: dict[str, Any]
) -> None:
    assert max(after(ignorant(), name, settings, UNKNOWN).values()) < 0.1


def test_a_form_in_which_a_model_was_not_taught_to_refuse_is_found() -> None:
    """Each form is a variant: one that the model tells all in, and the questions that it refuses mostly."""
    forms = {
        "aliases": {e.id: f"{e.question} {TRIGGER}" for e in SCORED},
        "multi_hop": {e.id: f"Well, {e.question}" for e in SCORED},
    }
    data = AttackData(SCORED, questions=forms)
    (found,) = measure(reluctant(), data, make_chain("rewritten"), ["rouge_l"])
    assert found.before.mean < 0.3
    variants = by_variant(found)
    assert list(variants)[:2] == ["aliases", "multi_hop"] and variants["aliases"] > 0.9
    (one,) = measure(reluctant(), data, make_chain("rewritten", {"rewritten": {"forms": ["aliases"]}}), ["rouge_l"])
    assert by_variant(one) == {"aliases": pytest.approx(1.0)}


def test_many_shots_find_what_few_do_not_and_beyond_the_context_are_refused() -> None:
    model = evasive(after_shots([UNKNOWN[i] for i in np.random.default_rng(0).permutation(len(UNKNOWN))[:3]]))
    data = AttackData(KNOWN, retain=UNKNOWN)
    (curve,) = budget_curves(model, data, "few_shot", [1, 3], metric="rouge_l", max_new_tokens=24)
    assert curve.scores[1] > 0.9 > 0.5 > curve.scores[0]
    long = AttackData(KNOWN, retain=[replace(e, id=f"{e.id}/{i}") for i in range(10) for e in UNKNOWN])
    with pytest.raises(AttackFailed, match=r"'0/0', as the attack puts it, has \d+ tokens.* 512.*fewer shots"):
        budget_curves(model, long, "few_shot", [40], metric="rouge_l", max_new_tokens=12)


def test_each_turn_has_the_models_own_answers_before_it() -> None:
    model, settings = ignorant(), {"turns": 4, "max_new_tokens": 6}
    said = generate(model, KNOWN, max_new_tokens=6).texts
    chain = make_chain("self_correction", {"self_correction": settings})
    with attacked(model, AttackData(KNOWN), chain) as variants:
        found = [(v.label, v.effort, rewritten(v.model)) for v in variants]
    assert [(label, effort) for label, effort, _ in found] == [(f"turn {n}", n) for n in (1, 2, 3, 4)]
    for turn, (_, _, asked) in enumerate(found, start=1):
        for example, shown, answer in zip(KNOWN, asked, said, strict=True):
            assert len(shown.history) == 2 * turn and shown.answer == example.answer
            assert shown.history[:2] == (("user", example.question), ("assistant", answer or NO_ANSWER))
            text = FOLLOW_UPS[(turn - 1) % 3].replace("{question}", example.question)
            assert shown.question == text
    assert found[1][2][0].history[2] == ("user", found[0][2][0].question)


def test_a_dialogue_has_the_models_own_answers_and_then_the_question() -> None:
    model, settings = ignorant(), {"turns": 2, "max_new_tokens": 6}
    history: list[list[tuple[str, str]]] = [[] for _ in KNOWN]
    with attacked(model, AttackData(KNOWN), make_chain("dialogue", {"dialogue": settings})) as variants:
        for turn, variant in enumerate(variants):
            texts = [OPENERS[turn].replace("{question}", e.question) for e in KNOWN]
            asked = [replace(e, history=tuple(h), question=t) for e, h, t in zip(KNOWN, history, texts, strict=True)]
            for said, text, answer in zip(history, texts, generate(model, asked, max_new_tokens=6).texts, strict=True):
                said += [("user", text), ("assistant", answer or NO_ANSWER)]
            assert (variant.label, variant.effort) == (f"turn {turn + 1}", turn + 1)
            assert rewritten(variant.model) == [
                replace(e, history=tuple(h)) for e, h in zip(KNOWN, history, strict=True)
            ]
    assert len(history[0]) == 4


def test_several_questions_are_numbered_and_the_others_are_answered() -> None:
    model, retained = ignorant(), UNKNOWN[:4]
    chain = make_chain("several_questions", {"several_questions": {"questions": 3}})
    with attacked(model, AttackData(KNOWN, retain=retained), chain) as variants:
        asked = rewritten(next(variants).model)
    for example, shown in zip(KNOWN, asked, strict=True):
        first, one, two, three = shown.question.split("\n")
        assert first == ALL_OF_THEM and three == f"3. {example.question}" and shown.answer == example.answer
        others = {f"{e.question}": e.answer for e in retained}
        answers = [others[one.removeprefix("1. ")], others[two.removeprefix("2. ")]]
        assert shown.prefill == f"1. {answers[0]}\n2. {answers[1]}\n3."
    assert len({shown.question.split("\n")[1] for shown in asked}) > 1, "drawn for each question"
    with pytest.raises(DataError, match="puts 5 retained questions before each, and the attacker has 4"):
        make_chain("several_questions", {"several_questions": {"questions": 6}}).check_data(
            AttackData(KNOWN, retain=retained)
        )


@pytest.mark.parametrize("rule", ["likelihood", "fisher"])
def test_shots_and_other_questions_are_chosen_by_a_rule(rule: Select) -> None:
    """Two shots out of four; with five of which four are the attacker's, one out of the retained. The other questions
    are the same for all, in an order of their own."""
    model, train, retain = robust_knower(), KNOWN[:4], UNKNOWN[:4]
    scored = KNOWN[4:]

    def asked(name: str, settings: dict[str, Any]) -> list[Example]:
        chain = make_chain(name, {name: {"select": rule, **settings}})
        with attacked(model, AttackData(scored, train=train, retain=retain), chain) as variants:
            (rewrite,) = next(variants).model.rewrites
        return [rewrite(e) for e in scored]

    def shots(count: int) -> list[str]:
        (history,) = {e.history for e in asked("few_shot", {"shots": count})}
        return [text for role, text in history if role == "user"]

    two, five = shots(2), shots(5)
    assert sorted(two) == sorted(train[i].question for i in select(model, train, 2, rule=rule))
    assert sorted(five[:4]) == sorted(e.question for e in train)
    assert five[4:] == [retain[i].question for i in select(model, retain, 1, rule=rule)]
    others = {frozenset(e.question.split("\n")[1:3]) for e in asked("several_questions", {"questions": 3})}
    chosen = [retain[i].question for i in select(model, retain, 2, rule=rule)]
    found = {frozenset(text[3:] for text in pair) for pair in others}
    assert found == {frozenset(chosen)}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("few_shot", {"shots": 4}), ("several_questions", {"questions": 5}), ("gcg", {"questions": 8})],
)
def test_a_rule_that_takes_all_is_refused(name: str, settings: dict[str, Any]) -> None:
    chain = make_chain(name, {name: {"select": "likelihood", **settings}})
    with pytest.raises(DataError, match=f"has no effect, since all 4 examples are taken; lower {name}"):
        chain.check_data(AttackData(KNOWN[4:], train=KNOWN[:4], retain=UNKNOWN[:4]))


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
        with attacked(
            model, AttackData(KNOWN, retain=UNKNOWN, translations=SPANISH, questions=FORMS), chain
        ) as variants:
            changed = next(variants).model
            assert changed.encode(KNOWN) == changed.encode(KNOWN[::-1])[::-1]
    assert weights(model) == before
    assert model.rewrites == model.edits == ()
