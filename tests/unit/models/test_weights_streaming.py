"""Mixing from files: the same bits as in memory, however the files are cut and named; refused by name otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.conftest import tiny_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from uwc.errors import ModelError
from uwc.models.load import load_model, save_model
from uwc.models.mixing import Mixer, mix_into, mix_tensor
from uwc.models.mixtures import open_mixing, require_free, require_mixable, save_mixture
from uwc.models.model import Model
from uwc.models.reading import load_reading
from uwc.models.weights import StreamedMixer, WeightFiles, plain_name


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two checkpoints of one model: "original" in several shards, "unlearned" in one file."""
    original, unlearned = tiny_model(seed=1), tiny_model(seed=2)
    original.model.save_pretrained(tmp_path / "original", max_shard_size="40KB")
    original.tokenizer.save_pretrained(tmp_path / "original")
    save_model(unlearned, tmp_path / "unlearned")
    assert len(list((tmp_path / "original").glob("*.safetensors"))) > 2
    return tmp_path


def rewrite(folder: Path, change: dict[str, str] | None = None, **dtype: torch.dtype) -> None:
    """Save the single file again under other names, or in another type."""
    path = folder / "model.safetensors"
    weights = {(change or {}).get(n, n): t.to(**dtype) for n, t in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def same(first: Model, second: Model) -> bool:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0])
def test_streamed_mixtures_are_those_of_models_in_memory(folders: Path, alpha: float) -> None:
    in_memory = Mixer(tiny_model(seed=1), tiny_model(seed=2)).mix(alpha)
    streamed = open_mixing(folders / "original", folders / "unlearned")
    assert isinstance(streamed, StreamedMixer)
    streamed.mix(0.8)
    assert same(streamed.mix(alpha), in_memory)
    model = streamed.mix(alpha).model
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


