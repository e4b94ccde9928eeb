"""Gradients on CUDA: deterministic kernels, and the same bits on every run."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.conftest import copied, people

from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.models.deterministic import deterministic
from uwc.models.model import Model
from uwc.models.scoring import gradient_norms, score_tokens
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

CUDA = torch.device("cuda")
enabled = torch.are_deterministic_algorithms_enabled
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_kernels_are_deterministic_on_cuda_only_and_the_setting_is_restored() -> None:
    assert deterministic(CUDA, enabled) is True
    assert deterministic(torch.device("cpu"), enabled) is False
    assert not enabled()


def test_without_a_deterministic_kernel_it_runs_again_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> str:
        if enabled():
            raise RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ...")
        return "done"

    assert deterministic(CUDA, work) == "done"
    assert "cumsum_cuda_kernel" in capsys.readouterr().err


def test_other_errors_are_raised_and_the_setting_is_restored() -> None:
    def work() -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        deterministic(CUDA, work)
    assert not enabled()


def _on_gpu(model: Model) -> Model:
    ours = copied(model)
    return replace(ours, model=ours.model.cuda())


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_on_a_gpu_ends_with_the_same_bits(untrained: Model, precision: Literal["no", "bf16"]) -> None:
    examples, found = people(40), []
    settings = TrainingSettings(epochs=4, lr=3e-3, batch_size=16, precision=precision)  # type: ignore[arg-type]
    for _ in range(3):
        model = _on_gpu(untrained)
        data = TrainingData(examples[:20], examples[20:])
        log = train(model, Objective(METHODS["npo"], model.model), data, settings)
        found.append((log.steps, [p.detach().clone() for p in model.model.parameters()]))
    for steps, weights in found[1:]:
        assert steps == found[0][0]
        assert all(torch.equal(a, b) for a, b in zip(weights, found[0][1], strict=True))


@pytest.mark.gpu
@on_gpu
def test_scores_gradients_and_soft_prompts_on_a_gpu_have_the_same_bits(knowing: Model) -> None:
    examples, model = people(10), _on_gpu(knowing)
    data = AttackData(examples[4:], train=examples[:4])
    chain = make_chain("soft_prompt", {"soft_prompt": {"steps": 4}})

    def found() -> list[object]:
        with attacked(model, data, chain) as variants:
            under_attack = [score_tokens(variant.model, examples[4:]).logprob.tolist() for variant in variants]
        return [gradient_norms(model, examples).tolist(), score_tokens(model, examples).logprob.tolist(), under_attack]

    assert found() == found()
