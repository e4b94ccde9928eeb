"""Checkpoints that GPTQ and AWQ packed: unpacked without a library, against values that are packed here bit by bit."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import people, tiny_model
from torch import Tensor

import uwc
from uwc.errors import ModelError
from uwc.models.load import load_model, save_model
from uwc.models.packed import is_unpacked_here, unpack_awq, unpack_gptq, unpack_integers

GROUP = 16
UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"


def words_of(integers: Sequence[int], bits: int) -> list[int]:
    """One long number of all integers, the first in its lowest bits, cut into signed words of 32 bits."""
    long = sum(int(value) << (bits * place) for place, value in enumerate(integers))
    words = [long >> (32 * i) & 0xFFFFFFFF for i in range(-(-len(integers) * bits // 32))]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in words]


def along(integers: Tensor, bits: int, axis: int) -> Tensor:
    """The words of each row (axis 1) or column (axis 0)."""
    packed = [words_of(row, bits) for row in (integers if axis else integers.T).tolist()]
    found = torch.tensor(packed, dtype=torch.int32)
    return (found if axis else found.T).contiguous()


def packed_by_awq(integers: Tensor) -> Tensor:
    """[n, out] of 4 bits: in each group of 8 outputs 0, 2, 4, 6, 1, 3, 5, 7 follow each other."""
    order = [8 * (i // 8) + (0, 2, 4, 6, 1, 3, 5, 7)[i % 8] for i in range(integers.shape[1])]
    return along(integers[:, order], 4, 1)


def some(*shape: int, below: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(below, size=shape))


def dequantised(q: Tensor, z: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """Each weight of [out, in], one by one."""
    found = torch.empty(q.shape[1], q.shape[0])
    for i, o in np.ndindex(*q.shape):
        found[o, i] = float(q[i, o] - z[groups[i], o]) * scales[groups[i], o].float()
    return found


def test_the_order_of_awq_by_hand() -> None:
    """0x76543210 has 0 in its lowest 4 bits, then 1, ...: these are the outputs 0, 2, 4, 6, 1, 3, 5, 7."""
    word = torch.tensor([[0x76543210]], dtype=torch.int32)
    found = unpack_awq(word, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 8), torch.tensor([0]))
    assert found.flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_integers_of_three_bits_lie_in_two_words() -> None:
    """The 11th has its lowest two bits in the first word: 0b110 is ``0b10 << 30`` there, and 1 in the second."""
    words = torch.tensor([[-(1 << 31), 1, 0]], dtype=torch.int32)
    assert unpack_integers(words, 3, dim=1).tolist() == [[0] * 10 + [6] + [0] * 21]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("minus_one", [True, False])
def test_gptq_is_unpacked(bits: int, minus_one: bool) -> None:
    """Groups in any order, as with desc_act; a zero of 0 is stored as the largest number."""
    q, z = some(64, 32, below=2**bits), some(4, 32, below=2**bits, seed=1)
    assert z.min() == 0 or bits == 8
    scales, groups = torch.rand(4, 32).half(), some(64, below=4, seed=2)
    stored = (z - int(minus_one)) % 2**bits
    found = unpack_gptq(
        along(q, bits, 0), along(stored, bits, 1), scales, groups, bits=bits, minus_one=minus_one
    )  # fmt: skip
    assert torch.equal(found, dequantised(q, z, scales, groups))


def test_awq_is_unpacked() -> None:
    q, z = some(48, 24, below=16), some(3, 24, below=16, seed=1)
    scales, groups = torch.rand(3, 24), torch.arange(48) // 16
    found = unpack_awq(packed_by_awq(q), packed_by_awq(z), scales, groups)
    assert torch.equal(found, dequantised(q, z, scales, groups))


SETTINGS: Mapping[str, dict[str, Any]] = {
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    "gptq_v2": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
}


def store(folder: Path, kind: str) -> dict[str, Tensor]:
    """Pack the linear maps of a checkpoint, and return their values by name."""
    stored, values = {}, {}
    for number, (name, weight) in enumerate(load_file(folder / "model.safetensors").items()):
        if "_proj" not in name:
            stored[name] = weight
            continue
        outputs, inputs = weight.shape
        q, z = some(inputs, outputs, below=16, seed=number), some(inputs // GROUP, outputs, below=16, seed=number + 1)
        scales, groups = torch.full(z.shape, 0.01).half() * (1 + z), torch.arange(inputs) // GROUP
        values[name] = dequantised(q, z, scales, groups)
        module = name.removesuffix("weight")
        if kind == "awq":
            stored[f"{module}qweight"], stored[f"{module}qzeros"] = packed_by_awq(q), packed_by_awq(z)
        else:
            stored[f"{module}qweight"] = along(q, 4, 0)
            stored[f"{module}qzeros"] = along(z if kind == "gptq_v2" else (z - 1) % 16, 4, 1)
            stored[f"{module}g_idx"] = groups.int()
        stored[f"{module}scales"] = scales
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    say(folder, SETTINGS[kind])
    return values


def say(folder: Path, settings: Mapping[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_model(tiny_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_checkpoint_is_read_without_the_library(
    whole: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = load_file(whole / "model.safetensors")
    ends = {"eos_token_id": 3, "repetition_penalty": 1.5}
    (whole / "generation_config.json").write_text(json.dumps(ends))
    values = store(whole, kind)
    model = load_model(whole, dequantize=True)
    state = model.model.state_dict()
    assert len(values) == 14 and all(torch.equal(state[name], value) for name, value in values.items())
    assert all(torch.equal(state[name], weight) for name, weight in plain.items() if name not in values)
    assert getattr(model.model.config, "quantization_config", None) is None
    assert all(p.requires_grad for p in model.model.parameters())
    assert model.model.generation_config.repetition_penalty == 1.5
    method = SETTINGS[kind]["quant_method"]
    assert f"is stored quantised ({method}); its weights are dequantised to float32" in capsys.readouterr().err
    low = load_model(whole, dtype="bfloat16", dequantize=True).model.state_dict()
    assert torch.equal(low[f"{UP}.weight"], values[f"{UP}.weight"].bfloat16())
    assert load_model(whole, dtype="auto", dequantize=True).model.dtype == torch.float32
    save_model(model, tmp_path / "plain")
    again = load_model(tmp_path / "plain").model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in state.items())


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_it_is_scored_and_attacked(whole: Path, kind: str) -> None:
    store(whole, kind)
    scores = uwc.score(whole, people(1), metrics=["probability"], dequantize=True)
    assert 0 < scores.scores[0].mean < 1
    found = uwc.attack(whole, people(4)[4:], ["pruning", "int4"], dequantize=True)
    (model,) = found.attacks.models
    assert not model.failed and len(model.outcomes) == 2


@pytest.mark.parametrize("kind", ["awq", "gptq"])
def test_as_it_is_stored_it_needs_the_library_and_the_error_says_what_needs_none(
    whole: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(whole, kind)
    monkeypatch.setattr("uwc.models.quantised.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"is not installed; load it with .*model\.dequantize=true.*, or install it"):
        load_model(whole)


def test_parts_that_do_not_fit_are_refused(whole: Path) -> None:
    """A part that is missing, one of another shape, another size of groups, and weights that are not packed at all."""
    plain = (whole / "model.safetensors").read_bytes()
    store(whole, "awq")
    stored = load_file(whole / "model.safetensors")
    for changed in (
        {name: tensor for name, tensor in stored.items() if name != f"{UP}.qzeros"},
        {**stored, f"{UP}.qzeros": stored[f"{DOWN}.qweight"][:1].clone()},
        {**stored, f"{UP}.scales": stored[f"{UP}.scales"][:, 1:].clone()},
    ):
        save_file(changed, whole / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError, match=rf"{UP}\.qweight does not fit its qzeros, scales and settings"):
            load_model(whole, dequantize=True)
    save_file(stored, whole / "model.safetensors", metadata={"format": "pt"})
    for size in (GROUP * 2, "many"):
        say(whole, {**SETTINGS["awq"], "group_size": size})
        with pytest.raises(ModelError, match=f"group_size = {size}"):
            load_model(whole, dequantize=True)
    say(whole, SETTINGS["awq"])
    (whole / "model.safetensors").write_bytes(plain)
    with pytest.raises(ModelError, match="none of the weights is packed"):
        load_model(whole, dequantize=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        {"quant_method": "awq", "bits": 4, "backend": "llm-awq"},
        {"quant_method": "awq", "bits": 8},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*up_proj": {}}},
        {"quant_method": "gptq", "bits": [4]},
        {"quant_method": "nosuch", "bits": 4},
        {},
    ],
)
def test_other_formats_are_left_to_their_library(settings: dict[str, Any]) -> None:
    assert not is_unpacked_here(settings)