@given(
    values=st.lists(
        st.tuples(st.floats(-1e4, 1e4, width=16), st.floats(-1e4, 1e4, width=16)), min_size=1, max_size=40
    ),
    alpha=st.floats(0, 1), types=st.sampled_from([(a, b) for a in ("float32", "bfloat16", "float16") for b in (
        "float32", "bfloat16", "float16")]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_mixtures_agree_with_float64(values: list[tuple[float, float]], alpha: float, types: tuple[str, str]) -> None:
    """Numpy in float64 against float32, rounded once: half a unit in the last place of the result, and of the sum."""
    first, second = (
        torch.tensor([v[i] for v in values], dtype=torch.float64).to(getattr(torch, types[i])) for i in (0, 1)
    )
    a, b = (t.to(torch.float64).numpy() for t in (first, second))
    exact = (1 - alpha) * a + alpha * b
    mixed = mix_tensor(first, second, alpha)
    assert mixed.dtype == torch.promote_types(first.dtype, second.dtype)
    unit = torch.finfo(mixed.dtype).eps
    bound = unit * np.abs(exact) + 4e-7 * (np.abs(a) + np.abs(b)) + torch.finfo(mixed.dtype).smallest_normal
    assert (np.abs(mixed.to(torch.float64).numpy() - exact) <= bound).all()
    into = torch.empty(len(values), dtype=torch.float32)
    mix_into(into, first, second, alpha)
    assert torch.equal(into, mixed.float())
    if alpha in (0.0, 1.0):
        assert torch.equal(mixed.double(), (first if alpha == 0.0 else second).double())


@pytest.mark.parametrize("types", [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")])
def test_both_ends_are_exact_whatever_the_types_in_the_files(folders: Path, types: tuple[str, str]) -> None:
    save_model(tiny_model(seed=1), folders / "first")
    rewrite(folders / "first", dtype=getattr(torch, types[0]))
    rewrite(folders / "unlearned", dtype=getattr(torch, types[1]))
    mixing = open_mixing(folders / "first", folders / "unlearned")
    assert same(mixing.mix(0.0), load_model(folders / "first"))
    assert same(mixing.mix(1.0), load_model(folders / "unlearned"))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
@pytest.mark.parametrize("renamed", ["first", "unlearned"])
def test_what_wrappers_add_to_names_is_taken_off(folders: Path, prefix: str, renamed: str) -> None:
    save_model(tiny_model(seed=1), folders / "first")
    names = load_file(folders / renamed / "model.safetensors").keys()
    rewrite(folders / renamed, {n: prefix + n for n in names})
    streamed = open_mixing(folders / "first", folders / "unlearned")
    assert same(streamed.mix(0.4), Mixer(tiny_model(seed=1), tiny_model(seed=2)).mix(0.4))


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod."])
def test_a_wrapped_checkpoint_is_loaded_whole_and_saved_plainly(folders: Path, prefix: str) -> None:
    names = load_file(folders / "unlearned" / "model.safetensors").keys()
    rewrite(folders / "unlearned", {n: prefix + n for n in names})
    loaded = load_model(folders / "unlearned")
    assert same(loaded, tiny_model(seed=2))
    save_model(loaded, folders / "again")
    assert load_file(folders / "again" / "model.safetensors").keys() == names


def test_a_checkpoint_that_lacks_a_weight_is_not_filled_with_made_up_ones(folders: Path) -> None:
    drop(folders / "unlearned", "model.norm.weight")
    with pytest.raises(ModelError, match=r"no tensor 'model\.norm\.weight'"):
        load_model(folders / "unlearned")


def test_a_checkpoint_without_a_tokenizer_is_read_with_another_ones(folders: Path) -> None:
    for file in (folders / "unlearned").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"tokenizer of the model '.*unlearned': .*tokenizer\.json"):
        load_model(folders / "unlearned")
    loaded = load_model(folders / "unlearned", reading=load_reading(folders / "original"))
    assert loaded.tokenizer.get_vocab() == tiny_model().tokenizer.get_vocab()


def test_weights_of_the_bare_model_are_found(folders: Path) -> None:
    """Saved without its head, as LlamaModel: no "model." before the names, and a tied head."""
    names = load_file(folders / "unlearned" / "model.safetensors").keys()
    rewrite(folders / "unlearned", {n: n.removeprefix("model.") for n in names})
    streamed = open_mixing(folders / "original", folders / "unlearned")
    assert same(streamed.mix(0.4), Mixer(tiny_model(seed=1), tiny_model(seed=2)).mix(0.4))


def test_buffers_and_conv1d_of_gpt2(tmp_path: Path) -> None:
    """Buffers that one old checkpoint holds and the other does not are of no account."""
    tokenizer = tiny_model().tokenizer
    for seed, name in ((1, "original"), (2, "unlearned")):
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
        save_model(Model(GPT2LMHeadModel(config).eval(), tokenizer), tmp_path / name)
    weights = load_file(tmp_path / "original" / "model.safetensors")
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(weights, tmp_path / "original" / "model.safetensors", metadata={"format": "pt"})
    mixed = open_mixing(tmp_path / "original", tmp_path / "unlearned").mix(0.5).model.state_dict()
    theirs = load_model(tmp_path / "unlearned").model.state_dict()
    for name, tensor in load_model(tmp_path / "original").model.state_dict().items():
        assert torch.allclose(mixed[name], (tensor + theirs[name]) / 2, atol=1e-7), name


def test_two_names_for_one_tensor_are_refused(folders: Path) -> None:
    path = folders / "unlearned" / "model.safetensors"
    weights = load_file(path)
    weights["module.model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"'module\.model\.norm\.weight'.* are both 'model\.norm\.weight'|are both"):
        WeightFiles(folders / "unlearned")
    assert plain_name("module._orig_mod.model.module.x") == "model.module.x"


def test_tied_weights_that_are_stored_twice_are_one_if_they_are_equal(folders: Path) -> None:
    """transformers loads two values of a tie as two weights; test_merging has that."""
    path = folders / "unlearned" / "model.safetensors"
    weights = load_file(path)
    save_file(
        {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}, path, metadata={"format": "pt"}
    )
    streamed = open_mixing(folders / "original", folders / "unlearned")
    mixed = streamed.mix(0.4)
    assert same(mixed, Mixer(tiny_model(seed=1), tiny_model(seed=2)).mix(0.4))
    assert mixed.model.lm_head.weight is mixed.model.model.embed_tokens.weight


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("broken", "alpha"), [("unlearned", 1.0), ("first", 0.0)])
def test_weights_that_are_not_finite_are_refused_by_name(
    folders: Path, broken: str, alpha: float, value: float
) -> None:
    save_model(tiny_model(seed=1), folders / "first")
    model = load_model(folders / broken)
    with torch.no_grad():
        model.model.model.norm.weight[3] = value
    save_model(model, folders / broken)
    with pytest.raises(ModelError, match=rf"{broken}: the weight 'model\.norm\.weight' holds NaN or an infinity"):
        open_mixing(folders / "first", folders / "unlearned").mix(alpha)
    with pytest.raises(ModelError, match=r"'model\.norm\.weight' holds NaN or an infinity"):
        Mixer(load_model(folders / "first"), load_model(folders / "unlearned"))


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", 1), ("rms_norm_eps", 0.1), ("num_hidden_layers", 1)]
)
def test_configurations_that_compute_otherwise_are_refused(folders: Path, key: str, value: float) -> None:
    """Other heads, another epsilon, fewer layers: no name or shape of a weight need tell."""
    path = folders / "unlearned" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=f"{key} is .* in one and {value} in the other"):
            check(folders / "original", folders / "unlearned")


def drop(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if n != name}, path, metadata={"format": "pt"})


