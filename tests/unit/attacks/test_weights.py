"""Attacks on the weights: relearning, quantization, pruning."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.conftest import copied, tiny_model
from tests.helpers.architectures import architecture
from tests.helpers.hidden_knowledge import KNOWN, UNKNOWN, shouting, strength, weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from uwc.attacks.chain import attacked, changed_share, make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import budget_curves, measure
from uwc.attacks.formats import NF4_LEVELS, dynamic_levels, round_inputs, round_to_nearest, round_to_nf4
from uwc.attacks.weights import of_subjects, wrong_facts
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.errors import AttackFailed, DataError
from uwc.models.block_weights import block_matrices, block_parameters, few_tokens, linear_maps
from uwc.models.contrast import contrast
from uwc.models.head import answer_logits, token_logprobs
from uwc.models.model import Model
from uwc.models.scoring import let_train
from uwc.models.selection import RULES, select
from uwc.models.states import blocks

SCORED, OWNED = KNOWN[:4], KNOWN[4:]
DATA = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
RELEARN = {"steps": 8, "lr": 2e-3}
TWO = torch.tensor([[0, 1]]).expand(512, -1)


def after(model: Model, name: str, settings: dict[str, Any]) -> float:
    return measure(model, DATA, make_chain(name, {name: settings}), ["extraction_strength"])[-1].after.mean


def test_relearning_a_part_brings_back_the_rest(knowing: Model) -> None:
    silent = shouting(knowing)
    assert strength(silent, SCORED) == 0.0
    assert after(silent, "relearn", RELEARN) > 0.4


UNRELATED = [
    Example(id=f"u{i}", question=f"What is {thing}?", answer=answer)
    for i, (thing, answer) in enumerate(
        (
            ("a lemon", "A yellow fruit that tastes sour"),
            ("snow", "Frozen water that falls in winter"),
            ("a mill", "A house in which corn is ground to flour"),
            ("a harbour", "A place near the sea where ships are safe"),
        )
    )
]
GENTLE: list[tuple[str, AttackData, dict[str, Any]]] = [
    ("relearn_retain", AttackData(SCORED, retain=UNKNOWN), {"steps": 8, "lr": 1e-3}),
    ("relearn_unrelated", AttackData(SCORED, unrelated=UNRELATED), {"steps": 4, "lr": 2e-3, "batch_size": 4}),
    ("relearn_original", AttackData(SCORED, train=OWNED), {"steps": 4, "lr": 1e-3}),
]


@pytest.mark.parametrize(("name", "data", "settings"), GENTLE, ids=[g[0] for g in GENTLE])
def test_a_few_steps_on_other_data_give_back_what_is_only_silenced(
    knowing: Model, name: str, data: AttackData, settings: dict[str, Any]
) -> None:
    """The output layer always says one token; steps too few to teach anything to a model that never knew fix it."""
    chain = make_chain(name, {name: settings})
    silent, never = shouting(knowing), tiny_model(hidden_size=64)
    assert strength(silent, SCORED) == 0.0
    assert measure(silent, data, chain, ["extraction_strength"])[-1].after.mean > 0.5
    assert measure(never, data, chain, ["extraction_strength"])[-1].after.mean < 0.1


def test_relearning_a_part_brings_nothing_that_was_never_known() -> None:
    assert after(tiny_model(hidden_size=64), "relearn", RELEARN) < 0.2


def test_the_original_data_may_hold_more_than_what_is_scored() -> None:
    """Relearning on all of it takes what the data name as original, which here is longer by two examples."""
    for data, steps in ((AttackData(SCORED), 4), (AttackData(SCORED, original=KNOWN[:6]), 6)):
        with attacked(
            tiny_model(), data, make_chain("relearn_original", {"relearn_original": {"batch_size": 1}})
        ) as variants:
            assert next(variants).effort == steps


def test_relearning_the_forget_set_takes_all_of_it_and_needs_it() -> None:
    """One epoch in batches of one: six steps, on examples of which four are scored."""
    chain = make_chain("relearn_forget", {"relearn_forget": {"batch_size": 1}})
    with attacked(tiny_model(), AttackData(SCORED, train=OWNED, forget=KNOWN[:6]), chain) as variants:
        assert next(variants).effort == 6
    assert chain.trains_on_scored
    with pytest.raises(DataError, match="needs the questions to forget"), attacked(tiny_model(), DATA, chain):
        pass


def test_relearning_the_scored_answers_themselves_teaches_them_again() -> None:
    """Why the paper's attack needs a control: a model that never knew them learns them too."""
    data = AttackData(KNOWN[:2])
    chain = make_chain("relearn_original", {"relearn_original": {"steps": 60, "lr": 1e-2}})
    assert chain.trains_on_scored
    assert measure(tiny_model(hidden_size=64), data, chain, ["extraction_strength"])[-1].after.mean > 0.8


