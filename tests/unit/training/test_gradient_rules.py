"""SAM, GRU and latent adversarial training against plain autograd, and against numbers worked out by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conftest import copied, people
from torch import Tensor

from uwc.data.batches import collate
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError
from uwc.models.adapters import add_adapter
from uwc.models.model import Model
from uwc.objectives.methods import METHODS, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.gradient_rules import ascended, perturbed_positions, rectified
from uwc.training.loop import TrainingLog, train
from uwc.training.settings import LoraSettings, TrainingSettings, check_rule
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.",))
ONE_STEP: dict[str, Any] = {
    "epochs": 1, "batch_size": 4, "lr": 0.5, "optimizer": "sgd", "clip": None, "schedule": "constant",
    "warmup_ratio": 0.0,
}  # fmt: skip
GD = METHODS["gd"]
Gradient = dict[str, Tensor]


def step_of(knowing: Model, rule: dict[str, Any], method: Method = GD, **settings: Any) -> tuple[Gradient, TrainingLog]:
    """The gradient of a run's only step, as the step of plain SGD shows it."""
    model, chosen = copied(knowing), TrainingSettings(**{**ONE_STEP, **settings})
    with_rule = method.with_rule(rule)
    log = train(model, Objective(with_rule, model.model), DATA, chosen)
    after = dict(model.model.named_parameters())
    return {n: (p - after[n]).detach() / chosen.lr for n, p in knowing.model.named_parameters()}, log


def token_mean(model: Model, examples: Any) -> Tensor:
    """The mean loss of all answer tokens, one example after the other."""
    losses = []
    for e in model.encode(examples):
        ids = torch.tensor([e.tokens])
        logprobs = model.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        losses.append(-logprobs[e.start - 1 :])
    return torch.cat(losses).mean()


def gradients(model: Model, loss: Callable[[Model], Tensor]) -> Gradient:
    names, weights = zip(*model.model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss(model), weights), strict=True))


def forget_gradient(model: Model) -> Gradient:
    return gradients(model, lambda m: -token_mean(m, DATA.forget))


def retain_partners(knowing: Model) -> list[Any]:
    """The retain examples of the only step."""
    from uwc.training.data import Loader

    loader = Loader(knowing, Objective(GD, knowing.model), DATA, TrainingSettings(**ONE_STEP))
    return [DATA.retain[i] for i in loader.plan[0].partners]


def inner(a: Gradient, b: Gradient) -> float:
    return float(sum((a[n] * b[n]).sum() for n in a))


def test_sam_takes_the_forget_gradient_at_moved_weights_and_the_retain_gradient_at_the_weights(knowing: Model) -> None:
    """Against autograd of each loss at weights that are moved here."""
    at_w = forget_gradient(knowing)
    moved, norm = copied(knowing), inner(at_w, at_w) ** 0.5
    with torch.no_grad():
        for name, p in moved.model.named_parameters():
            p.add_(0.3 * at_w[name] / norm)
    there = forget_gradient(moved)
    retain = gradients(knowing, lambda m: token_mean(m, retain_partners(knowing)))
    found, log = step_of(knowing, {"name": "sam", "rho": 0.3})
    plain, plain_log = step_of(knowing, {})
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, there[name] + retain[name], rtol=2e-3, atol=2e-5)
    assert any((found[n] - plain[n]).abs().max() > 1e-3 for n in found)
    assert log.steps[0]["gradient_ascent"] == pytest.approx(plain_log.steps[0]["gradient_ascent"], rel=1e-5)
    assert list(log.steps[0]) == list(plain_log.steps[0])


def test_sam_without_a_move_is_the_plain_step_and_returns_to_the_same_bits(knowing: Model) -> None:
    """A learning rate of 1e-30 changes no weight, so that any other difference is the move's."""
    plain, _ = step_of(knowing, {})
    still, _ = step_of(knowing, {"name": "sam", "rho": 1e-12})
    for name, gradient in still.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-5)
    model = copied(knowing)
    method = GD.with_rule({"name": "sam", "rho": 5.0})
    train(model, Objective(method, model.model), DATA, TrainingSettings(**{**ONE_STEP, "lr": 1e-30}))
    for before, after in zip(knowing.model.parameters(), model.model.parameters(), strict=True):
        assert torch.equal(before, after)


def test_a_rectified_gradient_by_hand() -> None:
    """g = (1, -2), m = (0, 1) conflict: (1, 0) is left. With (1, 2) they agree, and with m = 0 nothing is known."""
    forget, retain = {"a": torch.tensor([1.0]), "b": torch.tensor([-2.0])}, {"a": torch.zeros(1), "b": torch.ones(1)}
    assert {n: v.item() for n, v in rectified(forget, retain).items()} == {"a": 1.0, "b": 0.0}
    agreeing = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0])}
    assert {n: v.item() for n, v in rectified(agreeing, retain).items()} == {"a": 1.0, "b": 2.0}
    none = {"a": torch.zeros(1), "b": torch.zeros(1)}
    assert {n: v.item() for n, v in rectified(forget, none).items()} == {"a": 1.0, "b": -2.0}


