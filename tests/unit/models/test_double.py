"""Nothing on the device of the model needs double precision, which Apple GPUs do not have.

The device is emulated (`tests/helpers/other_device.py`).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people
from tests.helpers.calibration import correlated
from tests.helpers.other_device import DEVICE, DoublePrecision, Emulated, OnDevice, emulated_device
from torch import Tensor

import uwc
from uwc.attacks.formats import awq, gptq
from uwc.attacks.registry import attacks
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING, METHODS
from uwc.objectives.rules import MiniUnlearning
from uwc.training.data import TrainingData
from uwc.training.settings import TrainingSettings
from uwc.training.unlearn import unlearn

FORGET, TRAIN, RETAIN = people(1), people(4)[2:8], people(6)[8:]

TRAINED = ("fine-tuning", "npo-on-policy", "dpo", "rmu", "wga", "mini-unlearning", "task-vector", "prune-first")
"""Methods with all kinds of terms and rules."""
METRICS = (
    "extraction_strength",
    "kl_to_original",
    "probabilistic_extraction",
    "letter_accuracy",
    "rouge_l",
    "leak_at_k",
)
ATTACKS = (
    "gcg_per_question",
    "probe",
    "direction_ablation",
    "soft_prompt",
    "quantization_nf4",
    "relearn",
    "beam_search",
    "planning",
)
"""Attacks that compute on the device beyond scoring."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    with emulated_device(monkeypatch) as mode:
        yield mode


def moved(model: Model) -> Model:
    changed = copied(model)
    changed.model.to(DEVICE)
    return changed


def test_the_emulated_device_computes_and_refuses_double_precision(device: Emulated) -> None:
    values = torch.tensor([1.0, 2.0], device=DEVICE)
    assert isinstance(values, OnDevice) and values.device == DEVICE
    assert (values * 2).tolist() == [2.0, 4.0] and float(values.sum()) == 3.0
    assert values.cpu().double().sum() == 3.0, "the CPU may"
    for refused in (
        lambda: values.double(),
        lambda: values.sum(dtype=torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
        lambda: torch.zeros(2, dtype=torch.float64).to(DEVICE),
    ):
        with pytest.raises(DoublePrecision):
            refused()
    with pytest.raises(RuntimeError, match="on the CPU"):
        values + torch.ones(2)
    assert device.operations > 3


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_training(method: str, knowing: Model, device: Emulated, tmp_path: Path) -> None:
    """One step, with tricks, gradient effects and a checkpoint; the weights change."""
    model = moved(knowing)
    chosen = FINE_TUNING if method == "fine-tuning" else METHODS[method]
    every = None if isinstance(chosen.rule, MiniUnlearning) else 1
    settings = TrainingSettings(
        epochs=1, batch_size=2, lr=1e-2, warmup_ratio=0.0, gradient_effect_every=every, checkpoint_every=every
    )
    data = TrainingData(forget=FORGET, retain=RETAIN, refusals=("No.",))
    tricks = None if chosen is FINE_TUNING else {"loss_selection": 0.5}
    done = unlearn(model, chosen, data, settings, tricks=tricks, checkpoints=tmp_path)
    assert done.collapse is not None and done.diverged is None
    pairs = zip(done.model.model.parameters(), knowing.model.parameters(), strict=True)
    assert any(not torch.equal(trained.cpu(), before) for trained, before in pairs)


@pytest.mark.slow
def test_scores_are_those_of_the_cpu(knowing: Model, device: Emulated) -> None:
    """Metrics of likelihoods, of a divergence, of texts and of samples."""
    given = {"metrics": METRICS, "samples": {"count": 16, "top_p": 0.9}, "max_new_tokens": 3}
    there, here = (
        uwc.score(place(knowing), {"forget": FORGET, "retain": RETAIN}, original=place(knowing), **given)
        for place in (moved, copied)
    )
    assert [s.metric for s in there.scores] == [s.metric for s in here.scores]
    for ours, theirs in zip(there.scores, here.scores, strict=True):
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-4, abs=1e-5, nan_ok=True), ours.metric


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks(attack: str, knowing: Model, device: Emulated) -> None:
    """Each attack with few steps; one that fails would have no outcome."""
    attacker = uwc.Attacker(
        train=TRAIN, retain=RETAIN, unrelated=RETAIN, translations={e.id: f"Wo? {e.question}" for e in FORGET}
    )
    steps = {"steps": 1, **({"candidates": 4} if "gcg" in attack else {})}
    settings = {attack: steps} if attacks.get(attack).facts["effort"] == "steps" else {}
    metric = "rouge_l" if attacks.get(attack).facts["kind"] == "decoding" else "extraction_strength"
    found = uwc.attack(
        moved(knowing), FORGET, attack, attacker=attacker, metrics=metric, settings=settings, max_new_tokens=3
    )
    assert [outcome.attack for model in found.attacks.models for outcome in model.outcomes] == [attack], found.warnings


def test_calibrated_rounding_is_that_of_the_cpu(device: Emulated) -> None:
    x = correlated(100, 24).float()
    weight = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    moments, sizes = x.T @ x, x.abs().mean(dim=0)

    def rounded(where: torch.device | str) -> list[Tensor]:
        w, m, s = (tensor.to(where) for tensor in (weight, moments, sizes))
        by_awq = awq([w], m, s, bits=3, group_size=8, clip=True)
        return [gptq(w, m, bits=3, group_size=8, damp=0.01), *by_awq]

    for there, here in zip(rounded(DEVICE), rounded("cpu"), strict=True):
        assert there.device == DEVICE
        torch.testing.assert_close(there.cpu(), here)