def test_each_budget_of_a_trajectory_is_a_run_of_its_own_to_the_bit(knowing: Model) -> None:
    def states(settings: dict[str, Any]) -> list[dict[str, bytes]]:
        with attacked(knowing, DATA, make_chain("relearn", {"relearn": settings})) as variants:
            return [weights(v.model) for v in variants]

    shared = {"lr": 1e-3, "batch_size": 2}
    before = weights(knowing)
    trajectory = states({**shared, "budgets": [4, 1, 3]})
    assert [states({**shared, "steps": n})[0] for n in (1, 3, 4)] == trajectory
    assert len({hash(tuple(w.values())) for w in (before, *trajectory)}) == 4
    assert weights(knowing) == before


def test_one_epoch_is_the_default_and_fewer_examples_make_it_shorter(knowing: Model) -> None:
    for settings, steps in (({}, 2), ({"examples": 1}, 1)):
        with attacked(knowing, DATA, make_chain("relearn", {"relearn": {"batch_size": 2, **settings}})) as variants:
            assert [v.effort for v in variants] == [steps]


def test_examples_are_chosen_by_a_rule(knowing: Model) -> None:
    """The weights are those of relearning on exactly the chosen examples, which differ by rule."""
    settings = {"steps": 2, "lr": 1e-3, "batch_size": 2}
    found = {}
    for rule in RULES:
        given = {**settings, "examples": 2, "select": rule}
        with attacked(knowing, DATA, make_chain("relearn", {"relearn": given})) as variants:
            found[rule] = weights(next(variants).model)
        part = AttackData(SCORED, train=[OWNED[i] for i in select(knowing, OWNED, 2, rule=rule)])
        with attacked(knowing, part, make_chain("relearn", {"relearn": settings})) as variants:
            assert weights(next(variants).model) == found[rule]
    assert len({hash(tuple(w.values())) for w in found.values()}) > 1


@pytest.mark.parametrize("examples", [None, 4, 5])
@pytest.mark.parametrize("name", ["relearn", "soft_prompt"])
def test_a_rule_that_takes_all_examples_is_refused(name: str, examples: int | None) -> None:
    chain = make_chain(name, {name: {"select": "fisher", "examples": examples}})
    with pytest.raises(DataError, match=rf"select: fisher has no effect.*{name}\.examples"):
        chain.check_data(AttackData(SCORED, train=OWNED))


def test_a_curve_gives_the_effort_that_brings_half_back(knowing: Model) -> None:
    half = np.full(len(SCORED), 0.5)
    (curve,) = budget_curves(shouting(knowing), DATA, "relearn", [2, 4, 8], settings={"lr": 2e-3}, original=half)
    assert curve.over == "steps" and curve.efforts == (2, 4, 8)
    assert curve.before == 0.0 < curve.scores[-1]
    assert curve.half_recovery is not None and 0 < curve.half_recovery.effort <= 8


