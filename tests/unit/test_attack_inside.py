"""Attacks on the inside and on decoding: probes, logit lens, ablation, soft prompts, GCG, sampling, beams."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people, tiny_target
from tests.unit.hidden_knowledge import KNOWN, TRIGGER, UNKNOWN, ignorant, muted, reluctant, strength
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, PhiConfig, Qwen3Config

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.curves import budget_curve
from uwc.attacks.data import AttackData
from uwc.attacks.measuring import combine, measure, metric_values
from uwc.attacks.probing import cached_states, chosen_depths, train_heads
from uwc.attacks.soft_prompt import SoftPrompted
from uwc.attacks.suffix_search import Problem, SearchSettings, SuffixSearch, allowed_tokens
from uwc.attacks.surrogate import Intervened, ReadAt, final_norm
from uwc.errors import ConfigError
from uwc.models.forward import score_tokens
from uwc.models.generation import continue_greedily, generate
from uwc.models.states import blocks
from uwc.models.target import Target

SCORED, OWNED = KNOWN[:4], KNOWN[4:]
PROBE = {"lr": 1e-3, "positions": 32, "epochs": 5}
GCG = {"steps": 2, "start": " x x", "candidates": 128}
SOFT = {"steps": 30, "lr": 0.1, "tokens": 4}
SPOKEN = "rouge_l"


def outcomes(
    target: Target, name: str, settings: dict[str, Any], metric: str = "extraction_strength", *, unknown: bool = False
) -> dict[str, float]:
    """Variant -> the metric under attack, on what is known or on what never was."""
    data = AttackData(UNKNOWN if unknown else SCORED, train=OWNED, retain=[] if unknown else UNKNOWN)
    found = measure(target, data, make_chain(name, {name: settings}), [metric], max_new_tokens=24)
    return {o.variant: o.after for o in found}


def test_probes_read_past_an_output_layer_that_only_silences(knowing: Target) -> None:
    silent = muted(knowing)
    assert strength(silent, SCORED) == 0.0
    found = outcomes(silent, "probe", PROBE)
    assert found["layer 2"] > 0.7
    assert found["strongest"] >= max(found["layer 1"], found["layer 2"])


def test_probes_read_nothing_that_was_never_known(knowing: Target) -> None:
    assert max(outcomes(tiny_target(hidden_size=64), "probe", PROBE).values()) < 0.1
    assert outcomes(muted(knowing), "probe", PROBE, unknown=True)["strongest"] < 0.3


def test_all_depths_together_learn_what_each_learns_alone(knowing: Target) -> None:
    states, targets = cached_states(knowing, KNOWN, [1, 2])
    weight = knowing.model.get_output_embeddings().weight
    settings = {"epochs": 2, "lr": 1e-2, "positions": 16, "seed": 3}
    together = train_heads(states, targets, weight, **settings)
    for depth in (1, 2):
        alone = train_heads({depth: states[depth]}, targets, weight, **settings)[depth]
        assert torch.equal(alone.weight, together[depth].weight)


def test_the_last_layer_read_with_the_models_own_head_is_the_model(knowing: Target) -> None:
    head = knowing.model.get_output_embeddings()
    reader = replace(knowing, model=ReadAt(knowing.model, 2, head))
    ours, models = score_tokens(reader, people()), score_tokens(knowing, people())
    np.testing.assert_allclose(ours.logprob, models.logprob, atol=1e-5)
    texts = [generate(asked, people(), max_new_tokens=12).texts for asked in (reader, knowing)]
    assert texts[0] == texts[1]
    prompts = [list(e.tokens[: e.start]) for e in knowing.encode(people()[:2])]
    assert continue_greedily(reader, prompts, max_new_tokens=5) == continue_greedily(knowing, prompts, max_new_tokens=5)


ARCHITECTURES = [
    GPT2Config(n_layer=2, n_embd=32, n_head=2, n_positions=128),
    GPTNeoXConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64),
    PhiConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64),
    Qwen3Config(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, head_dim=16),
]


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda c: c.model_type)
def test_other_architectures_are_read_fed_and_searched_as_well(config: Any) -> None:
    """The last layer read with the own head is the model, padded on the left too; no soft prompt changes nothing."""
    tokenizer = tiny_target().tokenizer
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 128
    config.bos_token_id, config.eos_token_id, config.pad_token_id = None, tokenizer.eos_token_id, tokenizer.pad_token_id
    torch.manual_seed(0)
    target = Target(AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    models = score_tokens(target, people())
    head = target.model.get_output_embeddings()
    for reader in (ReadAt(target.model, 2, head), SoftPrompted(target.model, torch.zeros(0, 32))):
        read = replace(target, model=reader)
        np.testing.assert_allclose(score_tokens(read, people()).logprob, models.logprob, atol=1e-4)
        texts = [generate(asked, people(), max_new_tokens=4).texts for asked in (read, target)]
        assert texts[0] == texts[1]
    settings = {"steps": 1, "start": " x", "candidates": 8}
    found = measure(target, AttackData(SCORED, train=OWNED), make_chain("gcg", {"gcg": settings}), ["probability"])
    assert found[0].note


def test_default_depths_are_a_third_two_thirds_and_the_last() -> None:
    target = tiny_target(layers=6)
    assert chosen_depths(target.model, ()) == [2, 4, 6]
    assert chosen_depths(target.model, (-1, 1)) == [1, 6]
    assert final_norm(target.model) is target.model.model.norm


def with_a_last_block_of_noise(target: Target) -> Target:
    """A block is added that writes noise over the states; what stands before it is the whole old model."""
    noisy = copied(target)
    listed = blocks(noisy.model)
    extra = copy.deepcopy(listed[-1])
    with torch.no_grad():
        extra.mlp.down_proj.weight.normal_(std=30.0, generator=torch.Generator().manual_seed(0))
    listed.append(extra)
    noisy.model.config.num_hidden_layers = len(listed)
    return noisy


def test_the_logit_lens_reads_what_the_last_block_hides(knowing: Target) -> None:
    hidden = with_a_last_block_of_noise(knowing)
    assert strength(hidden, SCORED) < 0.1
    assert outcomes(hidden, "logit_lens", {"layers": [2]})["layer 2"] > 0.9
    assert outcomes(hidden, "logit_lens", {"layers": [2]}, unknown=True)["layer 2"] < 0.3


def misdirected(target: Target, known: Sequence[Any]) -> Target:
    """A model that adds one fixed vector to its states wherever a known person is asked about (as RMU does)."""
    vector = 30 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    prompts = [torch.tensor(e.tokens[: e.start]) for e in target.encode(known)]
    model = copy.deepcopy(target.model)
    rows: list[Any] = []

    def see(_module: Any, args: Any) -> None:
        rows[:] = [[any(torch.equal(row[: len(p)], p) for p in prompts) for row in args[0]]]

    def push(_module: Any, _args: Any, states: Any) -> Any:
        moved = (states[0] if isinstance(states, tuple) else states) + torch.tensor(rows[0])[:, None, None] * vector
        return (moved, *states[1:]) if isinstance(states, tuple) else moved

    model.get_input_embeddings().register_forward_pre_hook(see)
    blocks(model)[0].register_forward_hook(push)
    return replace(target, model=model)


def test_ablating_the_direction_undoes_a_misdirection(knowing: Target) -> None:
    target = misdirected(knowing, KNOWN)
    assert strength(target, SCORED) < 0.2
    assert outcomes(target, "direction_ablation", {"layers": [1]})[""] > 0.7


def test_ablation_finds_nothing_that_was_never_known() -> None:
    assert outcomes(tiny_target(), "direction_ablation", {})[""] < 0.1


def test_after_ablation_no_state_has_a_part_along_the_direction(knowing: Target) -> None:
    chain = make_chain("direction_ablation")
    data = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
    with attacked(knowing, data, chain) as variants:
        model = next(variants).target.model
        assert isinstance(model, Intervened)
        change = model._changes[2]
    states = torch.randn(3, 5, 64)
    once = change(states)
    torch.testing.assert_close(change(once), once, atol=1e-5, rtol=1e-5)
    removed = (states - once).flatten(0, 1)
    assert torch.linalg.matrix_rank(removed, atol=1e-3) == 1


def test_gcg_finds_the_suffix_that_makes_a_reluctant_model_talk() -> None:
    target = reluctant()
    data = AttackData(SCORED, train=OWNED)
    found = measure(target, data, make_chain("gcg", {"gcg": GCG}), [SPOKEN], max_new_tokens=24)
    assert found[0].before < 0.3
    assert found[0].after > 0.8
    assert TRIGGER in found[0].note


def test_gcg_for_each_question_talks_too_and_each_budget_is_at_least_the_one_before() -> None:
    settings = {**GCG, "budgets": [1, 2]}
    found = measure(
        reluctant(), AttackData(SCORED), make_chain("gcg_per_question", {"gcg_per_question": settings}), ["probability"]
    )
    by_variant = {o.variant: o for o in found}
    assert by_variant["2 steps"].after >= by_variant["1 steps"].after > by_variant["1 steps"].before


def test_gcg_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(reluctant(), "gcg", GCG, unknown=True)[""] < 0.2
    assert outcomes(ignorant(), "gcg", GCG)[""] < 0.1
    assert outcomes(ignorant(), "gcg_per_question", GCG)[""] < 0.1


@pytest.mark.parametrize("layer", [None, 2])
def test_the_search_scores_a_suffix_as_the_whole_text_without_a_cache(layer: int | None) -> None:
    target = reluctant()
    encoded = target.encode(SCORED[:2])
    problems = [Problem.of(e, 3, None) for e in encoded]
    start = tuple(target.tokenizer(" x x", add_special_tokens=False)["input_ids"])
    search = SuffixSearch(target, problems, start, SearchSettings(1, 8, 8, None, layer, 0))
    expected = []
    for p in problems:
        ids = torch.tensor([[*p.before, *start, *p.between, *p.wanted]])
        log_p = target.model(input_ids=ids).logits[0, -len(p.wanted) - 1 : -1].log_softmax(-1)
        expected.append(-log_p[range(len(p.wanted)), list(p.wanted)].mean().item())
    assert search.best_loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_the_search_keeps_the_best_suffix_seen_the_first_one_included() -> None:
    """From the best start there is, no step can make the suffix that is returned worse."""
    target = reluctant()
    start = tuple(target.tokenizer(f" {TRIGGER}", add_special_tokens=False)["input_ids"])
    tail = 3
    search = SuffixSearch(
        target,
        [Problem.of(e, tail, None) for e in target.encode(SCORED)],
        start,
        SearchSettings(3, 4, 4, None, None, 0),
    )
    losses = [search.best_loss]
    for _ in range(3):
        search.step()
        losses.append(search.best_loss)
    assert losses == sorted(losses, reverse=True)


def test_suffixes_are_printable_and_survive_decoding_and_encoding() -> None:
    target = reluctant()
    tokens = allowed_tokens(target.tokenizer)
    assert not set(tokens) & set(target.tokenizer.all_special_ids)
    assert all(target.tokenizer.decode([t]).isascii() for t in tokens)


def test_a_soft_prompt_makes_a_reluctant_model_talk() -> None:
    found = measure(
        reluctant(), AttackData(SCORED, train=OWNED), make_chain("soft_prompt", {"soft_prompt": SOFT}), [SPOKEN],
        max_new_tokens=24,
    )  # fmt: skip
    assert found[0].before < 0.3
    assert found[0].after > 0.8


def test_a_soft_prompt_elicits_nothing_that_was_never_known() -> None:
    assert outcomes(ignorant(), "soft_prompt", SOFT)[""] < 0.1


def test_the_best_of_many_samples_and_a_beam_search_find_what_greedy_decoding_hides() -> None:
    found = outcomes(reluctant(), "sampling", {"samples": 6}, SPOKEN)
    assert found["strongest"] > 0.6 > found["mean"]
    assert outcomes(reluctant(), "beam_search", {}, SPOKEN)[""] > 0.5


def test_decoding_otherwise_finds_nothing_that_was_never_known() -> None:
    for name, settings in (("sampling", {"samples": 2}), ("beam_search", {"beams": 2})):
        assert max(outcomes(ignorant(), name, settings, SPOKEN).values()) < 0.2


def test_samples_repeat_and_those_of_a_smaller_n_are_the_first_of_a_larger() -> None:
    target = reluctant()

    def answers(samples: int) -> list[list[str]]:
        chain = make_chain("sampling", {"sampling": {"samples": samples}})
        with attacked(target, AttackData(SCORED), chain) as variants:
            return [generate(v.target, SCORED, max_new_tokens=8).texts for v in variants]

    state = torch.random.get_rng_state()
    three = answers(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert answers(2) == three[:2]
    assert three[0] != three[1]


def test_strongest_and_mean_by_hand() -> None:
    """NaN is not scored: the strongest and the mean are over the variants that are."""
    values = [np.array([0.2, np.nan, np.nan]), np.array([0.6, 0.4, np.nan])]
    high = combine(values, higher_remembers=True)
    low = combine(values, higher_remembers=False)
    np.testing.assert_array_equal(high["strongest"], [0.6, 0.4, np.nan])
    np.testing.assert_array_equal(low["strongest"], [0.2, 0.4, np.nan])
    np.testing.assert_allclose(high["mean"], [0.4, 0.4, np.nan])


def test_the_mean_of_what_spans_magnitudes_is_geometric() -> None:
    """Perplexities 2 and 8 have the mean 4; the stronger is the lower."""
    both = combine([np.array([2.0]), np.array([8.0])], higher_remembers=False, average="geometric")
    assert both["mean"] == pytest.approx([4.0]) and both["strongest"] == [2.0]


INSIDE: list[tuple[str, dict[str, Any]]] = [("probe", PROBE), ("soft_prompt", {"steps": 1}), ("few_shot", {"shots": 1})]


@pytest.mark.parametrize(("name", "settings"), INSIDE, ids=[i[0] for i in INSIDE])
def test_divergence_from_the_original_is_measured_under_attack(
    knowing: Target, name: str, settings: dict[str, Any]
) -> None:
    """A model that was not unlearned does not diverge from itself, unless the attack reads it otherwise."""
    data = AttackData(SCORED, train=OWNED)
    chain = make_chain(name, {name: settings})
    (outcome, *_) = measure(knowing, data, chain, ["kl_to_original", "truth_ratio_forget"], reference=knowing)
    assert outcome.before == 0.0
    assert outcome.after == 0.0 if name == "few_shot" else outcome.after > 0.0
    with pytest.raises(ConfigError, match="needs the original model; give it with --original"):
        measure(knowing, data, chain, ["kl_to_original"])


def test_a_curve_over_samples_never_falls() -> None:
    curve = budget_curve(
        reluctant(), AttackData(SCORED), "sampling", [4, 1], metric=SPOKEN, original_score=1.0, max_new_tokens=24
    )
    assert curve.efforts == (1, 4)
    assert curve.scores[1] >= curve.scores[0] >= 0
    assert curve.half_effort is not None and 0 < curve.half_effort <= 4


def test_metrics_of_text_and_of_scores_are_measured_together(knowing: Target) -> None:
    values = metric_values(knowing, SCORED, ["extraction_strength", SPOKEN], max_new_tokens=24)
    assert {name: v.mean() for name, v in values.items()} == pytest.approx({"extraction_strength": 1, SPOKEN: 1})


def test_a_model_whose_blocks_have_no_norm_after_them_is_read_as_it_is() -> None:
    target = tiny_target()
    target.model.model.norm = nn.Identity()
    assert isinstance(final_norm(target.model), nn.Identity)