def test_gru_removes_what_raises_the_retain_loss(knowing: Model) -> None:
    """Over all weights together; `descend` adds the retain gradient or leaves it out."""
    forget = forget_gradient(knowing)
    retain = gradients(knowing, lambda m: token_mean(m, retain_partners(knowing)))
    assert inner(forget, retain) < 0, "answers of one form: what forgets one forgets the other"
    factor = inner(forget, retain) / inner(retain, retain)
    only, _ = step_of(knowing, {"name": "gru", "descend": False})
    both, _ = step_of(knowing, {"name": "gru"})
    for name in forget:
        expected = forget[name] - factor * retain[name]
        torch.testing.assert_close(only[name], expected, rtol=2e-3, atol=2e-5)
        torch.testing.assert_close(both[name], expected + retain[name], rtol=2e-3, atol=2e-5)
    assert inner(only, retain) == pytest.approx(0.0, abs=1e-3 * abs(inner(forget, retain)))


def test_gru_averages_the_retain_gradient_over_steps(knowing: Model) -> None:
    """m = 0.5 (0.5 g_1) + 0.5 g_2 in the second step, from gradients at the weights that the first one left."""
    model = copied(knowing)
    method = GD.with_rule({"name": "gru", "smoothing": 0.5, "descend": False})
    settings = TrainingSettings(**{**ONE_STEP, "epochs": 2})
    seen: list[Gradient] = []

    def record(_entry: dict[str, float]) -> None:
        seen.append({n: p.detach().clone() for n, p in model.model.named_parameters()})

    objective = Objective(method, model.model)
    train(model, objective, DATA, settings, log=TrainingLog(on_step=record))
    from uwc.training.data import Loader

    plan = Loader(model, objective, DATA, settings).plan
    middle = copied(knowing)
    with torch.no_grad():
        for name, p in middle.model.named_parameters():
            p.copy_(seen[0][name])
    first, second = (
        gradients(at, lambda m, step=step: token_mean(m, [DATA.retain[i] for i in step.partners]))  # type: ignore[misc]
        for at, step in zip((knowing, middle), plan, strict=True)
    )
    average = {n: 0.25 * first[n] + 0.5 * second[n] for n in first}
    for name, expected in rectified(forget_gradient(middle), average).items():
        torch.testing.assert_close((seen[0][name] - seen[1][name]) / 0.5, expected, rtol=5e-3, atol=5e-5)


def test_an_ascent_step_by_hand() -> None:
    """Towards (3, 4) by 1: (0.6, 0.8); again, within a ball of radius 1.5: 1.5 of that; without gradient it stays."""
    gradient = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    once = ascended(torch.zeros(1, 2, 2), gradient, step=1.0, radius=1.5)
    torch.testing.assert_close(once, torch.tensor([[[0.6, 0.8], [0.0, 0.0]]]))
    twice = ascended(once, gradient, step=1.0, radius=1.5)
    torch.testing.assert_close(twice, torch.tensor([[[0.9, 1.2], [0.0, 0.0]]]))


def test_the_positions_of_a_prompt_end_where_the_answer_is_predicted() -> None:
    encoded = [EncodedExample("a", (5, 6, 7, 8, 9), 3, 5), EncodedExample("b", (5, 6, 7), 1, 3)]
    for scope in ("answer", "attended"):
        batch = collate(encoded, device=torch.device("cpu"), scope=scope)  # type: ignore[arg-type]
        found = perturbed_positions(batch, prompt_only=True)
        assert found.tolist() == [[True, True, True, False, False], [True, False, False, False, False]]
    assert perturbed_positions(batch, prompt_only=False).all()