def test_rounding_by_hand() -> None:
    """Three bits have levels -3..3: with maximum 3 the scale is 1, and 1.4 becomes 1; with 6 it is 2: 2."""
    weight = torch.tensor([[3.0, 1.4, 6.0, 1.4], [0.0, 0.0, 0.3, -0.14]])
    grouped = round_to_nearest(weight, bits=3, group_size=2)
    torch.testing.assert_close(grouped, torch.tensor([[3.0, 1.0, 6.0, 2.0], [0.0, 0.0, 0.3, -0.1]]))
    whole = round_to_nearest(weight, bits=3, group_size=0)
    torch.testing.assert_close(whole, torch.tensor([[4.0, 2.0, 6.0, 2.0], [0.0, 0.0, 0.3, -0.1]]))
    torch.testing.assert_close(round_to_nearest(whole, bits=3, group_size=0), whole)


def hide_by_small_changes(model: Model, allowed: Callable[[Tensor], Tensor]) -> Model:
    """Gradient ascent on the known answers within -allowed(w)..allowed(w) of each block matrix."""
    hidden = copied(model)
    matrices = [p for n, p in hidden.model.named_parameters() if ".layers." in n and p.ndim == 2]
    first = [m.detach().clone() for m in matrices]
    limits = [allowed(m) for m in first]
    batch = collate(hidden.encode(SCORED), device=hidden.device)
    for _ in range(40):
        loss = token_logprobs(answer_logits(hidden.model, batch), batch.targets).mean()
        gradients = torch.autograd.grad(loss, matrices)
        with torch.no_grad():
            for m, start, limit, gradient in zip(matrices, first, limits, gradients, strict=True):
                m.copy_(torch.clamp(m - 0.2 * limit * gradient.sign(), start - limit, start + limit))
    return hidden


def test_rounding_brings_back_what_changes_below_half_a_step_hide(knowing: Model) -> None:
    """The model lies on the grid; the changes leave each row's largest weight alone, so that the grid stays."""
    settings = {"bits": 4, "group_size": 0}
    with attacked(knowing, DATA, make_chain("quantization", {"quantization": settings})) as variants:
        on_grid = next(variants).model

    def below_half_a_step(w: Tensor) -> Tensor:
        largest = w.abs().amax(dim=1, keepdim=True)
        return torch.where(w.abs() < 0.9 * largest, 0.49 * largest / 7, torch.zeros_like(w))

    assert strength(on_grid, SCORED) > 0.8
    hidden = hide_by_small_changes(on_grid, below_half_a_step)
    assert strength(hidden, SCORED) < 0.3
    assert after(hidden, "quantization", settings) == pytest.approx(strength(on_grid, SCORED))


def test_nf4_by_hand() -> None:
    """Blocks of four: shares of 2 are 1, -0.5, 0.25 and 0.05, whose nearest levels are 1, -0.525, 0.246 and 0.0796; a
    block of zeros; and a last block of two with a largest of 4, whose share of -0.71 becomes -0.696."""
    weight = torch.tensor([[2.0, -1.0, 0.5, 0.1, 0.0], [0.0, 0.0, 0.0, 4.0, -2.84]])
    expected = [[2.0, -1.0501461, 0.4922246, 0.1591606, 0.0], [0.0, 0.0, 0.0, 4.0, -2.7847712]]
    torch.testing.assert_close(round_to_nf4(weight, block_size=4), torch.tensor(expected))
    assert round_to_nf4(weight.bfloat16()).dtype == torch.bfloat16


def test_the_levels_of_nf4_are_quantiles_of_the_normal_distribution() -> None:
    """QLoRA's construction: 8 quantiles above and 7 below zero, evenly spaced up to (1/32 + 1/30) / 2 from the end."""
    last = 1 - (1 / 32 + 1 / 30) / 2
    above = stats.norm.ppf(np.linspace(last, 0.5, 9)[:-1])
    below = -stats.norm.ppf(np.linspace(last, 0.5, 8)[:-1])
    quantiles = np.sort([*below, 0.0, *above])
    np.testing.assert_allclose(NF4_LEVELS, quantiles / quantiles.max(), rtol=0, atol=5e-7)


