"""What a run records, when it ends, and what it leaves behind."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.conftest import copied, people
from transformers import GPT2Config, GPT2LMHeadModel

from uwc.calibration.calibrate import stop_at
from uwc.data.batches import Batch, collate
from uwc.data.example import Example
from uwc.data.prompts import EncodedExample
from uwc.errors import ConfigError, DataError, ModelError, TrainingDiverged
from uwc.models.adapters import add_adapter, has_adapter
from uwc.models.head import answer_logits
from uwc.models.model import Batching, Model
from uwc.objectives.forwards import Forwards, target_logprobs
from uwc.objectives.methods import METHODS, Constraint, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.objectives.registry import terms
from uwc.training import forward
from uwc.training.callbacks import collapse, retain_perplexity
from uwc.training.data import Key, Loader, TrainingData
from uwc.training.forward import Reference
from uwc.training.loop import TrainingLog, train
from uwc.training.on_policy import sample_answers
from uwc.training.settings import LoraSettings, SampleSettings, TrainingSettings
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.", "No idea."))
SETTINGS = {"epochs": 3, "batch_size": 2, "lr": 1e-3, "warmup_ratio": 0.0}


def trained(knowing: Model, method: Method, **settings: object) -> tuple[Model, TrainingLog]:
    model = copied(knowing)
    log = train(model, Objective(method, model.model), DATA, TrainingSettings(**{**SETTINGS, **settings}))  # type: ignore[arg-type]
    return model, log


def weights(model: Model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.model.parameters()])


def test_the_dual_variable_rises_while_the_bound_is_broken_and_never_below_0() -> None:
    constraint = Constraint(bound=0.5, step=2.0, warmup=0.25)
    assert constraint.updated(1.0, 0.75, progress=0.2) == 1.0, "it waits for the warm-up"
    assert constraint.updated(1.0, 0.75, progress=0.5) == 1.5
    assert constraint.updated(1.0, 0.25, progress=0.5) == 0.5
    assert constraint.updated(0.1, 0.25, progress=0.5) == 0.0


def test_the_dual_variable_follows_the_step_and_not_its_micro_batches(knowing: Model) -> None:
    """The peers' defect O10: it was updated for each micro-batch."""
    constrained = WeightedTerm("nll", weight=1.0, constraint=Constraint(bound=0.0, step=1.0))
    method = Method("pd", "", "", (WeightedTerm("gradient_ascent"), constrained))
    _, whole = trained(knowing, method)
    _, split = trained(knowing, method, micro_batch_size=1)
    duals = [s["dual nll"] for s in whole.steps]
    assert duals[0] == 1.0
    assert duals[1] == pytest.approx(1.0 + whole.steps[0]["nll"])
    assert [s["dual nll"] for s in split.steps] == pytest.approx(duals, rel=1e-4)


@pytest.mark.usefixtures("restored_registries")
def test_a_run_that_diverges_keeps_the_last_finite_weights_and_its_log(knowing: Model) -> None:
    @terms.register(
        "explodes", source="here", side="forget", role="forget", needs=("forget",), reduction="tokens", formula="inf"
    )
    def explodes(forwards: Forwards) -> torch.Tensor:
        """Infinite from the third call on."""
        calls.append(1)
        return forwards.forget.total(forwards.forget.logprobs) * (math.inf if len(calls) > 2 else 1.0)

    calls: list[int] = []
    method = Method("bad", "", "", (WeightedTerm("explodes"), WeightedTerm("nll")))
    done = unlearn(copied(knowing), method, DATA, TrainingSettings(**SETTINGS))
    assert isinstance(done.diverged, TrainingDiverged)
    assert (done.diverged.step, done.diverged.term) == (3, "explodes")
    assert [s["step"] for s in done.log.steps] == [1, 2]
    assert torch.isfinite(weights(done.model)).all()
    assert not torch.equal(weights(done.model), weights(knowing)), "two steps were taken"


def test_collapse_is_reported(knowing: Model) -> None:
    done = unlearn(copied(knowing), METHODS["ga"], DATA, TrainingSettings(epochs=20, batch_size=4, lr=5e-2))
    assert done.collapse is not None and done.collapse.collapsed
    assert done.collapse.before == pytest.approx(retain_perplexity(knowing, DATA.retain))
    mild = unlearn(copied(knowing), METHODS["gd"], DATA, TrainingSettings(epochs=2, batch_size=4, lr=1e-6))
    assert mild.collapse is not None and not mild.collapse.collapsed


@pytest.mark.parametrize(("after", "collapsed"), [(19.9, False), (20.1, True), (math.inf, True), (math.nan, True)])
def test_a_perplexity_that_cannot_be_computed_is_a_collapse(after: float, collapsed: bool) -> None:
    found = collapse(2.0, after)
    assert found.collapsed is collapsed
    assert found.after == after if math.isfinite(after) else math.isnan(found.after)
    assert not collapse(math.inf, 5.0).collapsed and math.isnan(collapse(math.inf, 5.0).before)


