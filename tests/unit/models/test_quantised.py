"""Checkpoints that are stored quantised: read with plain weights, attacked, mixed, saved, and refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import people, tiny_model

import uwc
from uwc.attacks.chain import attacked, make_chain
from uwc.attacks.data import AttackData
from uwc.errors import ConfigError, ModelError, UserError
from uwc.models.batching import examined
from uwc.models.block_weights import block_matrices
from uwc.models.load import load_model, save_model
from uwc.models.mixtures import open_mixing, require_mixable
from uwc.models.model import Model

SIDE = 16
"""Rows and columns of a block of weights that share a scale."""
UP = "model.layers.0.mlp.up_proj.weight"


def in_8_bits(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[r, c] as 8-bit floats, and the scale of each block."""
    rows, columns = weight.shape
    blocks = weight.view(rows // SIDE, SIDE, columns // SIDE, SIDE)
    scales = blocks.abs().amax(dim=(1, 3)) / 448
    return (blocks / scales[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn), scales


def by_hand(stored: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Each stored number times the scale of its block, one by one."""
    plain = stored.float()
    for i in range(plain.shape[0]):
        for j in range(plain.shape[1]):
            plain[i, j] *= scales[i // SIDE, j // SIDE]
    return plain


def store_in_8_bits(folder: Path) -> None:
    """Store the linear maps of a checkpoint as 8-bit floats, which transformers reads without a library."""
    stored: dict[str, torch.Tensor] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        stored[name] = weight
        if "_proj" in name:
            stored[name], stored[f"{name}_scale_inv"] = in_8_bits(weight)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    say_quantised(folder, quant_method="fp8", weight_block_size=[SIDE, SIDE], activation_scheme="dynamic")


def say_quantised(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    save_model(tiny_model(seed=1), tmp_path / "packed")
    store_in_8_bits(tmp_path / "packed")
    return tmp_path / "packed"


def test_weights_are_those_of_the_files_times_their_scales(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = load_file(packed / "model.safetensors")
    model = load_model(packed, dequantize=True).model
    expected = by_hand(stored[UP], stored[f"{UP}_scale_inv"])
    found = model.state_dict()[UP]
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert getattr(model.config, "quantization_config", None) is None
    assert all(p.requires_grad for p in model.parameters())
    assert "its weights are dequantised to float32. Its inputs, which are rounded when" in capsys.readouterr().err
    low = load_model(packed, dtype="bfloat16", dequantize=True).model.state_dict()[UP]
    assert torch.equal(low, expected.bfloat16())


def test_a_dequantised_model_is_saved_and_loaded_as_it_is(packed: Path, tmp_path: Path) -> None:
    model = load_model(packed, dequantize=True)
    save_model(model, tmp_path / "plain")
    again = load_model(tmp_path / "plain").model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in model.model.state_dict().items())


@pytest.mark.parametrize("attack", ["pruning", "nf4", "llm_int8", "relearn"])
def test_its_weights_are_attacked(packed: Path, attack: str) -> None:
    settings = {"relearn": {"lr": 1e-3}} if attack == "relearn" else {}
    data = uwc.Attacker(train=people(4)[:2])
    found = uwc.attack(packed, people(4)[4:], attack, attacker=data, dequantize=True, settings=settings)
    (model,) = found.attacks.models
    assert not model.failed and model.outcomes


def test_it_is_mixed_with_its_original(whole: Path, packed: Path) -> None:
    first, second = load_model(whole).model, load_model(packed, dequantize=True).model
    require_mixable(whole, packed, dequantize=True)
    mixed = open_mixing(whole, packed, dequantize=True).mix(0.5).model.state_dict()[UP]
    torch.testing.assert_close(mixed, (first.state_dict()[UP] + second.state_dict()[UP]) / 2)
    for refused in (lambda: require_mixable(whole, packed), lambda: open_mixing(whole, packed)):
        with pytest.raises(ModelError, match=r"packed is quantised; to mix it, load it with .*model.dequantize=true"):
            refused()


def test_compare_and_unlearn_read_it(knowing: Model, tmp_path: Path) -> None:
    whole, packed = tmp_path / "whole", tmp_path / "packed"
    for folder in (whole, packed):
        save_model(knowing, folder)
    store_in_8_bits(packed)
    sets = {"forget": people(4)[:4], "retain": people(4)[4:]}
    overrides = ["model.dequantize=true", "score.max_new_tokens=0"]
    done = uwc.compare(
        whole, {"x": packed}, **sets, attacks=["nf4"], overrides=overrides, output_dir=tmp_path / "compared"
    )
    assert done.attacks is not None and done.attacks.models[0].outcomes
    training = {"epochs": 1, "batch_size": 2, "lr": 1e-3, "warmup_ratio": 0}
    made = uwc.unlearn(
        packed, "ga", forget=people(1), training=training, output_dir=tmp_path / "made", dequantize=True
    )  # fmt: skip
    assert made is not None and load_model(tmp_path / "made").model.dtype == torch.float32


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("gptq", "gptqmodel optimum"),
        ("awq", "gptqmodel"),
        ("compressed-tensors", "compressed-tensors"),
        ("bitsandbytes", "bitsandbytes"),
    ],
)
def test_a_library_that_is_absent_is_named(
    whole: Path, method: str, packages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uwc.models.quantised.find_spec", lambda name: None)
    say_quantised(whole, quant_method=method, bits=4)
    with pytest.raises(ModelError, match=rf"whole is stored quantised \({method}\), .*: pip install {packages}$"):
        load_model(whole)


def test_without_a_quantised_checkpoint_the_option_has_no_effect(whole: Path, tmp_path: Path) -> None:
    ways = (
        lambda: uwc.load_model(whole, dequantize=True),
        lambda: uwc.score(whole, people(1), dequantize=True),
        lambda: uwc.attack(whole, people(1), "jailbreak", dequantize=True),
        lambda: uwc.compare(
            whole, {"x": whole}, forget=people(2), retain=people()[4:], overrides=["model.dequantize=true"],
            output_dir=tmp_path / "out",
        ),
    )  # fmt: skip
    for way in ways:
        with pytest.raises(ConfigError, match="dequantize has no effect"):
            way()


def test_a_quantised_model_in_memory_is_read_again_for_an_attack_on_weights(packed: Path) -> None:
    """As one that bitsandbytes loaded: its configuration says that its weights are packed."""
    model = load_model(packed)
    model.model.config.quantization_config = {"quant_method": "fp8"}
    data = AttackData(people(1))
    with attacked(model, data, make_chain("pruning+jailbreak")) as variants:
        weights = next(iter(variants)).model.model.state_dict()[UP]
    assert 0.09 < (weights == 0).float().mean() < 0.12
    model.model.config._name_or_path = model.model.name_or_path = ""
    with (
        pytest.raises(ModelError, match="to attack its weights, load it with its weights dequantised"),
        attacked(model, data, make_chain("pruning")) as variants,
    ):
        next(iter(variants))


BY_BITSANDBYTES = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "llm_int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("kind", BY_BITSANDBYTES)
def test_a_checkpoint_of_bitsandbytes_has_the_weights_of_the_attack(kind: str, tmp_path: Path) -> None:
    """The stored weights are those that the attack computes from the weights before quantisation."""
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = tiny_model(hidden_size=64)
    save_model(plain, tmp_path / "plain")
    config = BitsAndBytesConfig(**BY_BITSANDBYTES[kind])
    made = AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )
    save_model(Model(made, plain.tokenizer), tmp_path / kind)
    found = load_model(tmp_path / kind, dequantize=True)
    with attacked(plain, AttackData(people(1)), make_chain(kind)) as variants:
        ours = next(iter(variants)).model.model.state_dict()
        for matrix in block_matrices(found.model):
            close = torch.isclose(matrix.parameter.detach(), ours[matrix.name], rtol=2e-3, atol=1e-6)
            assert close.float().mean() > (0.98 if kind == "llm_int8" else 0.9999)  # rounded from float16 there
    assert found.sharing().scored == "padded"
    if kind == "llm_int8":
        with attacked(found, AttackData(people(1)), make_chain(kind)) as variants:
            assert next(iter(variants)).changed is not None  # the inputs are rounded, whether weights change or not
    else:
        stored = load_model(tmp_path / kind)
        examined(stored.model, stored.name)  # computes, after which bitsandbytes may pack in another way
        with attacked(stored, AttackData(people(1)), make_chain("pruning")) as variants:
            pruned = next(iter(variants)).model.model.state_dict()[UP]
        kept = pruned != 0
        assert torch.equal(pruned[kept], found.model.state_dict()[UP][kept])
        with (
            pytest.raises(UserError, match="changed no weight"),
            attacked(stored, AttackData(people(1)), make_chain("nf4")) as variants,
        ):
            next(iter(variants))