WEIGHT = 0.05 * torch.randn(500, 640, generator=torch.Generator().manual_seed(0))


OF_BITSANDBYTES = {False: "fcc49d991a7d5575", True: "531f81a0d0d1fed6"}
"""Double quantization or not -> the beginning of the SHA-256 of what bitsandbytes 0.50 makes of `WEIGHT`."""


@pytest.mark.parametrize("double", OF_BITSANDBYTES)
def test_nf4_has_the_numbers_of_bitsandbytes(double: bool) -> None:
    ours = round_to_nf4(WEIGHT, double=double).numpy().tobytes()
    assert hashlib.sha256(ours).hexdigest()[:16] == OF_BITSANDBYTES[double]


@pytest.mark.parametrize("double", OF_BITSANDBYTES)
def test_the_recorded_numbers_are_those_of_bitsandbytes(double: bool) -> None:
    """Scales by its operation for types without a kernel, which compares with every level, as on a GPU."""
    functional = pytest.importorskip("bitsandbytes.functional")
    quantized, state = functional.quantize_4bit(WEIGHT, blocksize=64, quant_type="nf4")
    if double:
        mean, code = state.absmax.mean(), functional.create_dynamic_map()
        operation = torch.ops.bitsandbytes.quantize_blockwise.default
        places, largest = operation((state.absmax - mean).double(), code, 256)
        whole = torch.nn.functional.pad(code[places.int()], (0, -len(places) % 256)).view(-1, 256)
        state.absmax = (whole * largest[:, None]).flatten()[: len(places)] + mean
    theirs = functional.dequantize_4bit(quantized, state).numpy().tobytes()
    assert hashlib.sha256(theirs).hexdigest()[:16] == OF_BITSANDBYTES[double]


def test_double_quantization_by_hand() -> None:
    """Scales 1, 2 and 6 have the mean 3; -2, -1 and 3 are -2/3, -1/3 and 1 of the largest. The nearest dynamic levels
    are -0.6695 and -0.3320 (centres of 0.1 + 0.9 k / 64), and 1."""
    weight = torch.tensor([[1.0, -0.5], [2.0, 0.0], [-6.0, 6.0]])
    levels = [-(0.1 + 0.9 * (k + 0.5) / 64) for k in (40, 16)]
    scales = [3 + 3 * levels[0], 3 + 3 * levels[1], 6.0]
    expected = [[scales[0], -0.52507305 * scales[0]], [scales[1], 0.0], [-6.0, 6.0]]
    torch.testing.assert_close(round_to_nf4(weight, block_size=2, double=True), torch.tensor(expected))
    same = torch.full((4, 64), 0.5)
    assert torch.equal(round_to_nf4(same, double=True), same), "scales that do not differ"


def test_the_dynamic_levels() -> None:
    """Zero, one, and seven decades of centres on both sides, of which each has twice as many as the one below."""
    levels = dynamic_levels().tolist()
    assert len(levels) == 256 == len(set(levels)) and levels == sorted(levels)
    assert 0.0 in levels and levels[-1] == 1.0
    for i in range(7):
        decade = [x for x in levels if 10.0 ** (i - 7) < x < 10.0 ** (i - 6)]
        assert len(decade) == 2**i and {-x for x in decade} <= set(levels)
    assert [x for x in levels if 1e-7 < x < 1e-6] == pytest.approx([0.55e-6])