@pytest.mark.slow
@pytest.mark.parametrize("tau", [None, 0.9])
@pytest.mark.parametrize("lora", [False, True])
def test_a_run_stops_once_enough_is_forgotten(lora: bool, tau: float | None, knowing: Model) -> None:
    model = add_adapter(copied(knowing), rank=4) if lora else copied(knowing)
    rule = stop_at(
        forget=DATA.forget,
        at_most=0.4,
        every=2,
        metric="exact_memorization",
        tau=tau,
        retain=DATA.retain,
        original=knowing,
    )
    settings = TrainingSettings(epochs=40, batch_size=4, lr=2e-2 if lora else 2e-3, schedule="constant")
    log = train(model, Objective(METHODS["gd"], model.model), DATA, settings, stop=rule)
    assert log.stopped is not None and log.stopped < 40
    assert log.stopped == len(log.steps)
    assert has_adapter(model.model) == lora, "measuring merges a copy alone"
    assert log.steps[-1]["stop_score"] <= 0.4
    assert all(s["stop_score"] > 0.4 for s in log.steps[:-1] if "stop_score" in s)


def test_measuring_does_not_change_the_run(knowing: Model) -> None:
    rule = stop_at(forget=DATA.forget, at_most=-1.0, every=1, tau=0.9, retain=DATA.retain, original=knowing)
    plain, _ = trained(knowing, METHODS["gd"])
    measured = copied(knowing)
    train(measured, Objective(METHODS["gd"], measured.model), DATA, TrainingSettings(**SETTINGS), stop=rule)
    assert torch.equal(weights(plain), weights(measured))


def test_each_optimizer_is_the_one_named(knowing: Model) -> None:
    """One step of SGD without momentum moves by lr times the gradient; AdamW by lr in each coordinate."""
    model, log = trained(knowing, METHODS["ga"], optimizer="SGD", clip=None, epochs=0.1, schedule="constant")
    moved = float((weights(model) - weights(knowing)).norm())
    assert moved == pytest.approx(1e-3 * log.steps[0]["gradient_norm"], rel=1e-3)
    model, _ = trained(knowing, METHODS["ga"], epochs=0.1, schedule="constant")
    assert float((weights(model) - weights(knowing)).abs().max()) == pytest.approx(1e-3, rel=1e-3)


def test_gradients_are_clipped_to_the_norm_asked_for(knowing: Model) -> None:
    """One step of SGD then moves by lr times that norm; a gradient that is shorter stays as it is."""
    sgd = {"optimizer": "sgd", "epochs": 0.1, "schedule": "constant"}
    model, log = trained(knowing, METHODS["ga"], clip=0.01, **sgd)
    assert log.steps[0]["gradient_norm"] > 0.1, "the log has the norm before clipping"
    assert float((weights(model) - weights(knowing)).norm()) == pytest.approx(1e-3 * 0.01, rel=1e-2)
    free, _ = trained(knowing, METHODS["ga"], clip=None, **sgd)
    wide, _ = trained(knowing, METHODS["ga"], clip=1e3, **sgd)
    assert torch.equal(weights(free), weights(wide))


def test_a_wrong_optimizer_is_told(knowing: Model) -> None:
    with pytest.raises(ConfigError, match="unknown optimizer 'sparse_adam'"):
        trained(knowing, METHODS["ga"], optimizer="sparse_adam")
    with pytest.raises(ConfigError, match=r"unknown optimizer 'adamv' \(did you mean 'adam"):
        trained(knowing, METHODS["ga"], optimizer="adamv")
    with pytest.raises(ConfigError, match="optimizer 'sgd'"):
        trained(knowing, METHODS["ga"], optimizer="sgd", optimizer_settings={"nesterow": True})
    with pytest.raises(ModelError, match="needs bitsandbytes; install it with"):
        trained(knowing, METHODS["ga"], optimizer="adamw8bit")


def test_gradient_checkpointing_changes_no_number(knowing: Model) -> None:
    plain, _ = trained(knowing, METHODS["npo-kl"])
    saving, _ = trained(knowing, METHODS["npo-kl"], gradient_checkpointing=True)
    torch.testing.assert_close(weights(plain), weights(saving), rtol=1e-5, atol=1e-6)
    assert not saving.model.is_gradient_checkpointing