def perturbed(model: Model, settings: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """Each forget example's perturbation after the first block, found by a loop of its own, and the loss."""
    shifts, losses = [], []
    for e in model.encode(DATA.forget):
        ids = torch.tensor([e.tokens])
        shift = torch.zeros(1, len(e.tokens), model.model.config.hidden_size)

        def loss(given: Tensor, ids: Tensor = ids, e: EncodedExample = e) -> Tensor:
            block = model.model.model.layers[0]
            handle = block.register_forward_hook(lambda _m, _a, output: output + given)
            logits = model.model(input_ids=ids).logits
            handle.remove()
            logprobs = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            return logprobs[e.start - 1 :]

        for _ in range(settings["steps"]):
            leaf = shift.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
            for t in range(e.start):
                moved = shift[0, t] + settings["step_size"] * gradient[0, t] / gradient[0, t].norm()
                shift[0, t] = moved * min(1.0, settings["epsilon"] / float(moved.norm()))
        shifts.append(shift)
        losses.append(loss(shift))
    return shifts, torch.cat(losses).mean()


def test_lat_trains_the_forget_terms_against_perturbed_states(knowing: Model) -> None:
    """Against a loop over single examples that perturbs the first block of two; the retain terms are not perturbed."""
    settings = {"epsilon": 0.5, "steps": 3, "step_size": 0.4}
    shifts, loss = perturbed(knowing, settings)
    assert all(shift.norm(dim=-1).max() == pytest.approx(0.5, rel=1e-3) for shift in shifts)
    names, weights = zip(*knowing.model.named_parameters(), strict=True)
    there = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    retain = gradients(knowing, lambda m: token_mean(m, retain_partners(knowing)))
    found, log = step_of(knowing, {"name": "lat", "layer": 1, **settings})
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, there[name] + retain[name], rtol=1e-2, atol=1e-4)
    _, plain = step_of(knowing, {})
    assert log.steps[0]["gradient_ascent"] == pytest.approx(loss.item(), rel=1e-3)
    _, small = step_of(knowing, {"name": "lat", "layer": 1, "steps": 4, "step_size": 0.02})
    assert small.steps[0]["gradient_ascent"] > plain.steps[0]["gradient_ascent"], "the adversary raises it"
    assert log.steps[0]["nll"] == pytest.approx(plain.steps[0]["nll"], rel=1e-5)


RULES = ("sam", "gru", "lat")


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", ["dpo", "rmu", "idk-ap"])
def test_a_step_does_not_depend_on_micro_batches_or_checkpointing(rule: str, method: str, knowing: Model) -> None:
    """Of terms that read several passes, or states alone."""
    whole, log = step_of(knowing, {"name": rule}, METHODS[method], lr=1e-2)
    split, split_log = step_of(knowing, {"name": rule}, METHODS[method], lr=1e-2, micro_batch_size=1)
    saving, _ = step_of(knowing, {"name": rule}, METHODS[method], lr=1e-2, gradient_checkpointing=True)
    assert split_log.steps[0]["loss"] == pytest.approx(log.steps[0]["loss"], rel=1e-3)
    size = max(float(g.abs().max()) for g in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=2e-2, atol=2e-2 * size)
        torch.testing.assert_close(saving[name], gradient, rtol=1e-3, atol=1e-3 * size)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_in_bf16_is_close_to_that_in_float32(rule: str, knowing: Model) -> None:
    whole, _ = step_of(knowing, {"name": rule}, METHODS["npo-gd"])
    half, _ = step_of(knowing, {"name": rule}, METHODS["npo-gd"], precision="bf16")
    assert inner(whole, half) > 0.97 * (inner(whole, whole) * inner(half, half)) ** 0.5


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_on_gradients_trains_an_adapter(rule: str, knowing: Model) -> None:
    model = copied(knowing)
    method = METHODS["npo-gd"].with_rule({"name": rule})
    adapted = add_adapter(model, rank=2, alpha=4.0, dropout=0.0, targets="all-linear", seed=0)
    log = train(adapted, Objective(method, adapted.model), DATA, TrainingSettings(epochs=2, batch_size=4, lr=1e-2))
    assert log.steps[-1]["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("method", "rule", "settings", "message"),
    [
        ("gd", "sam", {"precision": "fp16"}, "the rule sam and precision fp16 do not go together; use bf16"),
        ("l1-sparse", "sam", {}, "the rule sam is about forget terms, and the method has none"),
        ("npo", "gru", {}, "the rule gru is about retain terms, and the method has none"),
        ("gd", "undo", {"lora": LoraSettings()}, "the rule undo and lora do not go together"),
    ],
)
def test_what_does_not_go_with_a_rule_is_refused(
    method: str, rule: str, settings: dict[str, Any], message: str, knowing: Model
) -> None:
    chosen = METHODS[method].with_rule({"name": rule})
    with pytest.raises(ConfigError, match=message):
        check_rule(chosen, TrainingSettings(**settings), where="here")
    with pytest.raises(ConfigError, match=message):
        unlearn(knowing, chosen, DATA, TrainingSettings(**settings))


def test_a_perturbation_without_effect_is_refused(knowing: Model) -> None:
    """The forget term of RMU reads the first block of two here; a perturbation of the second comes too late."""
    method = METHODS["rmu"].with_rule({"name": "lat", "layer": 2})
    method = replace(method, terms=tuple(WeightedTerm(t.term, settings={"layer": 1}) for t in method.terms))
    model = copied(knowing)
    with pytest.raises(ConfigError, match=r"read no state after block 1; set rule\.layer to 1 or less"):
        train(model, Objective(method, model.model), DATA, TrainingSettings())
    with pytest.raises(ConfigError, match="layer = 9: the model has 2 blocks"):
        train(model, Objective(GD.with_rule({"name": "lat", "layer": 9}), model.model), DATA, TrainingSettings())