def test_a_missing_tensor_and_a_foreign_one_are_named(folders: Path) -> None:
    path = folders / "unlearned" / "model.safetensors"
    save_file({**load_file(path), "model.extra.weight": torch.ones(2)}, path, metadata={"format": "pt"})
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=r"unlearned: .*'model\.extra\.weight'"):
            check(folders / "original", folders / "unlearned")
    drop(folders / "unlearned", "model.extra.weight")
    drop(folders / "unlearned", "model.norm.weight")
    with pytest.raises(ModelError, match=r"unlearned has no tensor 'model\.norm\.weight'"):
        open_mixing(folders / "original", folders / "unlearned")


def test_a_missing_shard_and_a_damaged_one_are_named(folders: Path) -> None:
    first, second = sorted((folders / "original").glob("*.safetensors"))[:2]
    second.write_bytes(b"nothing")
    with pytest.raises(ModelError, match=rf"{second.name}: damaged"):
        WeightFiles(folders / "original")
    first.unlink()
    with pytest.raises(ModelError, match=rf"the shard {first.name} is missing"):
        WeightFiles(folders / "original")


@pytest.mark.parametrize(
    ("change", "essential"),
    [
        ({"model_type": "mistral"}, "model_type is llama in one and mistral in the other"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "is quantised"),
    ],
)
def test_other_configurations_are_refused_before_weights_are_read(
    folders: Path, change: dict[str, object], essential: str
) -> None:
    path = folders / "unlearned" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    (folders / "unlearned" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ModelError, match=essential):
        open_mixing(folders / "original", folders / "unlearned")


def test_other_tokenizers_are_refused_by_the_token(folders: Path) -> None:
    path = folders / "unlearned" / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    ids = vocabulary["model"]["vocab"]
    ids["a"], ids["b"] = ids["b"], ids["a"]
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(ModelError, match=r"tokenizers: '[ab]' is token \d+ .*\d+"):
        open_mixing(folders / "original", folders / "unlearned")


def test_the_mixture_is_written_in_the_original_shards(folders: Path, tmp_path: Path) -> None:
    mixing = open_mixing(folders / "original", folders / "unlearned")
    mixed = mixing.mix(0.3)
    save_mixture(mixing, 0.3, tmp_path / "out")
    shards = sorted(f.name for f in (folders / "original").glob("model-*.safetensors"))
    assert sorted(f.name for f in (tmp_path / "out").glob("*.safetensors")) == shards
    indices = [
        json.loads((f / "model.safetensors.index.json").read_text()) for f in (folders / "original", tmp_path / "out")
    ]
    assert indices[0]["weight_map"] == indices[1]["weight_map"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert same(Model(loaded, None), mixed)
    assert load_model(tmp_path / "out").tokenizer.get_vocab() == mixed.tokenizer.get_vocab()


def test_a_bfloat16_mixture_is_measured_as_it_is_written(folders: Path, tmp_path: Path) -> None:
    """In memory in float32, on disk in bfloat16: what is scored has the bits that are written."""
    save_model(tiny_model(seed=1), folders / "first")
    for name in ("first", "unlearned"):
        rewrite(folders / name, dtype=torch.bfloat16)
        config = folders / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "bfloat16"}))
    mixing = open_mixing(folders / "first", folders / "unlearned", dtype="float32")
    mixed = mixing.mix(0.3)
    save_mixture(mixing, 0.3, tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert same(load_model(tmp_path / "out", dtype="float32"), mixed)


def test_a_source_or_a_folder_with_other_weights_is_not_written_to(folders: Path, tmp_path: Path) -> None:
    mixing = open_mixing(folders / "original", folders / "unlearned")
    with pytest.raises(ModelError, match="one of the models that are mixed"):
        require_free(mixing, folders / "unlearned", overwrite=True)
    save_model(tiny_model(), tmp_path / "other")
    with pytest.raises(ModelError, match=r"holds a model \(model\.safetensors\)"):
        require_free(mixing, tmp_path / "other", overwrite=False)
    require_free(mixing, tmp_path / "other", overwrite=True)
    require_free(mixing, tmp_path / "new", overwrite=False)