def test_padding_is_tested_in_full_precision(knowing: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast rounds more than padding may change, and questions would be answered one by one."""
    ids, seen = torch.tensor([[5, 6, 7, 8]]), list[torch.Tensor]()

    def examined(model: Any, _name: str) -> Batching:
        seen.append(model(input_ids=ids).logits.detach())
        return Batching()

    monkeypatch.setattr("uwc.models.batching.examined", examined)
    model = replace(copied(knowing), batching=None)
    vars(model.model).pop("_is_accelerate_prepared", None)  # as of a model that was never trained
    settings = TrainingSettings(**{**SETTINGS, "precision": "bf16"})  # type: ignore[arg-type]
    train(model, Objective(METHODS["gd"], model.model), DATA, settings)
    assert len(seen) == 1
    assert torch.equal(seen[0], knowing.model(input_ids=ids).logits)


def test_bf16_trains_close_to_float32(knowing: Model) -> None:
    _, plain = trained(knowing, METHODS["kl"])
    _, low = trained(knowing, METHODS["kl"], precision="bf16")
    assert low.steps[0]["loss"] == pytest.approx(plain.steps[0]["loss"], rel=0.02)
    assert [s["loss"] for s in low.steps] == pytest.approx([s["loss"] for s in plain.steps], abs=0.1)
    assert low.steps[0]["kl"] == pytest.approx(0.0, abs=1e-4), "model and reference run in the same precision"


def test_reference_log_probabilities_are_computed_once_for_each_pair(
    knowing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DPO over three epochs: each (question, refusal) pair of the plan once, before the first step."""
    rows: list[int] = []
    plain = forward.run_model

    def counted(module: object, batch: object, **options: object) -> object:
        if not torch.is_grad_enabled():
            rows.append(batch.size)  # type: ignore[attr-defined]
        return plain(module, batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "run_model", counted)
    model = copied(knowing)
    objective, settings = Objective(METHODS["dpo"], model.model), TrainingSettings(**{**SETTINGS, "epochs": 12})
    pairs = Loader(model, objective, DATA, settings).encoded["refusal"]
    assert not objective.needs_reference_model
    train(model, objective, DATA, settings)
    assert len(pairs) == 8, "twelve epochs over four questions meet both refusals of each"
    assert sum(rows) == len(DATA.forget) + len(pairs)


def test_random_answers_and_alternatives_come_from_where_they_should(knowing: Model) -> None:
    settings = TrainingSettings(**SETTINGS)
    loader = Loader(knowing, Objective(METHODS["llmu"], knowing.model), DATA, settings)
    decoded = [knowing.tokenizer.decode(e.tokens[e.start : e.end]) for e in loader.encoded["random_answer"].values()]
    assert {d.strip() for d in decoded} <= {e.answer for e in DATA.retain}
    loader = Loader(knowing, Objective(METHODS["altpo"], knowing.model), DATA, settings)
    for (question, number), e in loader.encoded["alternative"].items():
        assert (
            knowing.tokenizer.decode(e.tokens[e.start : e.end]).strip()
            == DATA.forget[question].perturbed_answers[number]
        )


def test_a_question_and_its_retain_partner_get_the_same_refusal(knowing: Model) -> None:
    loader = Loader(knowing, Objective(METHODS["idk-ap"], knowing.model), DATA, TrainingSettings(**SETTINGS))
    for step in loader.plan:
        (micro,) = loader.micro_batches(step, None)
        assert [k[1] for k in micro.roles["refusal"].keys] == [k[1] for k in micro.roles["retain_refusal"].keys]


def test_missing_data_is_told(knowing: Model) -> None:
    from dataclasses import replace

    def loaded(method: str, data: TrainingData) -> None:
        Loader(knowing, Objective(METHODS[method], knowing.model), data, TrainingSettings(**SETTINGS))

    with pytest.raises(DataError, match="'gd' needs retain examples"):
        loaded("gd", TrainingData(DATA.forget))
    with pytest.raises(DataError, match="'idk-ap' needs refusal examples"):
        loaded("idk-ap", TrainingData(DATA.forget, DATA.retain))
    bare = [replace(e, perturbed_answers=()) for e in DATA.forget]
    with pytest.raises(DataError, match=r"perturbed_answers.*altpo-on-policy"):
        loaded("altpo", TrainingData(bare, DATA.retain))


def test_sampled_answers_are_the_models_own(knowing: Model) -> None:
    """Nearly without temperature the model that knows the answers says them; sampled again later, it says others."""
    samples = SampleSettings(temperature=0.01, max_new_tokens=40, every=6)
    objective = Objective(METHODS["npo-on-policy"], knowing.model)
    model = copied(knowing)
    drawn = sample_answers(model, DATA.forget, samples, seed=0)
    own = model.encode(DATA.forget)
    assert [drawn[i, 0].tokens for i in range(4)] == [e.tokens for e in own]
    log = train(model, objective, DATA, TrainingSettings(**{**SETTINGS, "epochs": 8, "lr": 3e-3}, samples=samples))
    assert len(log.steps) == 16
    later = sample_answers(model, DATA.forget, samples, seed=0)
    assert [later[i, 0].tokens for i in range(4)] != [e.tokens for e in own]


def test_sampled_answers_end_with_the_context(untrained: Model) -> None:
    """Learned positions have no place beyond it; the model without knowledge hardly ever stops by itself."""
    torch.manual_seed(0)
    sizes = GPT2Config(vocab_size=len(untrained.tokenizer), n_positions=48, n_embd=16, n_layer=1, n_head=2)
    model = replace(untrained, model=GPT2LMHeadModel(sizes).eval())
    drawn = sample_answers(model, DATA.forget, SampleSettings(max_new_tokens=500), seed=0)
    assert max(len(e.tokens) for e in drawn.values()) == 48
    assert all(e.tokens[: e.start] == own.tokens[: own.start] for e, own in zip(
        (drawn[i, 0] for i in range(4)), model.encode(DATA.forget), strict=True))  # fmt: skip


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_answers_are_sampled_again_every_k_steps_and_compared_with_the_original(
    lora: LoraSettings | None, knowing: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen steps, again every six: before steps 1, 7 and 13; each step trains on the last."""
    drawn: list[dict[Key, EncodedExample]] = []
    read: list[list[EncodedExample]] = []
    answers = [e.answer for e in DATA.forget]

    def sample(model: Model, examples: list[Example], _settings: SampleSettings, *, seed: int) -> object:
        turned = answers[len(drawn) :] + answers[: len(drawn)]
        encoded = model.encode([replace(e, answer=a) for e, a in zip(examples, turned, strict=True)])
        drawn.append({(i, 0): e for i, e in enumerate(encoded)})
        return drawn[-1]

    def values(self: Reference, role: str, keys: list[Key], batch: Batch) -> object:
        read.append([drawn[-1][key] for key in keys])
        made = given(self, role, keys, batch)
        alone = collate(read[-1], device=knowing.device)
        original = target_logprobs(answer_logits(knowing.model, alone), alone.targets)
        torch.testing.assert_close(made["sampled.reference_logprobs"], original, rtol=1e-3, atol=1e-3)
        assert torch.equal(alone.targets, batch.targets)
        return made

    given = Reference.values
    monkeypatch.setattr("uwc.training.loop.sample_answers", sample)
    monkeypatch.setattr(Reference, "values", values)
    method = Method("on-policy", "", "", (WeightedTerm("npo", roles={"forget": "sampled"}),))
    settings = {**SETTINGS, "epochs": 8, "lr": 1e-2, "samples": SampleSettings(every=6), "lora": lora}
    done = unlearn(copied(knowing), method, DATA, TrainingSettings(**settings))  # type: ignore[arg-type]
    assert (len(done.log.steps), len(drawn), len(read)) == (16, 3, 16)


def test_the_gradient_effect_sums_to_the_squared_norm_of_the_forget_gradient(knowing: Model) -> None:
    """In one step over all forget examples ascent's gradient is minus that of the forget risk."""
    _, log = trained(knowing, METHODS["ga"], batch_size=4, epochs=1, gradient_effect_every=1, clip=None)
    (record,) = log.effects
    assert sum(record["forget"].values()) == pytest.approx(-(log.steps[0]["gradient_norm"] ** 2), rel=1e-3)
    assert set(record["retain"]) == {"embedding", "early", "middle", "head"}, "two blocks fill two of three thirds"
    plain, _ = trained(knowing, METHODS["ga"], batch_size=4, epochs=1)
    recorded, _ = trained(knowing, METHODS["ga"], batch_size=4, epochs=1, gradient_effect_every=1)
    assert torch.equal(weights(plain), weights(recorded)), "recording changes nothing"


@pytest.mark.parametrize("method", ["gd", "me-gd"])
def test_the_gradient_effect_is_what_a_small_step_does_to_each_risk(method: str, knowing: Model) -> None:
    """Against the difference between one step of plain descent, cut into micro-batches, and the same step backwards."""

    def risk(model: Model, examples: Sequence[Example]) -> float:
        batch = collate(model.encode(examples), device=model.device)
        with torch.no_grad():
            return float(-target_logprobs(answer_logits(model.model, batch), batch.targets).double().mean())

    moved, log = trained(
        knowing, METHODS[method], optimizer="sgd", lr=2e-3, clip=None, batch_size=4, epochs=1, schedule="constant",
        gradient_effect_every=1, micro_batch_size=3,
    )  # fmt: skip
    back = copied(knowing)
    with torch.no_grad():
        for there, here in zip(moved.model.parameters(), back.model.parameters(), strict=True):
            here.mul_(2).sub_(there)
    for name, examples in (("forget", DATA.forget), ("retain", DATA.retain)):
        fallen = (risk(back, examples) - risk(moved, examples)) / 4e-3
        assert sum(log.effects[0][name].values()) == pytest.approx(fallen, rel=0.05)