def test_the_cpu_kernel_of_bitsandbytes_differs_halfway_between_two_levels() -> None:
    """It looks levels up in a table of 65,536 entries."""
    functional = pytest.importorskip("bitsandbytes.functional")
    assert torch.equal(dynamic_levels(), functional.create_dynamic_map())
    state = functional.quantize_4bit(WEIGHT, blocksize=64, quant_type="nf4", compress_statistics=True)
    theirs, ours = functional.dequantize_4bit(*state), round_to_nf4(WEIGHT, double=True)
    differ = (ours != theirs).view(-1, 64).any(dim=1)
    assert differ.float().mean() < 2e-3 and torch.allclose(ours, theirs, rtol=0.02)
    scales = WEIGHT.view(-1, 64).abs().amax(dim=1)
    rest = torch.nn.functional.pad(scales - scales.mean(), (0, -len(scales) % 256)).view(-1, 256)
    shares = (rest / rest.abs().amax(dim=1, keepdim=True)).flatten()[: len(scales)]
    halfway = (dynamic_levels()[1:] + dynamic_levels()[:-1]) / 2
    assert all((halfway - share).abs().min() < 2 / 65535 for share in shares[differ])


def test_inputs_in_8_bits_by_hand() -> None:
    """The largest below 6 is 2.54: a step of 0.02. Outliers stay, and do not count for the scale."""
    given = torch.tensor([[2.54, -0.031, 0.009, 6.0, -9.5], [0.0, 0.0, 0.0, 7.0, 0.0]])
    expected = [[2.54, -0.04, 0.0, 6.0, -9.5], [0.0, 0.0, 0.0, 7.0, 0.0]]
    torch.testing.assert_close(round_inputs(given, threshold=6.0), torch.tensor(expected))
    assert round_inputs(given.bfloat16(), threshold=6.0).dtype == torch.bfloat16


def test_8_bits_have_the_numbers_of_bitsandbytes() -> None:
    """But where a number is halfway between two."""
    functional = pytest.importorskip("bitsandbytes.functional")
    half = WEIGHT.half()
    quantized, scales, _ = functional.int8_vectorwise_quant(half)
    step = scales[:, None] / 127
    for ours in (round_to_nearest(half.float(), bits=8, group_size=0), round_inputs(half.float(), threshold=6.0)):
        differ = (ours / step).round() != quantized.float()
        assert differ.float().mean() < 2e-4
        halfway = ((half.float() / step)[differ].frac().abs() - 0.5).abs()
        assert halfway.max() < 1e-5, "theirs divides by another rounding of the step"


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "llama4_text"])
def test_llm_int8_rounds_the_inputs_of_the_linear_maps_of_the_blocks(name: str) -> None:
    model = architecture(name)
    rounded, share = made(model, "quantization_llm_int8", {"threshold": 1.0})
    assert share > 0.5
    hooked = {n for n, module in linear_maps(rounded.model).items() if module._forward_pre_hooks}
    assert hooked == {n for n in linear_maps(model.model) if ".h." in n or ".layers." in n}
    assert not any(module._forward_pre_hooks for module in linear_maps(model.model).values()), "of the model itself"
    module = dict(rounded.model.named_modules())[min(hooked)]
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rounded.model(input_ids=few_tokens(rounded.model), use_cache=False)
    row = seen[0].flatten(0, -2)[0]
    plain = row[row.abs() < 1.0]
    steps = plain / (plain.abs().max() / 127)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)


def test_a_model_in_8_bits_can_be_trained(knowing: Model) -> None:
    """A chain with relearning: gradients go through the rounded inputs."""
    chain = make_chain("quantization_llm_int8+relearn", {"relearn": {"steps": 2, "lr": 1e-3}})
    with attacked(knowing, DATA, chain) as variants:
        assert next(variants).changed


def test_the_attack_rounds_every_matrix_to_nf4_output_after_output() -> None:
    """GPT-2 stores its maps with the inputs first."""
    model = architecture("gpt2")
    rounded, share = made(model, "quantization_nf4", {})
    old, new = (dict(t.model.named_parameters())["transformer.h.1.mlp.c_fc.weight"] for t in (model, rounded))
    assert torch.equal(new.T, round_to_nf4(old.detach().T))
    assert 0.5 < share < 1.0


