"""Models over several devices, for which main memory and files stand without a GPU: the same bits, or one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import attach_align_device_hook
from accelerate.utils import OffloadedWeightsLoader
from peft import LoraConfig, get_peft_model
from tests.conftest import people, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

import uwc
from uwc.errors import ConfigError, ModelError
from uwc.models.adapters import AdapterMixer, attach_adapter, merge_adapter
from uwc.models.generation import generate
from uwc.models.load import load_model, parameter_count, pick_device, save_model
from uwc.models.mixing import Mixer, untie_embeddings
from uwc.models.mixtures import open_mixing, save_mixture
from uwc.models.model import Model
from uwc.models.placement import held, shares
from uwc.models.scoring import score_tokens
from uwc.models.weights import StreamedMixer, WeightFiles

EXAMPLES = people()
RETAIN, FORGET = EXAMPLES[:6], EXAMPLES[6:]


def made(*, tied: bool, seed: int) -> Model:
    model = tiny_model(layers=4, seed=seed)
    if not tied:
        untie_embeddings(model.model)
    return model


def memory_of(folder: Path, share: float) -> dict[str, str | int]:
    """A share of the bytes of a model in main memory; the rest stays in its files."""
    return {"cpu": int(share * sum(file.stat().st_size for file in folder.glob("*.safetensors")))}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one model, the first in several shards."""
    path = tmp_path_factory.mktemp("placed")
    first = made(tied=request.param, seed=1)
    first.model.save_pretrained(path / "original", max_shard_size="60KB")
    first.tokenizer.save_pretrained(path / "original")
    save_model(made(tied=request.param, seed=2), path / "unlearned")
    return path


