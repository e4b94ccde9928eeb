"""Chains of attacks: what is refused before anything runs, and what is left as it was."""

from dataclasses import replace
from typing import Any

import pytest
from tests.conftest import tiny_model
from tests.helpers.hidden_knowledge import KNOWN, UNKNOWN, weights

from uwc.attacks.chain import attacked, make_chain, precision_of, require_precisions
from uwc.attacks.data import AttackData
from uwc.attacks.registry import PRECISIONS, attacks
from uwc.data.passages import passage
from uwc.errors import AttackFailed, ConfigError, DataError
from uwc.models.model import Model

QUICK: dict[str, dict[str, Any]] = {
    "few_shot": {"shots": 1}, "gcg": {"steps": 1, "candidates": 8, "start": "x"},
    "gcg_per_question": {"steps": 1, "candidates": 4, "start": "x"}, "probe": {"epochs": 1},
    "self_correction": {"turns": 1, "max_new_tokens": 2},
    "strongest": {"runs": 2, "attacks": ["int3", "int2"]},
    "dialogue": {"turns": 1, "max_new_tokens": 2},
    "planning": {"rollouts": 1, "max_new_tokens": 2},
    "evolution": {"population": 2, "generations": 1, "mutations": 1, "best": 1, "max_new_tokens": 2},
    "soft_prompt": {"steps": 1}, "sampling": {"samples": 1}, "relearn": {"steps": 2, "lr": 1e-3, "budgets": [1, 2]},
}  # fmt: skip


def data() -> AttackData:
    return AttackData(
        KNOWN[:2], train=KNOWN[2:6], retain=KNOWN[6:], unrelated=UNKNOWN,
        translations={e.id: f"¿{e.question}" for e in KNOWN}, forget=KNOWN[:4],
        questions={"aliases": {e.id: f"{e.question} (by an alias)" for e in KNOWN}},
    )  # fmt: skip


