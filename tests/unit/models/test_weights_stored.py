"""Every tensor in a checkpoint's files is one of the model, as transformers reads them; otherwise it is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.conftest import people, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, ZambaConfig, ZambaForCausalLM

import uwc
from uwc.errors import ModelError, UserError
from uwc.models.load import load_model, save_model
from uwc.models.mixtures import open_mixing, require_mixable
from uwc.models.model import Model
from uwc.models.weights import WeightFiles, stored_in

SINGLE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model, "sound", and one to be spoilt, "x"."""
    for seed, name in enumerate(("sound", "x")):
        save_model(tiny_model(seed=seed), tmp_path / name)
    return tmp_path


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / SINGLE)), folder / SINGLE, metadata={"format": "pt"})


def cast(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    name = "model.layers.0.mlp.up_proj.weight"
    return lambda w: {**w, name: (w[name] * 50).to(dtype)}


UP = r"'model\.layers\.0\.mlp\.up_proj\.weight'"
SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tensor more": (
        lambda x: change_weights(x, lambda w: {**w, "v_head.weight": torch.ones(2)}),
        r"x: its files hold tensors that LlamaForCausalLM does not have: 'v_head.weight'; use",
    ),
    "a tensor under two names": (
        lambda x: change_weights(x, lambda w: {**w, "norm.weight": w["model.norm.weight"] + 1}),
        r"x: 'model.norm.weight' and 'norm.weight' are both 'model.norm.weight' of the model; keep one",
    ),
    "fewer layers": (
        lambda x: change_config(x, num_hidden_layers=1),
        r"x: config.json says 1 layers .*, and the files hold 2 \(such as 'model.layers.1",
    ),
    "more layers": (
        lambda x: change_config(x, num_hidden_layers=3), r"has no tensor|files have no tensor 'model.layers.2"
    ),
    "int8": (lambda x: change_weights(x, cast(torch.int8)), rf"x: {UP} is stored as I8, and config.json has no quanti"),
    "uint8": (lambda x: change_weights(x, cast(torch.uint8)), rf"x: {UP} is stored as U8, and config.json has no quan"),
    "float8": (lambda x: change_weights(x, cast(torch.float8_e4m3fn)), rf"x: {UP} is stored as F8_E4M3"),
    "another vocabulary": (
        lambda x: change_config(x, vocab_size=401),
        r"x: its files have embeddings \('.*embed_tokens.weight'\) for 400 tokens, its config.json for 401; set vocab",
    ),
    "another width": (lambda x: change_config(x, intermediate_size=64), r"is \(.*\) in its files, and \(.*\) by its"),
    "no tokenizer_config": (
        lambda x: (x / "tokenizer_config.json").unlink(), r"x: it has tokenizer.json, but no tokenizer_config.json"
    ),
    "a quantisation whose library is absent": (
        lambda x: change_config(x, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
        "x.*bitsandbytes|x is quantised",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_checkpoint_that_is_not_what_it_says_is_refused_everywhere(folder: Path, spoil: str) -> None:
    change, told = SPOILT[spoil]
    x, sound = folder / "x", folder / "sound"
    change(x)
    questions = {"forget": people(2)[:2], "retain": people(2)[2:]}
    quiet: dict[str, Any] = {"attacks": [], "overrides": ["score.max_new_tokens=0"]}
    ways: dict[str, Callable[[], object]] = {
        "load": lambda: load_model(x),
        "score": lambda: uwc.score(x, people(1)),
        "attack": lambda: uwc.attack(x, people(1), "jailbreak"),
        "unlearn": lambda: uwc.unlearn(x, "ga", forget=people(1), output_dir=folder / "out"),
        "calibrate": lambda: uwc.calibrate(sound, x, **questions),
        "calibrate from": lambda: uwc.calibrate(x, sound, **questions),
        "compare": lambda: uwc.compare(sound, {"x": x}, **questions, **quiet, output_dir=folder / "compared"),
        "mix": lambda: open_mixing(sound, x),
        "preflight": lambda: require_mixable(sound, x),
    }
    for name, way in ways.items():
        with pytest.raises(UserError) as error:
            way()
        message = str(error.value)
        mixing = name not in ("load", "score", "attack", "unlearn")
        differs = mixing and "different architectures" in message
        assert re.search(told, message) or differs, (name, message)
        assert "\n" not in message and len(message) < 500, (name, message)


def test_two_checkpoints_of_different_vocabularies_are_told_with_both_sizes(folder: Path) -> None:
    padded = tiny_model(seed=1)
    padded.model.resize_token_embeddings(416)
    save_model(padded, folder / "padded")
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=r"sound has embeddings for 400 tokens, .*padded for 416"):
            check(folder / "sound", folder / "padded")
    load_model(folder / "padded", device="cpu")


@pytest.mark.parametrize("base_only", [True, False])
def test_masks_and_frequencies_of_old_checkpoints_are_no_surplus(tmp_path: Path, base_only: bool) -> None:
    """openai-community/gpt2 and its fine-tunes hold causal masks; old Llamas hold their rotary frequencies."""
    tokenizer = tiny_model().tokenizer
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64)
    save_model(Model(GPT2LMHeadModel(config).eval(), tokenizer), tmp_path / "gpt2")
    expected = load_model(tmp_path / "gpt2", device="cpu").model.state_dict()
    prefix = "" if base_only else "transformer."
    masks = {
        f"{prefix}h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8),
        f"{prefix}h.1.attn.masked_bias": torch.tensor(-1e4),
    }
    change_weights(
        tmp_path / "gpt2",
        lambda w: {n.removeprefix("transformer.") if base_only else n: t for n, t in w.items()} | masks,
    )
    found = load_model(tmp_path / "gpt2", device="cpu").model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    save_model(tiny_model(), tmp_path / "llama")
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    change_weights(tmp_path / "llama", lambda w: w | frequencies)
    load_model(tmp_path / "llama", device="cpu")
    change_weights(tmp_path / "llama", lambda w: {n: t for n, t in w.items() if "norm" not in n})
    with pytest.raises(ModelError, match="have no tensor"):
        load_model(tmp_path / "llama")