@pytest.mark.parametrize("share", [0.8, 0.0])
def test_a_model_that_is_partly_in_its_files_has_the_scores_of_one_in_memory(folders: Path, share: float) -> None:
    whole = load_model(folders / "original", device="cpu")
    placed = load_model(folders / "original", device="map", max_memory=memory_of(folders / "original", share))
    assert set(shares(placed.model)) == ({"cpu", "disk"} if share else {"disk"})
    assert sum(shares(placed.model).values()) == pytest.approx(1)
    assert placed.device == torch.device("cpu") and parameter_count(placed.model) == parameter_count(whole.model)
    ours, theirs = (score_tokens(m, EXAMPLES, reference=whole, margins=True) for m in (placed, whole))
    for column in ("logprob", "kl", "mean_logprob", "var_logprob", "margin"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
    answers = [generate(m, FORGET, max_new_tokens=6).texts for m in (placed, whole)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("share", [0.8, 0.0])
def test_mixtures_are_those_in_memory(folders: Path, share: float) -> None:
    original, unlearned = folders / "original", folders / "unlearned"
    placed = open_mixing(original, unlearned, device="map", max_memory=memory_of(original, share))
    whole = Mixer(load_model(original, device="cpu"), load_model(unlearned, device="cpu"))
    for alpha in (0.0, 0.4, 1.0, 0.4):
        ours, theirs = (score_tokens(m.mix(alpha), EXAMPLES) for m in (placed, whole))
        np.testing.assert_array_equal(ours.logprob, theirs.logprob)


def test_weights_in_main_memory_that_are_moved_to_a_device_are_mixed(folders: Path) -> None:
    """As on a GPU with modules of the map on "cpu": the weights are not on the device that computes with them."""
    original, unlearned = folders / "original", folders / "unlearned"
    working = load_model(original, device="cpu")
    loader = OffloadedWeightsLoader(state_dict=dict(working.model.state_dict()))
    attach_align_device_hook(working.model, execution_device=torch.device("cpu"), offload=True, weights_map=loader)
    assert all(parameter.is_meta for parameter in working.model.parameters()) and held(working.model)
    whole = open_mixing(original, unlearned, device="cpu")
    ties = (whole.mix(0.0).model.config.tie_word_embeddings,) * 2
    placed = StreamedMixer(working, WeightFiles(original), WeightFiles(unlearned), ties=ties)
    for alpha in (0.3, 0.0):
        ours, theirs = (score_tokens(m.mix(alpha), EXAMPLES) for m in (placed, whole))
        np.testing.assert_array_equal(ours.logprob, theirs.logprob)


@pytest.fixture(scope="module")
def known(knowing: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows the answers, and the same with noise in its weights."""
    path = tmp_path_factory.mktemp("known")
    save_model(knowing, path / "original")
    noisy = load_model(path / "original", device="cpu")
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in noisy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=noise))
    save_model(noisy, path / "unlearned")
    return path


def save_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A LoRA adapter with random weights."""
    model = load_model(base, device="cpu")
    given = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        adapted = get_peft_model(model.model, LoraConfig(**given))
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


LORA: dict[str, dict[str, Any]] = {
    "some": {},
    "everywhere": {
        "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"],
        "use_rslora": True,
    },
}


@pytest.mark.parametrize(
    ("share", "settings", "dtype"),
    [(0.8, "some", "float32"), (0.8, "everywhere", "bfloat16"), (0.0, "some", "bfloat16")],
)
def test_an_adapter_on_a_placed_model_has_the_scores_of_one_in_memory(
    share: float, settings: str, dtype: str, folders: Path, tmp_path: Path
) -> None:
    """Scores, answers, and mixtures by its scale."""
    original = folders / "original"
    adapter = save_adapter(original, tmp_path / "adapter", **LORA[settings])
    limits = memory_of(original, share / (1 if dtype == "float32" else 2))
    given: dict[str, Any] = {"dtype": dtype}
    whole = load_model(adapter, device="cpu", **given)
    placed = load_model(adapter, device="map", max_memory=limits, **given)
    assert set(shares(placed.model)) == ({"cpu", "disk"} if share else {"disk"})
    assert not any(weight.is_meta for name, weight in placed.model.named_parameters() if "lora_" in name)
    assert any(weight.is_meta for weight in placed.model.parameters())
    ours, theirs = (score_tokens(m, EXAMPLES, margins=True) for m in (placed, whole))
    plain = score_tokens(load_model(original, device="cpu", **given), EXAMPLES)
    assert not np.array_equal(theirs.logprob, plain.logprob)
    for column in ("logprob", "mean_logprob", "var_logprob", "margin"):
        np.testing.assert_array_equal(getattr(ours, column), getattr(theirs, column))
    answers = [generate(m, FORGET[:2], max_new_tokens=6).texts for m in (placed, whole)]
    assert answers[0] == answers[1]
    of_placed = open_mixing(original, adapter, device="map", max_memory=limits, **given)
    of_whole = open_mixing(original, adapter, device="cpu", **given)
    assert isinstance(of_placed, AdapterMixer)
    for alpha in (0.0, 0.4, 1.0):
        ours, theirs = (score_tokens(m.mix(alpha), EXAMPLES[:4]) for m in (of_placed, of_whole))
        np.testing.assert_array_equal(ours.logprob, theirs.logprob)


def test_an_adapter_on_weights_that_are_moved_to_a_device(folders: Path, tmp_path: Path) -> None:
    """As on a GPU with modules of the map on "cpu"."""
    adapter = save_adapter(folders / "original", tmp_path / "adapter")
    base = load_model(folders / "original", device="cpu")
    loader = OffloadedWeightsLoader(state_dict=dict(base.model.state_dict()))
    attach_align_device_hook(base.model, execution_device=torch.device("cpu"), offload=True, weights_map=loader)
    base.model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    ours, theirs = (
        score_tokens(m, EXAMPLES) for m in (attach_adapter(base, adapter), load_model(adapter, device="cpu"))
    )
    np.testing.assert_array_equal(ours.logprob, theirs.logprob)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["embed_tokens"]}])