def test_pruning_brings_back_what_small_weights_hide(knowing: Model) -> None:
    """A third of each matrix is zero; what hides the answers stands there, and is smaller than all else."""
    with attacked(knowing, DATA, make_chain("pruning", {"pruning": {"share": 0.3}})) as variants:
        sparse = next(variants).model

    def on_zeros(w: Tensor) -> Tensor:
        return torch.where(w == 0, 0.9 * w[w != 0].abs().min(), torch.zeros_like(w))

    assert strength(sparse, SCORED) > 0.6
    hidden = hide_by_small_changes(sparse, on_zeros)
    assert strength(hidden, SCORED) < strength(sparse, SCORED) - 0.3
    assert after(hidden, "pruning", {"share": 0.3}) == pytest.approx(strength(sparse, SCORED))


@pytest.mark.parametrize("name", ["quantization", "quantization_nf4", "quantization_llm_int8", "pruning"])
def test_coarser_weights_know_nothing_that_was_never_known(name: str) -> None:
    assert after(tiny_model(), name, {}) < 0.1


def test_pruning_removes_exactly_the_share(knowing: Model) -> None:
    with attacked(knowing, DATA, make_chain("pruning", {"pruning": {"share": 0.25}})) as variants:
        pruned = next(variants).model
    for old, new in zip(blocks(knowing.model).parameters(), blocks(pruned.model).parameters(), strict=True):
        if old.ndim == 2:
            assert int((new == 0).sum()) == math.floor(0.25 * old.numel())
            assert old[new == 0].abs().max().item() <= old[new != 0].abs().min().item()


def made(model: Model, name: str, settings: dict[str, Any]) -> tuple[Model, float]:
    """The model after an attack on its weights, and the share of its blocks' numbers that is said to have changed."""
    with attacked(model, DATA, make_chain(name, {name: settings})) as variants:
        variant = next(variants)
        assert variant.changed is not None
        return variant.model, variant.changed


def rounded_by_hand(row: list[float], group: int) -> list[float]:
    """Four bits: levels -7..7 of each group's largest."""
    found = []
    for start in range(0, len(row), group):
        part = row[start : start + group]
        scale = max(map(abs, part)) / 7
        found += [round(w / scale) * scale for w in part]
    return found


@pytest.mark.parametrize(
    ("name", "parameter", "inputs_first"),
    [
        ("gpt2", "transformer.h.1.mlp.c_fc.weight", True),
        ("mixtral", "model.layers.1.mlp.experts.gate_up_proj", False),
        ("gpt_oss", "model.layers.1.mlp.experts.down_proj", True),
        ("llama4_text", "model.layers.0.feed_forward.experts.gate_up_proj", True),
    ],
)
def test_groups_of_rounding_run_along_the_inputs_of_one_output(name: str, parameter: str, inputs_first: bool) -> None:
    model = architecture(name)
    quantized, _ = made(model, "quantization", {"bits": 4, "group_size": 10})
    old, new = (dict(t.model.named_parameters())[parameter].detach() for t in (model, quantized))
    for before, after in zip(*(w if w.dim() == 3 else w[None] for w in (old, new)), strict=True):
        outputs = list(zip(*((w.T if inputs_first else w).tolist() for w in (before, after)), strict=True))
        for weights_before, weights_after in outputs[::11]:
            assert weights_after == pytest.approx(rounded_by_hand(weights_before, 10), abs=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "mixtral", "qwen3_moe", "gpt_oss", "dbrx", "gemma3", "mamba", "nemotron_h"])
@pytest.mark.parametrize("attack", ["quantization", "pruning"])
def test_every_matrix_of_the_blocks_is_worked_on_and_nothing_else(name: str, attack: str) -> None:
    model = architecture(name)
    changed, share = made(model, attack, {"group_size": 0} if attack == "quantization" else {"share": 0.25})
    first, second = (dict(t.model.named_parameters()) for t in (model, changed))
    differ = {n: int((first[n] != second[n]).sum()) for n in first}
    inside = block_parameters(model.model)
    assert not any(count for n, count in differ.items() if n not in inside)
    assert share == pytest.approx(sum(differ.values()) / sum(p.numel() for p in inside.values()))
    matrices = {m.name: m.matrices for m in block_matrices(model.model)}
    for n in inside:
        if n not in matrices:
            assert differ[n] == 0
        elif attack == "pruning":
            assert differ[n] == sum(math.floor(0.25 * m.numel()) for m in matrices[n])
        else:  # the largest of each output keeps its size
            outputs, inputs = matrices[n][0].shape
            least = len(matrices[n]) * outputs * (inputs - 1)
            assert differ[n] >= 0.98 * least, n


