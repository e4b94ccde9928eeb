"""Pruning, shrinking and negation of weights."""

from typing import Any

import pytest
import torch
from tests.conftest import copied, people
from transformers import GPT2Config, GPT2LMHeadModel

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, ModelError
from uwc.models.lora import add_adapter
from uwc.models.model import Target
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.studies.config import training_settings
from uwc.training.loading import TrainingData
from uwc.training.loop import train
from uwc.training.settings import LoraSettings, PruneSettings, TrainingSettings
from uwc.training.sparsity import linear_weights, magnitude_masks, soft_threshold, wanda_masks
from uwc.training.unlearning import unlearn

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


def test_wanda_weighs_by_the_inputs_and_ignores_padding(knowing: Target) -> None:
    """Against scores computed from the inputs of each example alone, which has no padding."""
    target = copied(knowing)
    encoded = target.encode(people(3))
    (name,) = [n for n in linear_weights(target.model) if n.endswith("layers.1.self_attn.q_proj.weight")]
    module = target.model.model.layers[1].self_attn.q_proj
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(lambda _m, args, _o: seen.append(args[0][0]))
    for e in encoded:
        collated = collate([e], device=target.device, scope="attended")
        target.model(input_ids=collated.input_ids[:, :-1])
    handle.remove()
    scores = module.weight.abs() * torch.cat(seen).square().sum(dim=0).sqrt()
    batch = collate(encoded, device=target.device, scope="attended")
    mask = wanda_masks(target.model, [batch], share=0.25)[name]
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


def test_linear_weights_are_those_of_the_blocks(knowing: Target) -> None:
    names = linear_weights(knowing.model)
    assert len(names) == 2 * 7
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("by", ["magnitude", "wanda"])
@pytest.mark.parametrize("method", ["prune-first", "npo"])
def test_removed_weights_stay_at_zero_through_any_objective(by: str, method: str, knowing: Target) -> None:
    target = copied(knowing)
    prune = PruneSettings(share=0.25, by=by)  # type: ignore[arg-type]
    train(target, Objective(METHODS[method], target.model), DATA, TrainingSettings(**SETTINGS, prune=prune))
    before, after = linear_weights(knowing.model), linear_weights(target.model)
    zeros = sum(int((w == 0).sum()) for w in after.values()) / sum(w.numel() for w in after.values())
    assert zeros == pytest.approx(0.25, abs=0.01)
    assert any(not torch.equal(before[n][after[n] != 0], after[n][after[n] != 0]) for n in after), "the others trained"


def test_l1_makes_zeros_and_descent_alone_does_not(knowing: Target) -> None:
    def zeros(l1: float) -> int:
        target = copied(knowing)
        train(target, Objective(METHODS["l1-sparse"], target.model), DATA, TrainingSettings(**SETTINGS, l1=l1))
        return sum(int((w == 0).sum()) for w in linear_weights(target.model).values())

    assert zeros(0.0) == 0
    assert 0 < zeros(1.0) < zeros(5.0)


def test_negation_is_the_opposite_of_what_was_learned(knowing: Target) -> None:
    learned, negated = copied(knowing), copied(knowing)
    train(learned, Objective(METHODS["task-vector"], learned.model), DATA, TrainingSettings(**SETTINGS))
    train(negated, Objective(METHODS["task-vector"], negated.model), DATA, TrainingSettings(**SETTINGS, negate=0.5))
    parameters = zip(knowing.model.parameters(), learned.model.parameters(), negated.model.parameters(), strict=True)
    for start, there, back in parameters:
        torch.testing.assert_close(back, start - 0.5 * (there - start))


def test_an_adapter_is_negated_as_the_update_that_it_is(knowing: Target) -> None:
    """Long enough that both of its factors have moved: turning both would give another matrix."""
    updates = []
    for negate in (None, 0.5):
        settings = TrainingSettings(**{**SETTINGS, "epochs": 20}, lora=LoraSettings(rank=2), negate=negate)
        target = unlearn(copied(knowing), METHODS["task-vector"], DATA, settings).target
        pairs = zip(target.model.parameters(), knowing.model.parameters(), strict=True)
        updates.append(torch.cat([(after - before).detach().flatten() for after, before in pairs]))
    torch.testing.assert_close(updates[1], -0.5 * updates[0], rtol=1e-4, atol=1e-6)


def test_weights_that_an_adapter_leaves_alone_cannot_be_pruned(knowing: Target) -> None:
    target = add_adapter(copied(knowing), rank=2)
    with pytest.raises(ConfigError, match="do not go together with lora"):
        train(target, Objective(METHODS["ga"], target.model), DATA, TrainingSettings(**SETTINGS, prune=PruneSettings()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": {}, "prune": {}}, "run 'x': lora and prune do not go together; leave one of them out"),
        ({"lora": {}, "l1": 0.5}, "lora and l1 do not go together"),
        ({"mini": {}, "lora": {}}, "mini and lora do not go together"),
        ({"mini": {}, "negate": 1.0}, "mini and negate do not go together"),
    ],
)
def test_settings_that_exclude_each_other_are_told_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_settings(settings, where="run 'x'")
    alone = [training_settings({name: value}, where="") for name, value in settings.items()]
    assert len(alone) == 2, "each by itself is as good as ever"