def test_an_adapter_that_is_more_than_plain_lora_is_refused_on_a_placed_model(
    folders: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    adapter = save_adapter(folders / "original", tmp_path / "adapter", **settings)
    limits = memory_of(folders / "original", 0.8)
    with pytest.raises(ModelError, match="which is more than plain LoRA, needs all weights on one device"):
        load_model(adapter, device="map", max_memory=limits)


@pytest.mark.parametrize(("share", "dtype"), [(0.8, "float32"), (0.4, "bfloat16"), (0.0, "float32")])
def test_an_adapter_is_merged_into_weights_as_they_are_read(
    share: float, dtype: str, folders: Path, tmp_path: Path
) -> None:
    """Twice on the same base gives the same: the files are not changed."""
    adapter = save_adapter(folders / "original", tmp_path / "adapter")
    files = {path: path.read_bytes() for path in (folders / "original").iterdir()}
    given: dict[str, Any] = {"dtype": dtype}
    whole = merge_adapter(load_model(adapter, device="cpu", **given))
    expected = score_tokens(whole, EXAMPLES).logprob
    for _ in range(2):
        placed = load_model(adapter, device="map", max_memory=memory_of(folders / "original", share), **given)
        merged = merge_adapter(placed)
        assert not any("lora_" in name for name, _ in merged.model.named_parameters())
        assert type(merged.model) is LlamaForCausalLM and "disk" in shares(merged.model)
        np.testing.assert_array_equal(score_tokens(merged, EXAMPLES).logprob, expected)
    assert {path: path.read_bytes() for path in (folders / "original").iterdir()} == files


def test_an_adapter_that_cannot_be_merged_into_a_placed_model_is_refused(folders: Path, tmp_path: Path) -> None:
    limits = memory_of(folders / "original", 0.8)
    plain = save_adapter(folders / "original", tmp_path / "plain")
    with pytest.raises(ModelError, match="into a copy needs all weights on one device"):
        merge_adapter(load_model(plain, device="map", max_memory=limits), keep=True)
    everywhere = save_adapter(folders / "original", tmp_path / "everywhere", **LORA["everywhere"])
    with pytest.raises(ModelError, match="that changes embeddings needs all weights on one device"):
        merge_adapter(load_model(everywhere, device="map", max_memory=limits))


def test_an_adapter_on_a_placed_model_is_attacked(known: Path, tmp_path: Path) -> None:
    adapter = save_adapter(known / "original", tmp_path / "adapter")
    limits = memory_of(known / "original", 0.7)
    asked: dict[str, Any] = {"metrics": ["ES"], "texts": False}
    ours, theirs = (
        uwc.attack(adapter, FORGET[:3], ["prefix"], **asked, **given).attacks
        for given in ({"device": "map", "max_memory": limits}, {"device": "cpu"})
    )
    assert repr(ours) == repr(theirs)


@pytest.mark.slow
def test_calibration_and_attacks_have_the_same_numbers(known: Path, tmp_path: Path) -> None:
    original, unlearned = known / "original", known / "unlearned"
    where: list[dict[str, Any]] = [
        {"device": "cpu"},
        {"device": "map", "max_memory": memory_of(original, 0.7)},
    ]
    found = [
        uwc.calibrate(original, unlearned, forget=FORGET, retain=RETAIN, save=tmp_path / str(i), **given)
        for i, given in enumerate(where)
    ]
    assert repr(found[0].calibration) == repr(found[1].calibration)
    assert [repr(s) for s in found[0].scores] == [repr(s) for s in found[1].scores]
    assert 0 < found[0].calibration.alpha < 1
    files = [WeightFiles(tmp_path / str(i)) for i in range(2)]
    assert all(torch.equal(files[0].read(name), files[1].read(name)) for name in files[0].shapes)
    chains = ["jailbreak", "prefix", "logit_lens", "direction_ablation"]
    attacker = uwc.Attacker(train=RETAIN[:2], retain=RETAIN[2:])
    asked: dict[str, Any] = {"attacker": attacker, "metrics": ["ES"], "max_new_tokens": 8}
    attacked = [uwc.attack(unlearned, FORGET, chains, **asked, **given).attacks for given in where]
    assert repr(attacked[0]) == repr(attacked[1])


@pytest.mark.slow
def test_a_study_has_the_same_numbers(known: Path, tmp_path: Path) -> None:
    """Scores, calibration and an attack on prompts; the precision is read from the checkpoint."""
    original, limit = known / "original", memory_of(known / "original", 0.7)["cpu"]
    settings = [["model.device=cpu"], ["model.device=map", f"model.max_memory={{cpu: {limit}}}", "model.dtype=auto"]]
    found = [
        uwc.compare(
            original, [known / "unlearned"], forget=FORGET, retain=RETAIN, metrics=["ES"], attacks=["prefix"],
            overrides=given, output_dir=tmp_path / str(i),
        )
        for i, given in enumerate(settings)
    ]  # fmt: skip
    assert found[1].model.dtype == "float32"
    ours, theirs = (repr([*f.scored(), f.unlearned[0].calibration, f.attacks]) for f in found)
    assert ours == theirs and "extraction_strength" in ours


@pytest.mark.parametrize("attack", ["quantization", "relearn", "gcg", "soft_prompt", "probe"])
def test_attacks_that_need_whole_weights_say_so(known: Path, attack: str) -> None:
    limits = memory_of(known / "original", 0.7)
    with pytest.raises(ModelError, match=r"needs all weights on one device, and .* several \(.*% on disk.*max_memory"):
        uwc.attack(
            known / "unlearned", FORGET, attack, attacker=uwc.Attacker(train=RETAIN, retain=RETAIN), device="map",
            max_memory=limits,
        )  # fmt: skip


def test_training_says_that_it_needs_whole_weights(known: Path, tmp_path: Path) -> None:
    limits = memory_of(known / "original", 0.7)
    with pytest.raises(ModelError, match="training needs all weights on one device"):
        uwc.unlearn(
            known / "original", "ga", forget=FORGET, output_dir=tmp_path / "out", device="map", max_memory=limits
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_memory": {"cpu": "1GB"}}, "max_memory has no effect with device = auto; set device to map"),
        ({"device": "map", "max_memory": {"gpu": "1GB"}}, "unknown device 'gpu'; give cpu, mps, or cuda:0"),
        ({"device": "map", "max_memory": {"cpu": "much"}}, "cpu has 'much'; give bytes, or a size such as 20GB"),
        ({"device": "map", "max_memory": {"cpu": -1}}, "cpu has -1"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
    ],
)
def test_settings_that_are_wrong_or_without_effect_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        uwc.load_model("nowhere", **given)


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, known: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ModelError, match=r"'cuda:2' is not available here \(2 CUDA devices\)"):
        pick_device("cuda:2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ModelError, match="a launcher has started 2 processes"):
        load_model(known / "original", device="map")


def test_a_model_that_fits_is_on_one_device(known: Path) -> None:
    assert shares(load_model(known / "original", device="map").model) == {}


def test_the_precision_of_the_checkpoint_is_read(known: Path, tmp_path: Path) -> None:
    half = load_model(known / "original", dtype="bfloat16", device="cpu")
    save_model(half, tmp_path)
    assert load_model(tmp_path, dtype="auto", device="cpu").model.dtype == torch.bfloat16
    assert load_model(known / "original", dtype="auto", device="cpu").model.dtype == torch.float32
    assert load_model(tmp_path, device="cpu").model.dtype == torch.float32


@pytest.mark.slow
def test_a_large_tensor_is_mixed_in_blocks_of_rows(tmp_path: Path) -> None:
    """Embeddings of 300,001 x 32 numbers, more than are read at a time, against models in memory."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=300_001, num_key_value_heads=1, tie_word_embeddings=True, **sizes)
    models = [Model(LlamaForCausalLM(config).eval(), tiny_model().tokenizer, name=str(i)) for i in range(2)]
    for model in models:
        save_model(model, tmp_path / model.name)
    assert len(WeightFiles(tmp_path / "0").blocks("model.embed_tokens.weight")) == 2
    streamed = open_mixing(tmp_path / "0", tmp_path / "1", device="cpu")
    ours = streamed.mix(0.3).model.state_dict()
    theirs = Mixer(*models).mix(0.3).model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    save_model(tiny_model(seed=1), tmp_path / "original")
    save_model(tiny_model(seed=2), tmp_path / "unlearned")
    mixing = open_mixing(tmp_path / "original", tmp_path / "unlearned", device="cpu")
    mixing.mix(0.5)
    save_model(tiny_model(seed=3), tmp_path / "unlearned")
    with pytest.raises(ModelError, match=r"unlearned.*safetensors: changed while it was being read"):
        mixing.mix(0.5)


def test_embeddings_cannot_be_untied_in_files(tmp_path: Path) -> None:
    save_model(made(tied=True, seed=1), tmp_path / "original")
    save_model(made(tied=False, seed=2), tmp_path / "unlearned")
    with pytest.raises(ModelError, match="one of the two models has tied embeddings"):
        open_mixing(tmp_path / "original", tmp_path / "unlearned", device="map", max_memory={"cpu": 0})
    in_memory = open_mixing(tmp_path / "original", tmp_path / "unlearned", device="map")
    save_mixture(in_memory, 0.5, tmp_path / "mixed")
    assert (tmp_path / "mixed" / "config.json").exists()