def test_a_learned_bias_that_the_model_does_not_have_is_surplus(folder: Path) -> None:
    change_weights(folder / "x", lambda w: w | {"model.layers.0.self_attn.bias": torch.ones(32)})
    with pytest.raises(ModelError, match=r"'model\.layers\.0\.self_attn\.bias'"):
        load_model(folder / "x")


def test_two_values_of_what_else_a_model_ties_are_refused(tmp_path: Path) -> None:
    """Zamba runs one block at several depths, which its files hold once."""
    tokenizer = tiny_model().tokenizer
    config = ZambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=48,
        layers_block_type=["mamba", "mamba", "hybrid", "mamba", "hybrid"], mamba_d_state=4, n_mamba_heads=2,
        eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    for name in ("first", "second"):
        save_model(Model(ZambaForCausalLM(config).eval(), tokenizer), tmp_path / name)
    open_mixing(tmp_path / "first", tmp_path / "second", device="cpu")
    (stored,) = [
        n for n in load_file(tmp_path / "second" / SINGLE) if n.endswith("shared_transf.self_attn.q_proj.weight")
    ]
    other = stored.replace("layers.2", "layers.4")
    change_weights(tmp_path / "second", lambda w: w | {other: w[stored] + 1})
    for check in (open_mixing, require_mixable):
        with pytest.raises(ModelError, match=r"second: .*ties .*layers.2.*layers.4"):
            check(tmp_path / "first", tmp_path / "second")


def test_a_missing_output_embedding_names_the_tie(folder: Path) -> None:
    change_config(folder / "x", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"no tensor 'lm_head.weight'.*tie_word_embeddings"):
        load_model(folder / "x")


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "bloom": {"n_layer": 2, "n_head": 2},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": {}, "gemma2": {}, "granite": {}, "phi3": {}, "mamba": {"state_size": 4},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}  # fmt: skip
_SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_all_readers_agree_on_each_architecture(tmp_path: Path, name: str) -> None:
    """Names, pieces and ties of its own: both ends of a mixture from files are what transformers loads."""
    tokenizer = tiny_model().tokenizer
    config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **{**_SIZES, **ARCHITECTURES[name]})
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
        save_model(Model(model, tokenizer), tmp_path / str(seed))
    require_mixable(tmp_path / "1", tmp_path / "2")
    mixing = open_mixing(tmp_path / "1", tmp_path / "2", device="cpu")
    mixing.mix(0.3)
    for alpha, path in ((0.0, tmp_path / "1"), (1.0, tmp_path / "2")):
        plain, report = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        mixed = mixing.mix(alpha).model.state_dict()
        assert all(torch.equal(mixed[key], tensor) for key, tensor in plain.state_dict().items())
        stored = stored_in(plain, WeightFiles(path))
        assert not report["unexpected_keys"] and not report["missing_keys"] and not stored.surplus
    surplus = tmp_path / "surplus"
    shutil.copytree(tmp_path / "2", surplus)
    change_weights(surplus, lambda w: w | {"model.extra.weight": torch.ones(2)})
    for check in (lambda: load_model(surplus), lambda: require_mixable(tmp_path / "1", surplus)):
        with pytest.raises(ModelError, match=r"model\.extra\.weight"):
            check()