@pytest.mark.parametrize("entry", list(attacks), ids=lambda e: e.name)
def test_every_attack_leaves_the_model_as_it_was_also_on_error(entry: Any) -> None:
    model = tiny_model()
    before = weights(model)
    chain = make_chain(entry.name, {entry.name: QUICK.get(entry.name, {})})

    def fail_in_the_middle() -> None:
        with attacked(model, data(), chain) as variants:
            next(variants).model.encode(data().scored)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_in_the_middle()
    assert weights(model) == before
    assert all(p.grad is None for p in model.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


@pytest.mark.parametrize("entry", list(attacks), ids=lambda e: e.name)
def test_every_attack_declares_itself(entry: Any) -> None:
    declared = {"kind", "touches_weights", "needs", "effort", "budgets", "check", "trains_on_scored", "rewords"}
    optional = {"uses", "asks", "check_answers"}
    assert set(entry.facts) - optional - {"in_search"} == declared
    assert all(callable(entry.facts.get(fact, callable)) for fact in optional)
    assert entry.facts["effort"] in ("", *entry.settings)
    assert ("budgets" in entry.settings) == entry.facts["budgets"]


def same_tokens(first: Model, second: Model) -> bool:
    return first.encode(data().scored) == second.encode(data().scored)


def test_a_chain_carries_out_its_attacks_in_order() -> None:
    """Relearning gives two budgets and probing one depth each; the prompts of both are the jailbroken ones."""
    model = tiny_model()
    settings = {"relearn": QUICK["relearn"], "probe": {"epochs": 1, "layers": [2]}, "jailbreak": {"kinds": ["fiction"]}}
    labels = []
    with attacked(model, data(), make_chain("relearn+probe+jailbreak", settings)) as variants:
        for variant in variants:
            labels.append((variant.label, variant.effort))
            assert not same_tokens(variant.model, model)
    assert labels == [
        ("1 steps, layer 2, novel", 1), ("1 steps, layer 2, stage", 1), ("2 steps, layer 2, novel", 2),
        ("2 steps, layer 2, stage", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ("probe+relearn", {}, "'relearn' changes the weights, and must come before 'probe'"),
        ("jailbreak+quantization", {}, "must come before 'jailbreak'"),
        ("probe+logit_lens", {}, "'probe' and 'logit_lens' exclude each other"),
        ("sampling+beam_search", {}, "exclude each other"),
        ("sampling+planning", {}, "exclude each other"),
        ("probe+gcg", {}, "'gcg' needs the model's own forward"),
        ("probe+sampling", {}, "'sampling' needs the model's own forward"),
        ("probe+jailbreak+sampling", {}, "'sampling' needs the model's own forward"),
        ("relearning", {}, r"unknown attack 'relearning' \(did you mean 'relearn'\?\)"),
        ("relearn", {"relearn": {"step": 3}}, r"unknown setting of the attack 'relearn' 'step' \(did you mean 'steps'"),
        ("token_noise", {"token_noise": {"rate": 1.5}}, "rate = 1.5: Input should be less than or equal to 1"),
        ("pruning", {"pruning": {"share": -0.1}}, "greater than or equal to 0"),
        ("quantization", {"quantization": {"bits": 1}}, "bits = 1"),
        ("int4", {"quantization": {"bits": 3}}, "the precision 'int4' has bits = 4; name the attack 'quantization'"),
        ("relearn", {"relearn": {"steps": 0}}, "steps = 0"),
        ("relearn", {"relearn": {"steps": 2, "budgets": [3]}}, "'relearn': the budget 3 is more than steps = 2"),
        ("gcg_per_question", {"gcg_per_question": {"budgets": [251]}}, "the budget 251 is more than steps = 250"),
    ],
)
def test_bad_chains_are_refused(names: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_chain(names, settings)


def test_a_precision_stands_for_its_attack() -> None:
    chain = make_chain("int4+jailbreak", {"quantization": {"group_size": 32}})
    first, second = chain.steps
    assert (first.entry.name, dict(first.settings)) == ("quantization", {"bits": 4, "group_size": 32})
    assert chain.name == "quantization+jailbreak" and second.entry.name == "jailbreak"
    assert dict(make_chain("nf4_double").steps[0].settings) == {"block_size": 64, "double": True}


def test_an_attack_that_is_a_precision_alone_is_known_by_it() -> None:
    assert {name: precision_of(make_chain(name)) for name in PRECISIONS} == {name: name for name in PRECISIONS}
    assert precision_of(make_chain("quantization", {"quantization": {"bits": 3}})) == "int3"
    others = (("nf4+jailbreak", {}), ("jailbreak", {}), ("quantization", {"quantization": {"group_size": 32}}))
    assert [precision_of(make_chain(name, settings)) for name, settings in others] == [None, None, None]


@pytest.mark.parametrize(
    ("names", "message"), [(["nf5"], "unknown precision 'nf5'"), (["nf4", "nf4"], "'nf4' is given twice")]
)
def test_precisions_that_do_not_exist_or_repeat_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_precisions(names)


NOTHING = AttackData(KNOWN)


@pytest.mark.parametrize(
    ("name", "settings", "given", "message"),
    [
        ("relearn", {}, NOTHING, r"'relearn' needs examples of the forgotten data, .*\(--attacker-data\)"),
        ("probe", {}, NOTHING, r"'probe' needs .*--attacker-data\), or retained examples \(--retain\)"),
        ("relearn_unrelated", {}, NOTHING, r"needs unrelated examples \(--unrelated\)"),
        ("translation", {}, NOTHING, "--translation-column"),
        ("translation", {}, replace(NOTHING, translations={"0/0": "¿?"}), "'0/1' has none"),
        ("rewritten", {}, NOTHING, "--question-column"),
        ("rewritten", {}, replace(NOTHING, questions={"hops": {"0/0": "?"}}), "the form 'hops' .*'0/1' has none"),
        ("rewritten", {"forms": ["alias"]}, replace(NOTHING, questions={"aliases": {"0/0": "?"}}), "did you mean"),
        ("paraphrase", {}, AttackData([replace(KNOWN[0], paraphrased_question="")]), "'0/0' has none"),
        ("few_shot", {}, replace(NOTHING, retain=UNKNOWN), "needs 5 examples, and the attacker has 4"),
        ("jailbreak", {}, AttackData([passage("a b c", identity="p")]), "rewords questions, and example 'p'"),
        ("jailbreak", {"kinds": ["charm"]}, NOTHING, "unknown kind 'charm'; valid: role play"),
    ],
)
def test_missing_data_is_refused(name: str, settings: Any, given: AttackData, message: str) -> None:
    with pytest.raises((DataError, ConfigError), match=message):
        make_chain(name, {name: settings}).check_data(given)


@pytest.mark.parametrize("layer", [0, 3, -3])
def test_a_depth_that_does_not_exist_is_refused(layer: int) -> None:
    chain = make_chain("probe", {"probe": {"layers": [layer]}})
    with pytest.raises(ConfigError, match=rf"layer {layer} does not exist; the model has 2 blocks: give 1..2"):
        chain.check_depth(2)


def test_an_attack_on_prompts_that_changes_none_fails() -> None:
    same = [replace(e, paraphrased_question=e.question) for e in KNOWN[:2]]
    with (
        pytest.raises(AttackFailed, match="'paraphrase' changes no prompt"),
        attacked(tiny_model(), AttackData(same), make_chain("paraphrase")) as variants,
    ):
        next(variants)
    one = [*same, replace(KNOWN[2], paraphrased_question="Who else?")]
    with attacked(tiny_model(), AttackData(one), make_chain("paraphrase")) as variants:
        assert next(variants).changed is None


def test_no_effort_asked_for_is_no_failure() -> None:
    for name in ("token_noise", "pruning"):
        setting = attacks.get(name).facts["effort"]
        with attacked(tiny_model(), AttackData(KNOWN[:2]), make_chain(name, {name: {setting: 0.0}})) as variants:
            assert next(variants).changed == (0.0 if name == "pruning" else None)
