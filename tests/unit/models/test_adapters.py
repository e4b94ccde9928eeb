"""Mixing with a LoRA adapter is its scale: against merged weights, for its own base only, saved for peft."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.conftest import people, tiny_model
from transformers import AutoModelForCausalLM

from uwc.errors import ModelError
from uwc.models.adapters import AdapterMixer, is_scale_enough, merge_adapter
from uwc.models.load import save_model
from uwc.models.mixing import Mixer
from uwc.models.mixtures import open_mixing, require_mixable, save_mixture
from uwc.models.model import Model
from uwc.models.scoring import score_tokens


def make_adapter(base: Model, folder: Path, base_name: str, **settings: object) -> Model:
    """An adapter with random weights, saved; gives the base with it merged."""
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        task_type="CAUSAL_LM",
        **settings,  # type: ignore[arg-type]
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = get_peft_model(copy.deepcopy(base.model), config)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2) if "lora" in name else parameter.data.add_(0.1)
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(folder)
    return merge_adapter(replace(base, model=model))


@pytest.fixture
def base(tmp_path: Path) -> Model:
    model = tiny_model(seed=3)
    save_model(model, tmp_path / "base")
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 2}, "rank_pattern": {"down_proj": 2}}]
)
@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0])
def test_the_scale_is_the_mixture_of_merged_weights(
    base: Model, tmp_path: Path, settings: dict[str, object], alpha: float
) -> None:
    merged = make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"), **settings)
    by_scale = open_mixing(tmp_path / "base", tmp_path / "adapter")
    assert isinstance(by_scale, AdapterMixer)
    ours = score_tokens(by_scale.mix(alpha), people(4)).logprob
    theirs = score_tokens(Mixer(base, merged).mix(alpha), people(4)).logprob
    assert np.abs(ours - theirs).max() < 1e-5
    if alpha == 0.0:
        assert (ours == score_tokens(tiny_model(seed=3), people(4)).logprob).all()


def test_no_weight_is_copied(base: Model, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"))
    mixing = AdapterMixer(base, tmp_path / "adapter")
    place = base.model.model.embed_tokens.weight.data_ptr()
    weights = {n: p.data_ptr() for n, p in mixing.mix(0.3).model.named_parameters()}
    assert {n: p.data_ptr() for n, p in mixing.mix(0.9).model.named_parameters()} == weights
    assert place in weights.values()


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["embed_tokens"]}, {"bias": "lora_only"}])
def test_what_is_more_than_a_scale_is_merged(base: Model, tmp_path: Path, settings: dict[str, object]) -> None:
    merged = make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"), **settings)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert not is_scale_enough(config)
    mixing = open_mixing(tmp_path / "base", tmp_path / "adapter")
    assert isinstance(mixing, Mixer)
    ours = score_tokens(mixing.mix(0.4), people(4)).logprob
    theirs = score_tokens(Mixer(tiny_model(seed=3), merged).mix(0.4), people(4)).logprob
    assert np.abs(ours - theirs).max() < 1e-5


def test_an_adapter_for_another_base_is_refused(base: Model, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"))
    save_model(tiny_model(seed=4), tmp_path / "other")
    with pytest.raises(ModelError, match=r"adapter for .*base, not for .*other"):
        open_mixing(tmp_path / "other", tmp_path / "adapter")
    save_model(base, tmp_path / "copy")  # the same weights elsewhere are the same base
    open_mixing(tmp_path / "copy", tmp_path / "adapter")


def test_a_base_that_is_not_here_is_told_by_its_name(base: Model, tmp_path: Path) -> None:
    make_adapter(base, tmp_path / "adapter", "someone/base")
    open_mixing(tmp_path / "base", tmp_path / "adapter")
    make_adapter(base, tmp_path / "foreign", "someone/llama")
    with pytest.raises(ModelError, match="an adapter for someone/llama"):
        open_mixing(tmp_path / "base", tmp_path / "foreign")


def test_an_adapter_of_another_size_is_refused(base: Model, tmp_path: Path) -> None:
    wide = tiny_model(hidden_size=64)
    make_adapter(wide, tmp_path / "adapter", "")
    with pytest.raises(ModelError, match=r"the adapter .* does not fit the model base"):
        open_mixing(tmp_path / "base", tmp_path / "adapter")


@pytest.mark.parametrize("settings", [{}, {"alpha_pattern": {"q_proj": 2}}])
def test_the_scaled_adapter_is_the_mixture_for_plain_peft(
    base: Model, tmp_path: Path, settings: dict[str, object]
) -> None:
    make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"), **settings)
    mixing = open_mixing(tmp_path / "base", tmp_path / "adapter")
    expected = score_tokens(mixing.mix(0.37), people(4)).logprob
    save_mixture(mixing, 0.37, tmp_path / "scaled")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "scaled")
    loaded = Model(plain.base_model.model.eval(), base.tokenizer, base.template)
    assert np.abs(score_tokens(loaded, people(4)).logprob - expected).max() < 1e-6


def test_weights_that_are_pickled_or_damaged_are_refused_before_the_model_is_loaded(
    base: Model, tmp_path: Path
) -> None:
    make_adapter(base, tmp_path / "adapter", str(tmp_path / "base"))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=r"adapter_model\.safetensors: damaged"):
            check(tmp_path / "base", tmp_path / "adapter")
    weights.rename(weights.with_suffix(".bin"))
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=r"the adapter has no adapter_model\.safetensors"):
            check(tmp_path / "base", tmp_path / "adapter")


def test_an_adapter_that_names_no_base_is_taken_for_one_of_the_original_and_that_is_said(
    base: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_adapter(base, tmp_path / "adapter", "")
    require_mixable(tmp_path / "base", tmp_path / "adapter")
    assert "does not name its base" in capsys.readouterr().err
