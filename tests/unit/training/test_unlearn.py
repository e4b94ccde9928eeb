"""Noise in the weights of an unlearned model, and its distillation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import copied, people

from uwc.errors import ConfigError, DataError
from uwc.models.model import Model
from uwc.models.selection import RULES, select
from uwc.objectives.methods import METHODS, Method
from uwc.training.data import Loader, TrainingData
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import DISTILLATION, DISTILLED, unlearn
from uwc.training.weight_rules import mix_in_noise

DATA = TrainingData(people(4)[:4], people(4)[4:])
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 1e-2, "optimizer": "sgd", "clip": None,
                            "schedule": "constant", "warmup_ratio": 0.0}  # fmt: skip


def undo(**settings: Any) -> Method:
    return METHODS["npo-undo"].with_rule(settings)


def test_noise_is_mixed_into_matrices_and_vectors_shrink() -> None:
    """A matrix of 300 x 100 gets noise that is uniform on (-a, a), a = sqrt(6 / 400); a stack of matrices likewise."""
    matrix, vector, stack = torch.ones(300, 100), torch.tensor([2.0, -4.0]), torch.zeros(2, 300, 100)
    mix_in_noise([matrix, vector, stack], alpha=0.25, beta=0.5, seed=0)
    assert vector.tolist() == [1.5, -3.0]
    bound = 0.25 * 0.5 * (6 / 400) ** 0.5
    for noise in (matrix - 0.75, stack[0], stack[1]):
        assert noise.abs().max() <= bound * (1 + 1e-4) and noise.abs().max() > 0.99 * bound
        assert float(noise.mean()) == pytest.approx(0.0, abs=0.02 * bound)
        assert float(noise.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not torch.equal(stack[0], stack[1])
    again, other = torch.ones(300, 100), torch.ones(300, 100)
    mix_in_noise([again], alpha=0.25, beta=0.5, seed=0)
    mix_in_noise([other], alpha=0.25, beta=0.5, seed=1)
    assert torch.equal(again, matrix) and not torch.equal(other, matrix)
    kept = torch.randn(5, 5)
    before = kept.clone()
    mix_in_noise([kept], alpha=0.0, beta=0.5, seed=0)
    assert torch.equal(kept, before)


def test_undo_distils_the_unlearned_model_into_its_noised_weights(knowing: Model) -> None:
    """One step of plain SGD against autograd of the divergence at every token, one example after the other."""
    plain = unlearn(copied(knowing), METHODS["npo-gd"], DATA, TrainingSettings(**SETTINGS))
    rule = {"alpha": 0.3, "beta": 0.2, "lr": 0.5, "epochs": 0.01}
    done = unlearn(copied(knowing), undo(**rule), DATA, TrainingSettings(**SETTINGS))
    noised = copied(plain.model)
    mix_in_noise(noised.model.parameters(), alpha=0.3, beta=0.2, seed=0)
    from uwc.objectives.objective import Objective

    loader = Loader(
        knowing, Objective(DISTILLATION, knowing.model), DATA, TrainingSettings(**{**SETTINGS, "epochs": 0.01})
    )
    losses = []
    for e in knowing.encode([DATA.retain[i] for i in loader.plan[0].anchors]):
        ids = torch.tensor([e.tokens])
        with torch.no_grad():
            wanted = plain.model.model(input_ids=ids).logits[0, :-1].softmax(-1)
        found = noised.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses.append((wanted * (wanted.log() - found)).sum(-1))
    loss = torch.cat(losses).mean()
    gradients = torch.autograd.grad(loss, list(noised.model.parameters()))
    pairs = zip(noised.model.parameters(), done.model.model.parameters(), gradients, strict=True)
    for before, after, gradient in pairs:
        torch.testing.assert_close((before - after) / 0.5, gradient, rtol=5e-3, atol=2e-5)
    assert done.log.steps[:2] == plain.log.steps, "it unlearns as the plain method does"
    assert [entry["step"] for entry in done.log.steps] == [1, 2, 3]
    assert done.log.steps[2][DISTILLED] == done.log.steps[2]["loss"] == pytest.approx(loss.item(), rel=1e-4)


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("kill", [2, 7])
def test_undo_resumes_with_the_same_bits(kill: int, knowing: Model, tmp_path: Path) -> None:
    """In the unlearning, and in the distillation."""
    settings = TrainingSettings(**{**SETTINGS, "batch_size": 2, "checkpoint_every": 1})
    method = undo(epochs=3)

    def die(entry: dict[str, float]) -> None:
        if entry["step"] == kill:
            raise Killed

    whole = unlearn(copied(knowing), method, DATA, settings)
    with pytest.raises(Killed):
        unlearn(copied(knowing), method, DATA, settings, checkpoints=tmp_path, on_step=die)
    told: list[float] = []
    again = unlearn(
        copied(knowing), method, DATA, settings, checkpoints=tmp_path, on_step=lambda e: told.append(e["step"])
    )
    for one, other in zip(whole.model.model.parameters(), again.model.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.log.steps == whole.log.steps and told == [entry["step"] for entry in whole.log.steps]
    assert (tmp_path / DISTILLED).is_dir()


def test_undo_needs_retain_examples(knowing: Model) -> None:
    method = METHODS["npo"].with_rule({"name": "undo"})
    with pytest.raises(DataError, match="the rule undo distils on retain examples, and there are none"):
        unlearn(copied(knowing), method, TrainingData(DATA.forget), TrainingSettings(**SETTINGS))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", ["gd", "npo-undo"])
def test_retain_examples_are_chosen_by_a_rule(knowing: Model, method: str, rule: str) -> None:
    """The weights are those of unlearning with exactly the retain examples that the model before it chooses; whether it
    collapsed is measured on all of them."""
    retain = people()[4:]
    settings = {**SETTINGS, "seed": 3}
    chosen = select(knowing, retain, 3, rule=rule, seed=3)
    ours = unlearn(
        copied(knowing), METHODS[method], TrainingData(DATA.forget, retain),
        TrainingSettings(**settings, retain={"examples": 3, "select": rule}),
    )  # fmt: skip
    theirs = unlearn(
        copied(knowing), METHODS[method], TrainingData(DATA.forget, [retain[i] for i in chosen]),
        TrainingSettings(**settings),
    )  # fmt: skip
    weights = dict(theirs.model.model.named_parameters())
    assert all(torch.equal(p, weights[name]) for name, p in ours.model.model.named_parameters())
    whole = unlearn(copied(knowing), METHODS[method], TrainingData(DATA.forget, retain), TrainingSettings(**settings))
    assert ours.collapse and whole.collapse and ours.collapse.before == whole.collapse.before
    assert any(not torch.equal(p, weights[name]) for name, p in whole.model.model.named_parameters())


def test_a_choice_of_retain_examples_without_effect_is_refused(knowing: Model) -> None:
    for method, count, error, message in (
        ("ga", 2, ConfigError, "'ga' trains on no retain examples, so that training.retain has no effect"),
        ("gd", 4, DataError, r"training\.retain\.examples = 4 has no effect, since there are 4 retain examples"),
    ):
        with pytest.raises(error, match=message):
            unlearn(copied(knowing), METHODS[method], DATA, TrainingSettings(retain={"examples": count}))
    assert {m for m in METHODS if METHODS[m].retains} >= {"gd", "kl", "rmu", "npo-gd", "npo-undo"}
