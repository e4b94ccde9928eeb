"""Pruning, shrinking and negation of weights."""

import pytest
import torch
from tests.conftest import copied, people

from uwc.data.batches import collate
from uwc.errors import ConfigError
from uwc.models.target import Target
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
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


def test_weights_that_an_adapter_leaves_alone_cannot_be_pruned(knowing: Target) -> None:
    settings = TrainingSettings(**SETTINGS, prune=PruneSettings(), lora=LoraSettings(rank=2))
    with pytest.raises(ConfigError, match="do not go together with lora"):
        unlearn(copied(knowing), METHODS["ga"], DATA, settings)
