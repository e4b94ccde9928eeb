"""Pruning, shrinking and negation of weights."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from tests.conftest import copied, people
from transformers import GPT2Config, GPT2LMHeadModel

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, ModelError
from uwc.models.adapters import add_adapter
from uwc.models.model import Model
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.objectives.rules import L1, Contrast, MiniUnlearning, Negate, Prune, Rule, rules
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import LoraSettings, TrainingSettings, check_rule, check_stop
from uwc.training.unlearn import unlearn
from uwc.training.weight_rules import linear_weights, magnitude_masks, soft_threshold, wanda_masks

DATA = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.",))
SETTINGS = {"epochs": 3, "batch_size": 2, "lr": 1e-3}


def test_the_soft_threshold_moves_towards_zero_and_stays_there() -> None:
    weight = torch.tensor([0.5, -0.5, 0.1, -0.1, 0.2])
    soft_threshold([weight], 0.2)
    assert weight.tolist() == pytest.approx([0.3, -0.3, 0.0, 0.0, 0.0])


def test_magnitude_removes_the_smallest_of_all_matrices_together() -> None:
    masks = magnitude_masks({"a": torch.tensor([[3.0, -1.0]]), "b": torch.tensor([[0.5], [-2.0]])}, share=0.5)
    assert masks["a"].tolist() == [[True, False]]
    assert masks["b"].tolist() == [[False], [True]]


def test_magnitude_breaks_ties_to_the_exact_share() -> None:
    masks = magnitude_masks({"a": torch.ones(4, 5)}, share=0.35)
    assert int((~masks["a"]).sum()) == 7


def test_wanda_weighs_by_the_inputs_and_ignores_padding(knowing: Model) -> None:
    """Against scores computed from the inputs of each example alone, which has no padding."""
    model = copied(knowing)
    encoded = model.encode(people(3))
    (name,) = [n for n in linear_weights(model.model) if n.endswith("layers.1.self_attn.q_proj.weight")]
    module = model.model.model.layers[1].self_attn.q_proj
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _m, args, _o: seen.append(args[0][0]))
    for e in encoded:
        collated = collate([e], device=model.device, scope="attended")
        model.model(input_ids=collated.input_ids[:, :-1])
    handle.remove()
    scores = module.weight.abs() * torch.cat(seen).square().sum(dim=0).sqrt()
    batch = collate(encoded, device=model.device, scope="attended")
    mask = wanda_masks(model.model, [batch], share=0.25)[name]
    width = mask.shape[1]
    assert ((~mask).sum(dim=1) == width // 4).all()
    for row in range(0, len(mask), 7):
        assert scores[row][~mask[row]].max() <= scores[row][mask[row]].min()


def transposed_maps() -> Any:
    """A small GPT-2, whose linear maps are of a class of their own, with a column for each output."""
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    return GPT2LMHeadModel(sizes).eval()


def test_the_linear_maps_of_gpt2_are_found_and_pruned_by_output() -> None:
    model = transposed_maps()
    maps = linear_weights(model)
    assert len(maps) == 2 * 4 and {"transformer.h.1.mlp.c_fc.weight"} < set(maps)
    encoded = [EncodedExample("a", tuple(range(1, 9)), 3, 8), EncodedExample("b", (4, 2, 9), 1, 3)]
    batch = collate(encoded, device=torch.device("cpu"), scope="attended")
    mask = wanda_masks(model, [batch], share=0.25)["transformer.h.1.mlp.c_fc.weight"]
    inputs: list[torch.Tensor] = []
    hook = model.transformer.h[1].mlp.c_fc.register_forward_hook(lambda _m, args, _o: inputs.append(args[0][0]))
    for e in encoded:
        model(input_ids=torch.tensor([e.tokens[:-1]]))
    hook.remove()
    scores = maps["transformer.h.1.mlp.c_fc.weight"].abs() * torch.cat(inputs).square().sum(dim=0).sqrt()[:, None]
    assert mask.shape == (16, 64) and ((~mask).sum(dim=0) == 4).all()
    for column in range(0, 64, 7):
        assert scores[:, column][~mask[:, column]].max() <= scores[:, column][mask[:, column]].min()


class _Shift(torch.nn.Module):
    """A block that only adds something to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(16))

    def forward(self, states: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return states + self.bias


def test_a_model_without_linear_maps_is_refused() -> None:
    model = transposed_maps()
    model.transformer.h = torch.nn.ModuleList([_Shift(), _Shift()])
    with pytest.raises(ModelError, match="the blocks of GPT2LMHeadModel hold no matrix"):
        linear_weights(model)


def test_linear_weights_are_those_of_the_blocks(knowing: Model) -> None:
    names = linear_weights(knowing.model)
    assert len(names) == 2 * 7
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("by", ["magnitude", "wanda"])
@pytest.mark.parametrize("method", ["prune-first", "npo"])
def test_removed_weights_stay_at_zero_through_any_objective(by: str, method: str, knowing: Model) -> None:
    model, pruned = copied(knowing), METHODS[method].with_rule({"name": "prune", "share": 0.25, "by": by})
    train(model, Objective(pruned, model.model), DATA, TrainingSettings(**SETTINGS))
    before, after = linear_weights(knowing.model), linear_weights(model.model)
    zeros = sum(int((w == 0).sum()) for w in after.values()) / sum(w.numel() for w in after.values())
    assert zeros == pytest.approx(0.25, abs=0.01)
    assert any(not torch.equal(before[n][after[n] != 0], after[n][after[n] != 0]) for n in after), "the others trained"


def test_l1_makes_zeros_and_descent_alone_does_not(knowing: Model) -> None:
    def zeros(strength: float) -> int:
        model, method = copied(knowing), METHODS["l1-sparse"].with_rule({"strength": strength})
        train(model, Objective(method, model.model), DATA, TrainingSettings(**SETTINGS))
        return sum(int((w == 0).sum()) for w in linear_weights(model.model).values())

    assert zeros(0.0) == 0
    assert 0 < zeros(1.0) < zeros(5.0)


def test_negation_is_the_opposite_of_what_was_learned(knowing: Model) -> None:
    learned, negated = copied(knowing), copied(knowing)
    for model, rule in ((learned, None), (negated, Negate(scale=0.5))):
        method = replace(METHODS["task-vector"], rule=rule)
        train(model, Objective(method, model.model), DATA, TrainingSettings(**SETTINGS))
    parameters = zip(knowing.model.parameters(), learned.model.parameters(), negated.model.parameters(), strict=True)
    for start, there, back in parameters:
        torch.testing.assert_close(back, start - 0.5 * (there - start))


@pytest.mark.slow
def test_an_adapter_is_negated_as_the_update_that_it_is(knowing: Model) -> None:
    """Long enough that both of its factors have moved: turning both would give another matrix."""
    updates, settings = [], TrainingSettings(**{**SETTINGS, "epochs": 20}, lora=LoraSettings(rank=2))
    for rule in (None, Negate(scale=0.5)):
        model = unlearn(copied(knowing), replace(METHODS["task-vector"], rule=rule), DATA, settings).model
        pairs = zip(model.model.parameters(), knowing.model.parameters(), strict=True)
        updates.append(torch.cat([(after - before).detach().flatten() for after, before in pairs]))
    torch.testing.assert_close(updates[1], -0.5 * updates[0], rtol=1e-4, atol=1e-6)


def test_weights_that_an_adapter_leaves_alone_cannot_be_pruned(knowing: Model) -> None:
    model = add_adapter(copied(knowing), rank=2)
    with pytest.raises(ConfigError, match="do not go together with lora"):
        train(model, Objective(METHODS["prune-first"], model.model), DATA, TrainingSettings(**SETTINGS))


@pytest.mark.parametrize(
    ("rule", "with_lora", "early_stopping"),
    [
        (Prune(), False, True),
        (L1(), False, True),
        (Negate(), True, False),
        (Contrast(), True, False),
        (MiniUnlearning(), False, False),
        (None, True, True),
    ],
)
def test_what_a_rule_does_not_go_together_with_is_told(
    rule: Rule | None, with_lora: bool, early_stopping: bool
) -> None:
    """With an adapter: what acts on single weights. With early stopping: what forgets after the last step alone."""
    method = replace(METHODS["gd"], rule=rule)
    check_rule(method, TrainingSettings(), where="run 'x'")
    with nullcontext() if with_lora else pytest.raises(ConfigError, match=r"run 'x': the rule .* and lora do not go"):
        check_rule(method, TrainingSettings(lora=LoraSettings()), where="run 'x'")
    with nullcontext() if early_stopping else pytest.raises(ConfigError, match="run 'x': this method forgets once"):
        check_stop(method, where="run 'x'")


def test_a_run_changes_the_settings_of_a_rule_or_takes_another() -> None:
    pruned, plain = METHODS["prune-first"], METHODS["gd"]
    assert pruned.with_rule({}) == pruned and plain.with_rule({}) == plain
    assert pruned.with_rule({"share": 0.25}).rule == Prune(share=0.25)
    assert pruned.with_rule({"share": 0.25}).with_rule({"by": "wanda"}).rule == Prune(share=0.25, by="wanda")
    assert pruned.with_rule({"name": "l1", "strength": 2}).rule == L1(strength=2.0)
    assert plain.with_rule({"name": "l1"}).rule == METHODS["l1-sparse"].rule == L1()
    assert len({str(asdict(rule.function())) for rule in rules}) == len(rules.names()), "a key has the kind"


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("gd", {"share": 0.25}, "the method 'gd' has no rule; give the 'name' of one; valid: prune, l1"),
        ("gd", {"name": "purne"}, r"unknown rule 'purne' \(did you mean 'prune'\?\)"),
        ("prune-first", {"shar": 0.25}, r"unknown setting of the rule 'prune' 'shar' \(did you mean 'share'\?\)"),
        ("prune-first", {"share": 1.0}, "rule 'prune': share = 1.0: Input should be less than 1"),
        ("l1-sparse", {"strength": float("inf")}, "rule 'l1': strength = inf: Input should be a finite number"),
        ("prune-first", {"name": "l1", "share": 0.5}, "unknown setting of the rule 'l1' 'share'; valid: strength"),
    ],
)
def test_wrong_rules_are_told(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        METHODS[method].with_rule(given)