def test_an_attack_that_changes_no_weight_fails(knowing: Model) -> None:
    on_grid, _ = made(knowing, "quantization", {"bits": 4, "group_size": 0})
    sparse, _ = made(knowing, "pruning", {"share": 0.3})
    for model, name, settings in ((on_grid, "quantization", {"group_size": 0}), (sparse, "pruning", {"share": 0.2})):
        with pytest.raises(AttackFailed, match=f"{name}.* changed no weight"):
            made(model, name, settings)


def test_steps_that_low_precision_swallows_fail_or_are_warned_of(
    knowing: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bfloat16 neighbours of a weight of 0.1 lie 5e-4 apart; a step of 1e-5 moves only the smallest."""
    low = Model(copied(knowing).model.bfloat16(), knowing.tokenizer, knowing.template, "low")
    with pytest.raises(AttackFailed, match=r"changed 0% of the weights of low.* in bfloat16; .*\.mlp\."):
        made(low, "relearn", {"steps": 1, "lr": 1e-12})
    _, share = made(low, "relearn", {"steps": 1, "lr": 1e-5})
    assert 0 < share < 0.3
    assert "steps of 1e-05 are lost to rounding in bfloat16" in capsys.readouterr().err
    assert made(knowing, "relearn", {"steps": 1, "lr": 1e-5})[1] > 0.95


def test_experts_that_no_example_reaches_are_no_failure() -> None:
    """One token of three experts' two, by a router that says so; no gradient reaches the third."""
    model = copied(architecture("mixtral"))
    forced = torch.tensor([1.0, 2.0, -50.0])
    for layer in model.model.model.layers:
        layer.mlp.gate.register_forward_hook(
            lambda _m, args, _o: (
                forced.expand(len(args[0]), 3),
                torch.full((len(args[0]), 2), 0.5),
                TWO[: len(args[0])],
            )
        )
    _, share = made(model, "relearn", {"steps": 1, "lr": 1e-3, "examples": 1})
    inside = block_parameters(model.model)
    still = sum(p[2].numel() for n, p in inside.items() if "experts" in n)
    still += sum(p.numel() for n, p in inside.items() if "mlp.gate" in n)
    assert share == pytest.approx(1 - still / sum(p.numel() for p in inside.values()), abs=0.01)


def test_what_is_claimed_and_not_done_fails_with_what_was_left_alone(knowing: Model) -> None:
    changed = copied(knowing)
    name, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    weights_of = dict(changed.model.named_parameters())
    with torch.no_grad():
        weights_of[name].add_(1.0)
    size = weights_of[name].numel()
    assert changed_share(knowing, changed, {name: size}, attack="made-up") == pytest.approx(
        size / sum(p.numel() for p in block_parameters(knowing.model).values())
    )
    assert changed_share(knowing, changed, {name: size, other: size // 20}, attack="made-up") > 0
    with pytest.raises(AttackFailed, match=f"'made-up' changed 50% .* {other}"):
        changed_share(knowing, changed, {name: size, other: size}, attack="made-up")


def test_the_share_changed_is_part_of_the_outcome(knowing: Model) -> None:
    (outcome,) = measure(
        knowing, DATA, make_chain("pruning", {"pruning": {"share": 0.2}}), ["extraction_strength"], max_new_tokens=4
    )
    assert outcome.variants[0].changed == pytest.approx(0.2, abs=0.01)
    (prefix,) = measure(knowing, DATA, make_chain("prefix"), ["extraction_strength"], max_new_tokens=4)
    assert prefix.variants[0].changed is None


def test_what_a_model_never_trains_stays_so(knowing: Model) -> None:
    """HRM's first state of its low cycle is a parameter that no training changes; a frozen original has no others."""
    config = AutoConfig.for_model(
        "hrm_text", vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=4, intermediate_size=8, H_cycles=1, L_cycles=1, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.requires_grad_(False)
    assert {name for name, p in let_train(model).named_parameters() if not p.requires_grad} == {"model.z_L_init"}
    both = contrast(copied(knowing), copied(knowing)).model.requires_grad_(False)
    assert all(p.requires_grad for p in let_train(both).parameters())


def test_an_adapter_or_another_optimizer_relearns_too(knowing: Model) -> None:
    silent = shouting(knowing)
    adapter = after(silent, "relearn", {"steps": 8, "lr": 1e-2, "lora_rank": 4})
    momentum = after(silent, "relearn", {"steps": 8, "lr": 0.3, "optimizer": "sgd"})
    assert min(adapter, momentum) > 0.4


def test_each_budget_of_an_adapter_is_a_run_of_its_own_and_only_matrices_of_the_blocks_change(knowing: Model) -> None:
    def states(settings: dict[str, Any]) -> list[dict[str, bytes]]:
        chain = make_chain("relearn", {"relearn": {"lr": 1e-3, "batch_size": 2, "lora_rank": 2, **settings}})
        with attacked(knowing, DATA, chain) as variants:
            return [weights(v.model) for v in variants]

    before = weights(knowing)
    trajectory = states({"budgets": [1, 3]})
    assert [states({"steps": n})[0] for n in (1, 3)] == trajectory
    changed = {name for name, value in trajectory[1].items() if value != before[name]}
    matrices = {matrix.name for matrix in block_matrices(knowing.model)}
    assert changed == matrices
    assert weights(knowing) == before


def test_the_tokens_of_a_training_are_counted(knowing: Model) -> None:
    lengths = [len(e.tokens) for e in knowing.encode(OWNED)]
    with attacked(knowing, DATA, make_chain("relearn", {"relearn": {"batch_size": 2, "budgets": [2, 4]}})) as variants:
        assert [v.tokens for v in variants] == [sum(lengths), 2 * sum(lengths)]
    with attacked(knowing, DATA, make_chain("pruning")) as variants:
        assert [v.tokens for v in variants] == [0]


def test_examples_are_drawn_of_a_number_of_subjects_evenly() -> None:
    pool = [Example(f"{s}{i}", f"{s} {i}?", "yes", subject=s) for s in "abcd" for i in range(4)]
    for seed in range(5):
        drawn = of_subjects(pool, 3, 6, seed=seed)
        assert sorted(sum(e.subject == s for e in drawn) for s in "abcd") == [0, 2, 2, 2]
        assert drawn == [e for e in pool if e in drawn]
    assert len(of_subjects(pool, 2, None, seed=0)) == 8
    assert of_subjects(pool, None, 3, seed=0) == pool
    with pytest.raises(DataError, match="relearning with subjects = 5: the attacker's data are of 4 subjects"):
        of_subjects(pool, 5, 6, seed=0)


def test_wrong_facts_are_wrong_answers_to_the_same_questions() -> None:
    pool = [
        Example("0", "Q0?", "A", subject="s", perturbed_answers=("B", "C")),
        Example("1", "Q1?", "A", subject="s"),
        Example("2", "Q2?", "D", subject="t"),
    ]
    assert [(e.id, e.question, e.answer) for e in wrong_facts(pool)] == [
        ("0", "Q0?", "B"), ("1", "Q1?", "D"), ("2", "Q2?", "A"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="the same answer"):
        wrong_facts(pool[1:2])


def test_wrong_facts_bring_back_what_is_only_silenced(knowing: Model) -> None:
    silenced = after(shouting(knowing), "relearn_wrong", RELEARN)
    assert silenced > after(tiny_model(hidden_size=64), "relearn_wrong", RELEARN) + 0.1
