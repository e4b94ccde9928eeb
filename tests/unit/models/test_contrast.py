"""Two models that answer as one at decoding time, and Mini-Unlearning."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people

import uwc
from uwc.errors import ConfigError
from uwc.models.contrast import contrast
from uwc.models.generation import generate
from uwc.models.load import load_model, save_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import METHODS, Method, WeightedTerm
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:4], people(4)[4:])


def test_the_logits_are_the_formula_at_every_position(knowing: Model, untrained: Model) -> None:
    other = copied(knowing)
    with torch.no_grad():
        other.model.get_input_embeddings().weight.mul_(1.1)
    both = contrast(knowing, other, strength=0.7)
    ids = torch.tensor([list(e.tokens[:12]) for e in knowing.encode(people(3))])
    with torch.no_grad():
        base, reinforced = knowing.model(ids).logits, other.model(ids).logits
        expected = base - 0.7 * torch.relu(reinforced - base)
        torch.testing.assert_close(both.model(ids).logits, expected)
    scores = score_tokens(both, people(3))
    for i, e in enumerate(knowing.encode(people(3))):
        with torch.no_grad():
            row = torch.tensor([e.tokens])
            base, reinforced = knowing.model(row).logits[0], other.model(row).logits[0]
        log_p = (base - 0.7 * torch.relu(reinforced - base)).log_softmax(-1)
        wanted = [float(log_p[t - 1, e.tokens[t]]) for t in range(e.start, len(e.tokens))]
        assert scores.logprob[scores.offsets[i] : scores.offsets[i + 1]].tolist() == pytest.approx(wanted, abs=1e-4)


def test_without_strength_it_is_the_base(knowing: Model, untrained: Model) -> None:
    other = copied(knowing)
    both = contrast(knowing, other, strength=0.0)
    texts = [generate(asked, people(4), max_new_tokens=30).texts for asked in (both, knowing)]
    assert texts[0] == texts[1]
    similar = [uwc.score(m, people(6), metrics=["extraction_strength_similar"]).scores[0].mean for m in (both, knowing)]
    assert similar[0] == similar[1] < 1


def test_the_method_forgets_keeps_the_original_and_loads_back(knowing: Model, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=20, batch_size=4, lr=3e-3)
    partly = copied(knowing)
    train(partly, Objective(METHODS["gd"], partly.model), DATA, TrainingSettings(epochs=2, batch_size=4, lr=5e-4))
    done = unlearn(copied(partly), METHODS["whp"].with_rule({"strength": 20.0}), DATA, settings)
    before = score_tokens(partly, DATA.forget).logprob.mean()
    after = score_tokens(done.model, DATA.forget).logprob.mean()
    assert after < before - 0.1
    save_model(done.model, tmp_path)
    again = load_model(tmp_path, device="cpu")
    assert score_tokens(again, DATA.forget).logprob.mean() == pytest.approx(after, abs=1e-5)


def test_one_step_of_mini_unlearning_is_the_step_without_the_forget_data(knowing: Model) -> None:
    """w - lr (g_f + g_r) / 2 + lr g_f / 2 = w - lr g_r / 2: half a step of plain descent on the same retain answers."""
    settings = TrainingSettings(epochs=1, batch_size=4, lr=0.1, seed=3)
    mini = unlearn(copied(knowing), METHODS["mini-unlearning"], DATA, settings).model
    retrained = copied(knowing)
    pair = (WeightedTerm("nll", weight=0.0, roles={"retain": "forget"}), WeightedTerm("nll", weight=0.5))
    plain = replace(settings, optimizer="sgd", clip=None, schedule="constant", warmup_ratio=0.0)
    train(retrained, Objective(Method("retain half", "", "", pair), retrained.model), DATA, plain)
    for a, b in zip(mini.model.parameters(), retrained.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_mini_unlearning_takes_tricks_and_says_what_it_did(knowing: Model) -> None:
    settings = TrainingSettings(epochs=1, batch_size=2, lr=0.05, seed=3)
    plain, hot = (
        unlearn(copied(knowing), METHODS["mini-unlearning"], DATA, settings, tricks=tricks)
        for tricks in ({}, {"temperature": 5.0})
    )
    assert hot.log.steps[0]["nll(forget)"] > 2 * plain.log.steps[0]["nll(forget)"], "flatter, so less likely"
    assert hot.log.steps[0]["nll"] == plain.log.steps[0]["nll"]
    assert all(step["gradient_norm"] > 0 and step["lr"] == 0.05 for step in plain.log.steps)


def test_mini_unlearning_contracts_the_past(knowing: Model) -> None:
    """A smaller contraction undoes less of the earlier steps, so the forget answers stay likelier."""

    def forgot(contraction: float) -> float:
        method = METHODS["mini-unlearning"].with_rule({"contraction": contraction, "strength": 10.0})
        done = unlearn(copied(knowing), method, DATA, TrainingSettings(epochs=6, batch_size=4, lr=0.05))
        assert len(done.log.steps) == 6
        return float(score_tokens(done.model, DATA.forget).logprob.mean())

    assert forgot(1.0) < forgot(0.1)


def test_mini_unlearning_needs_both_likelihoods(knowing: Model) -> None:
    with pytest.raises(ConfigError, match="retraces training on forget and retain answers"):
        unlearn(copied(knowing), METHODS["gd"].with_rule({"name": "mini-unlearning"}), DATA, TrainingSettings())
