"""Attacks on the weights: relearning, quantization, pruning."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.conftest import copied, tiny_target
from tests.unit.hidden_knowledge import KNOWN, UNKNOWN, shouting, strength, weights
from torch import Tensor

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.compression import round_to_nearest
from uwc.attacks.curves import budget_curve
from uwc.attacks.data import AttackData
from uwc.attacks.measuring import measure
from uwc.data.batches import collate
from uwc.data.example import Example
from uwc.models.head import answer_logits, token_logprobs
from uwc.models.states import blocks
from uwc.models.target import Target

SCORED, OWNED = KNOWN[:4], KNOWN[4:]
DATA = AttackData(SCORED, train=OWNED, retain=UNKNOWN)
RELEARN = {"steps": 8, "lr": 2e-3}


def after(target: Target, name: str, settings: dict[str, Any]) -> float:
    return measure(target, DATA, make_chain(name, {name: settings}), ["extraction_strength"])[-1].after


def test_relearning_a_part_brings_back_the_rest(knowing: Target) -> None:
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
    knowing: Target, name: str, data: AttackData, settings: dict[str, Any]
) -> None:
    """The output layer always says one token; steps too few to teach anything to a model that never knew mend it."""
    chain = make_chain(name, {name: settings})
    silent, never = shouting(knowing), tiny_target(hidden_size=64)
    assert strength(silent, SCORED) == 0.0
    assert measure(silent, data, chain, ["extraction_strength"])[-1].after > 0.5
    assert measure(never, data, chain, ["extraction_strength"])[-1].after < 0.1


def test_relearning_a_part_brings_nothing_that_was_never_known() -> None:
    assert after(tiny_target(hidden_size=64), "relearn", RELEARN) < 0.2


def test_the_original_data_may_hold_more_than_what_is_scored() -> None:
    """Relearning on all of it takes what the data name as original, which here is longer by two examples."""
    for data, steps in ((AttackData(SCORED), 4), (AttackData(SCORED, original=KNOWN[:6]), 6)):
        with attacked(
            tiny_target(), data, make_chain("relearn_original", {"relearn_original": {"batch_size": 1}})
        ) as variants:
            assert next(variants).effort == steps


def test_relearning_the_scored_answers_themselves_teaches_them_anew() -> None:
    """Why the paper's attack needs a control: a model that never knew them learns them too."""
    data = AttackData(KNOWN[:2])
    chain = make_chain("relearn_original", {"relearn_original": {"steps": 60, "lr": 1e-2}})
    assert chain.trains_on_scored
    assert measure(tiny_target(hidden_size=64), data, chain, ["extraction_strength"])[-1].after > 0.8


def test_each_budget_of_a_trajectory_is_a_run_of_its_own_to_the_bit(knowing: Target) -> None:
    def states(settings: dict[str, Any]) -> list[dict[str, bytes]]:
        with attacked(knowing, DATA, make_chain("relearn", {"relearn": settings})) as variants:
            return [weights(v.target) for v in variants]

    shared = {"lr": 1e-3, "batch_size": 2}
    before = weights(knowing)
    trajectory = states({**shared, "budgets": [4, 1, 3]})
    assert [states({**shared, "steps": n})[0] for n in (1, 3, 4)] == trajectory
    assert len({hash(tuple(w.values())) for w in (before, *trajectory)}) == 4
    assert weights(knowing) == before


def test_one_epoch_is_the_default_and_fewer_examples_make_it_shorter(knowing: Target) -> None:
    for settings, steps in (({}, 2), ({"examples": 1}, 1)):
        with attacked(knowing, DATA, make_chain("relearn", {"relearn": {"batch_size": 2, **settings}})) as variants:
            assert [v.effort for v in variants] == [steps]


def test_a_curve_gives_the_effort_that_brings_half_back(knowing: Target) -> None:
    curve = budget_curve(shouting(knowing), DATA, "relearn", [2, 4, 8], settings={"lr": 2e-3}, original_score=0.5)
    assert curve.over == "steps" and curve.efforts == (2, 4, 8)
    assert curve.before == 0.0 < curve.scores[-1]
    assert curve.half_effort is not None and 0 < curve.half_effort <= 8


def test_rounding_by_hand() -> None:
    """Three bits have levels -3..3: with maximum 3 the scale is 1, and 1.4 becomes 1; with 6 it is 2: 2."""
    weight = torch.tensor([[3.0, 1.4, 6.0, 1.4], [0.0, 0.0, 0.3, -0.14]])
    grouped = round_to_nearest(weight, bits=3, group_size=2)
    torch.testing.assert_close(grouped, torch.tensor([[3.0, 1.0, 6.0, 2.0], [0.0, 0.0, 0.3, -0.1]]))
    whole = round_to_nearest(weight, bits=3, group_size=0)
    torch.testing.assert_close(whole, torch.tensor([[4.0, 2.0, 6.0, 2.0], [0.0, 0.0, 0.3, -0.1]]))
    torch.testing.assert_close(round_to_nearest(whole, bits=3, group_size=0), whole)


def hide_by_small_changes(target: Target, allowed: Callable[[Tensor], Tensor]) -> Target:
    """Gradient ascent on the known answers within -allowed(w)..allowed(w) of each block matrix."""
    hidden = copied(target)
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


def test_rounding_brings_back_what_changes_below_half_a_step_hide(knowing: Target) -> None:
    """The model lies on the grid; the changes leave each row's largest weight alone, so that the grid stays."""
    settings = {"bits": 4, "group_size": 0}
    with attacked(knowing, DATA, make_chain("quantization", {"quantization": settings})) as variants:
        on_grid = next(variants).target

    def below_half_a_step(w: Tensor) -> Tensor:
        largest = w.abs().amax(dim=1, keepdim=True)
        return torch.where(w.abs() < 0.9 * largest, 0.49 * largest / 7, torch.zeros_like(w))

    assert strength(on_grid, SCORED) > 0.8
    hidden = hide_by_small_changes(on_grid, below_half_a_step)
    assert strength(hidden, SCORED) < 0.3
    assert after(hidden, "quantization", settings) == pytest.approx(strength(on_grid, SCORED))


def test_pruning_brings_back_what_small_weights_hide(knowing: Target) -> None:
    """A third of each matrix is zero; what hides the answers stands there, and is smaller than all else."""
    with attacked(knowing, DATA, make_chain("pruning", {"pruning": {"share": 0.3}})) as variants:
        sparse = next(variants).target

    def on_zeros(w: Tensor) -> Tensor:
        return torch.where(w == 0, 0.9 * w[w != 0].abs().min(), torch.zeros_like(w))

    assert strength(sparse, SCORED) > 0.6
    hidden = hide_by_small_changes(sparse, on_zeros)
    assert strength(hidden, SCORED) < strength(sparse, SCORED) - 0.3
    assert after(hidden, "pruning", {"share": 0.3}) == pytest.approx(strength(sparse, SCORED))


@pytest.mark.parametrize("name", ["quantization", "pruning"])
def test_coarser_weights_know_nothing_that_was_never_known(name: str) -> None:
    assert after(tiny_target(), name, {}) < 0.1


def test_pruning_removes_exactly_the_share(knowing: Target) -> None:
    with attacked(knowing, DATA, make_chain("pruning", {"pruning": {"share": 0.25}})) as variants:
        pruned = next(variants).target
    for old, new in zip(blocks(knowing.model).parameters(), blocks(pruned.model).parameters(), strict=True):
        if old.ndim == 2:
            assert int((new == 0).sum()) == math.floor(0.25 * old.numel())
            assert old[new == 0].abs().max().item() <= old[new != 0].abs().min().item()
