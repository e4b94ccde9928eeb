"""Attacks on a system that only answers put the same questions as those on models in memory."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.conftest import people
from tests.helpers.hidden_knowledge import ignorant

from uwc.attacks.asked import text_variants
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.registry import attack_method, attacks
from uwc.data.example import Example
from uwc.errors import AttackFailed, ConfigError, DataError
from uwc.models.model import Model

SCORED = people(3)
DATA = AttackData(
    SCORED,
    train=people()[6:8],
    retain=people()[8:10],
    unrelated=people()[10:],
    translations={e.id: f"¿{e.question}" for e in SCORED},
    questions={form: {e.id: f"{e.question} {form}" for e in SCORED} for form in ("aliases", "multi_hop")},
)


@pytest.mark.parametrize(
    "names",
    [
        *("jailbreak", "few_shot", "paraphrase", "translation", "rewritten", "paraphrase+jailbreak"),
        *("few_shot+jailbreak", "rewritten+jailbreak"),
    ],
)
def test_the_prompts_are_those_that_models_in_memory_get(names: str) -> None:
    chain = make_chain(names, {"few_shot": {"shots": 2}} if "few_shot" in names else {})
    model = ignorant()
    with attacked(model, DATA, chain) as variants:
        expected = [(v.label, model.prompts(v.model.encode(SCORED))) for v in variants]
    found = text_variants(chain, DATA)
    assert [(v.label, model.prompts(model.encode(v.examples))) for v in found] == expected
    assert all(v.draw is None for v in found)


def test_samples_are_drawn_with_the_settings_of_the_attack() -> None:
    settings = {"sampling": {"samples": 3, "temperature": 0.7, "top_p": 0.9, "seed": 2}, "few_shot": {"shots": 1}}
    found = text_variants(make_chain("few_shot+sampling", settings), DATA)
    assert [v.label for v in found] == ["sample 1", "sample 2", "sample 3"]
    assert [(v.draw.number, v.draw.temperature, v.draw.top_p) for v in found if v.draw] == [
        (0, 0.7, 0.9), (1, 0.7, 0.9), (2, 0.7, 0.9)
    ]  # fmt: skip
    assert len({v.draw.seed for v in found if v.draw}) == 3
    assert all(e.history[1] == ("assistant", e.history[1][1]) for v in found for e in v.examples)
    plain = text_variants(make_chain("sampling", {"sampling": {"samples": 1}}), DATA)
    assert list(plain[0].examples) == SCORED


TEXTUAL = {
    *("jailbreak", "few_shot", "several_questions", "paraphrase", "translation", "rewritten", "sampling"),
    *("self_correction", "dialogue", "evolution"),
}


@pytest.mark.parametrize("name", [entry.name for entry in attacks if entry.name not in TEXTUAL])
def test_every_other_attack_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*needs the model's weights"):
        text_variants(make_chain(name), DATA)


@pytest.mark.parametrize("rule", ["likelihood", "fisher"])
def test_examples_are_chosen_at_random_only(rule: str) -> None:
    chain = make_chain("few_shot", {"few_shot": {"shots": 1, "select": rule}})
    with pytest.raises(ConfigError, match=f"'few_shot': select: {rule} reads the model's likelihoods"):
        text_variants(chain, DATA)


def test_missing_data_and_attacks_without_effect_are_errors() -> None:
    with pytest.raises(DataError, match="translation"):
        text_variants(make_chain("translation"), AttackData(SCORED))
    same = AttackData([replace(e, paraphrased_question=e.question) for e in SCORED])
    with pytest.raises(AttackFailed, match="paraphrase"):
        text_variants(make_chain("paraphrase"), same)


@pytest.mark.usefixtures("restored_registries")
def test_an_attack_of_a_user_that_rewrites_questions_needs_no_weights() -> None:
    @attack_method
    def shouting(model: Model, _data: AttackData) -> Model:
        return model.rewritten(lambda e: replace(e, question=e.question.upper()))

    @attack_method
    def reading(model: Model, _data: AttackData) -> Iterator[Model]:
        yield model.rewritten(lambda e: Example(id=e.id, question=model.tokenizer.decode([1]), answer=e.answer))

    (variant,) = text_variants(make_chain("shouting"), DATA)
    assert [e.question for e in variant.examples] == [e.question.upper() for e in SCORED]
    with pytest.raises(ConfigError, match="reading"):
        text_variants(make_chain("reading"), DATA)
