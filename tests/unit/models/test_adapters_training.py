"""Unlearning with a low-rank adapter."""

from pathlib import Path

import pytest
import torch
from tests.conftest import copied, people
from tests.helpers.architectures import architecture
from transformers import AutoModelForCausalLM

from uwc.errors import ConfigError
from uwc.models.adapters import add_adapter, merge_adapter
from uwc.models.block_weights import block_matrices
from uwc.models.load import load_model, save_model
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.objectives.methods import METHODS
from uwc.objectives.objective import Objective
from uwc.training.data import TrainingData
from uwc.training.forward import Reference
from uwc.training.loop import train
from uwc.training.settings import LoraSettings, TrainingSettings
from uwc.training.unlearn import unlearn

DATA = TrainingData(people(4)[:4], people(4)[4:], ("I cannot say.",))
SETTINGS = {"epochs": 3, "batch_size": 2, "lr": 5e-3}


def logprobs(model: Model) -> list[float]:
    return score_tokens(model, people(4)).logprob.tolist()


@pytest.mark.parametrize("method", ["npo", "kl", "rmu", "dpo"])
def test_the_reference_is_the_adapter_switched_off(method: str, knowing: Model) -> None:
    """No second copy of the weights; and the first step's losses are those of full training."""
    full, adapted = copied(knowing), add_adapter(copied(knowing), rank=4)
    objective = Objective(METHODS[method], adapted.model)
    from contextlib import nullcontext

    settings = TrainingSettings(**SETTINGS)
    assert Reference(adapted, objective, settings, autocast=nullcontext).copy is None
    first = train(full, Objective(METHODS[method], full.model), DATA, settings).steps[0]
    log = train(adapted, objective, DATA, settings)
    for term in ("loss", *(t.label for t in objective.terms)):
        assert log.steps[0][term] == pytest.approx(first[term], rel=1e-4, abs=1e-6)
    assert log.steps[-1]["loss"] != pytest.approx(log.steps[0]["loss"], rel=1e-3)


def test_the_original_weights_stay_until_the_adapter_is_merged(knowing: Model) -> None:
    base = copied(knowing)
    adapted = add_adapter(base, rank=4)
    trainable = {n for n, p in adapted.model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in n for n in trainable)
    assert logprobs(adapted) == pytest.approx(logprobs(knowing), abs=1e-5)
    train(adapted, Objective(METHODS["ga"], adapted.model), DATA, TrainingSettings(**SETTINGS))
    with adapted.model.disable_adapter():
        assert logprobs(adapted) == pytest.approx(logprobs(knowing), abs=1e-5)
    changed = logprobs(adapted)
    assert changed != pytest.approx(logprobs(knowing), abs=1e-2)
    assert logprobs(merge_adapter(adapted)) == pytest.approx(changed, abs=1e-4)


def test_a_merged_model_is_one_that_plain_transformers_loads(knowing: Model, tmp_path: Path) -> None:
    done = unlearn(copied(knowing), METHODS["gd"], DATA, TrainingSettings(**SETTINGS, lora=LoraSettings(rank=4)))
    save_model(done.model, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name in plain.state_dict())
    assert logprobs(load_model(tmp_path / "merged", device="cpu")) == pytest.approx(logprobs(done.model), abs=1e-5)


def test_an_adapter_is_saved_alone_and_loads_back(knowing: Model, tmp_path: Path) -> None:
    save_model(knowing, tmp_path / "base")
    base = load_model(tmp_path / "base", device="cpu")
    lora = LoraSettings(rank=4, save="adapter")
    done = unlearn(base, METHODS["gd"], DATA, TrainingSettings(**SETTINGS, lora=lora))
    save_model(done.model, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_model(tmp_path / "adapter", device="cpu")
    assert logprobs(again) == pytest.approx(logprobs(done.model), abs=1e-5)
    assert logprobs(again) != pytest.approx(logprobs(knowing), abs=1e-2)


def test_the_seed_decides_the_adapter(knowing: Model) -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_adapter(copied(knowing), rank=4, seed=seed).model
        return next(p for n, p in model.named_parameters() if "lora_A" in n).detach()

    state = torch.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_modules_are_told(knowing: Model) -> None:
    with pytest.raises(ConfigError, match="lora: targets = 'q_prj'"):
        add_adapter(copied(knowing), targets="q_prj")


def adapted_names(model: Model) -> set[str]:
    """The parameters that have an adapter, by the names that they have without one."""
    names = set()
    for name, module in model.model.named_modules():
        if hasattr(module, "lora_A") and len(module.lora_A):
            own = name.removeprefix("base_model.model.").replace(".base_layer", "")
            names.add(f"{own}.{getattr(module, 'parameter_name', 'weight')}")
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gpt2", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text", "gemma3", "opt"]
)
def test_every_matrix_of_the_text_models_blocks_is_adapted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fused experts and routers too, and not the vision tower; merged, the model is the adapted one."""
    base = architecture(name)
    adapted = add_adapter(copied(base), rank=2)
    expected = {m.name for m in block_matrices(base.model)}
    outside = {"model.decoder.project_in.weight", "model.decoder.project_out.weight"} if name == "opt" else set()
    assert adapted_names(adapted) == expected | outside
    assert "peft cannot adapt" not in capsys.readouterr().err
    before = logprobs(base)
    assert logprobs(adapted) == pytest.approx(before, abs=1e-5)
    train(adapted, Objective(METHODS["ga"], adapted.model), DATA, TrainingSettings(**SETTINGS))
    moved = {n for n, p in adapted.model.named_parameters() if "lora_B" in n and bool(p.any())}
    assert len(moved) == len(expected | outside)
    with adapted.model.disable_adapter():
        assert logprobs(adapted) == pytest.approx(before, abs=1e-5)
    changed = logprobs(adapted)
    assert changed != pytest.approx(before, abs=1e-2)
    assert logprobs(merge_adapter(adapted)) == pytest.approx(changed, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("mamba", "backbone.layers.*.mixer.dt_proj.weight, backbone.layers.*.mixer.out_proj.weight"),
        ("dbrx", "transformer.blocks.*.ffn.experts.mlp.w1, transformer.blocks.*.ffn.experts.mlp.v1"),
        ("nemotron_h", "model.layers.*.mixer.out_proj.weight"),
    ],
)
def test_what_peft_cannot_adapt_is_told(name: str, left: str, capsys: pytest.CaptureFixture[str]) -> None:
    base = architecture(name)
    adapted = add_adapter(copied(base), rank=2)
    told = capsys.readouterr().err
    missing = [m for m in block_matrices(base.model) if m.name not in adapted_names(adapted)]
    share = sum(m.parameter.numel() for m in missing) / sum(m.parameter.numel() for m in block_matrices(base.model))
    assert f"lora on {name}: peft cannot adapt {share:.1%} of the blocks' matrices: {left}" in told.replace("\n", " ")
    assert logprobs(adapted) == pytest.approx(logprobs(base), abs=1e-5)


def test_fused_experts_and_dropout_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dropout = 0.1 .*experts of MixtralForCausalLM"):
        add_adapter(copied(architecture("mixtral")), dropout=0.1)
    assert adapted_names(add_adapter(copied(architecture("llama")), dropout=0.1))


def test_an_adapter_on_fused_experts_loads_back(tmp_path: Path) -> None:
    save_model(architecture("mixtral"), tmp_path / "base")
    base = load_model(tmp_path / "base", device="cpu")
    lora = LoraSettings(rank=2, save="adapter")
    done = unlearn(base, METHODS["gd"], DATA, TrainingSettings(**SETTINGS, lora=lora))
    save_model(done.model, tmp_path / "adapter")
    again = load_model(tmp_path / "adapter", device="cpu")
    assert logprobs(again) == pytest.approx(logprobs(done.model), abs=1e-5)
    assert logprobs(again) != pytest.approx(logprobs(architecture("mixtral")), abs=1e-2)
