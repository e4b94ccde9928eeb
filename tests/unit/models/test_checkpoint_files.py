"""Of a folder the files are read that transformers reads, by every reader; what could be read in two ways is told."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.conftest import copied, people, tiny_model
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import _get_resolved_checkpoint_files

import uwc
from uwc import progress
from uwc.errors import ConfigError, ModelError
from uwc.models.adapters import merge_adapter
from uwc.models.checkpoint_files import contents, files_read
from uwc.models.contrast import contrast, load_contrast
from uwc.models.load import depth_of, load_model, save_model
from uwc.models.mixtures import open_mixing, require_free, require_mixable, save_mixture
from uwc.models.model import Model
from uwc.models.reading import Reading, differences, load_reading
from uwc.models.scoring import score_tokens
from uwc.models.weights import WeightFiles
from uwc.studies.store import checkpoint_fingerprint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def _warned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "warned", set())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ "single" (seed 1) and "sharded" (seed 2) hold models; "original" (seed 3) what they are unlearned from."""
    save_model(tiny_model(seed=1), tmp_path / "single")
    save_model(tiny_model(seed=3), tmp_path / "original")
    sharded = tiny_model(seed=2)
    sharded.model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    sharded.tokenizer.save_pretrained(tmp_path / "sharded")
    return tmp_path


def both_in_one(folder: Path, *, shards: bool = True) -> Path:
    """A folder with a single file and an index, with or without the shards that it names."""
    both = folder / "both"
    shutil.copytree(folder / "sharded", both)
    shutil.copy(folder / "single" / SINGLE, both)
    for file in both.glob("model-*.safetensors"):
        if not shards:
            file.unlink()
    return both


def same(model: object, folder: Path) -> bool:
    """Whether a model has the weights that transformers reads from a folder."""
    expected = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True).state_dict()
    found = model.state_dict()  # type: ignore[attr-defined]
    return found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)


def change_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_every_combination_is_read_as_transformers_reads_it(folder: Path, tmp_path: Path) -> None:
    """Single file, index with its shards, index alone, a file that config.json names, pickled and stray weights."""
    there = {
        "single": [folder / "single" / SINGLE],
        "sharded": list((folder / "sharded").glob("*.safetensors*")),
        "index": [folder / "sharded" / INDEX],
    }
    checked = 0
    for number, chosen in enumerate(
        itertools.product((None, *there, "single sharded", "single index"), (None, "other.safetensors"), (False, True))
    ):
        place, named, stray = tmp_path / str(number), chosen[1], chosen[2]
        shutil.copytree(folder / "single", place)
        (place / SINGLE).unlink()
        for file in [f for kind in (chosen[0] or "").split() for f in there[kind]]:
            shutil.copy(file, place)
        if named:
            shutil.copy(folder / "original" / SINGLE, place / named)
            change_config(place, transformers_weights=named)
        for name in ("consolidated.safetensors", "adapter_model.safetensors", "pytorch_model.bin") if stray else ():
            (place / name).write_bytes(b"never read")
        try:
            expected, _ = _get_resolved_checkpoint_files(
                place, None, None, True, None, False, transformers_explicit_filename=named
            )
        except OSError:
            expected = []
        if not expected or not all(Path(f).is_file() for f in expected):
            with pytest.raises(ModelError):
                contents(place)
            continue
        assert sorted(contents(place).weights) == sorted(Path(f).name for f in expected), chosen
        assert same(load_model(place, device="cpu").model, place)
        checked += 1
    assert checked == 20


@pytest.mark.parametrize("shards", [True, False])
def test_of_two_sets_score_calibrate_and_fingerprints_read_the_one_that_transformers_reads(
    folder: Path, shards: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    both = both_in_one(folder, shards=shards)
    assert same(load_model(both, device="cpu").model, folder / "single")
    told = f"holds two sets of weights: {SINGLE}, which is read, as transformers reads it, and {INDEX}"
    assert (told in capsys.readouterr().err) == shards
    require_mixable(folder / "original", both)
    assert same(open_mixing(folder / "original", both, device="cpu").mix(1.0).model, folder / "single")
    assert same(open_mixing(both, folder / "original", device="cpu").mix(0.0).model, folder / "single")
    found = checkpoint_fingerprint(str(both))
    assert {name for name in found if "safetensors" in name} == {SINGLE}
    shutil.copy(folder / "original" / SINGLE, both / "model-00001-of-00003.safetensors")
    assert checkpoint_fingerprint(str(both)) == found


def test_a_file_that_the_configuration_names_is_read_and_written_under_the_usual_name(folder: Path) -> None:
    place = folder / "original"
    shutil.copy(folder / "single" / SINGLE, place / "weights.safetensors")
    change_config(place, transformers_weights="weights.safetensors")
    mixing = open_mixing(place, folder / "single", device="cpu")
    assert same(mixing.mix(0.0).model, folder / "single")
    require_free(mixing, folder / "mixed", overwrite=False)
    save_mixture(mixing, 0.0, folder / "mixed")
    assert same(load_model(folder / "mixed", device="cpu").model, folder / "single")
    assert same(AutoModelForCausalLM.from_pretrained(folder / "mixed"), folder / "single")
    assert "weights.safetensors" in checkpoint_fingerprint(str(place))
    assert SINGLE not in checkpoint_fingerprint(str(place))


@pytest.mark.parametrize(
    "named", ["../single/model.safetensors", "/model.safetensors", "weights.bin", "absent.safetensors"]
)
def test_a_named_file_elsewhere_is_refused(folder: Path, named: str) -> None:
    change_config(folder / "original", transformers_weights=named)
    with pytest.raises(ModelError, match=r"original: config.json names .* as its weights"):
        load_model(folder / "original")


def test_a_folder_without_a_model_and_one_in_another_format_have_their_own_fixes(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty: there is no model in this folder: no config.json .*correct the path"):
        contents(folder / "empty")
    (folder / "single" / SINGLE).rename(folder / "single" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"single: no model.safetensors .*save it with save_pretrained"):
        contents(folder / "single")


@pytest.mark.parametrize("outside", ["../single/model.safetensors", "/tmp/model.safetensors"])
def test_an_index_that_leads_outside_is_refused(folder: Path, outside: str) -> None:
    index = folder / "sharded" / INDEX
    content = json.loads(index.read_text())
    content["weight_map"] |= {"model.norm.weight": outside}
    index.write_text(json.dumps(content))
    for read in (load_model, WeightFiles, lambda path: checkpoint_fingerprint(str(path))):
        with pytest.raises(ModelError, match=rf"{INDEX} names '{outside}', which lies outside"):
            read(folder / "sharded")  # type: ignore[operator]


def test_a_link_is_the_file_that_it_leads_to(folder: Path) -> None:
    """As in the cache of the hub."""
    linked = folder / "linked"
    shutil.copytree(folder / "single", linked)
    (linked / SINGLE).unlink()
    (linked / SINGLE).symlink_to(folder / "single" / SINGLE)
    assert same(load_model(linked, device="cpu").model, folder / "single")
    assert checkpoint_fingerprint(str(linked)) == checkpoint_fingerprint(str(folder / "single"))


def test_two_values_in_two_shards_are_refused_and_equal_ones_read(folder: Path) -> None:
    first, *_, last = sorted((folder / "sharded").glob("model-*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(last), name: tensor}, last, metadata={"format": "pt"})
    assert same(load_model(folder / "sharded", device="cpu").model, folder / "sharded")
    save_file({**load_file(last), name: tensor + 1}, last, metadata={"format": "pt"})
    for read in (load_model, WeightFiles):
        with pytest.raises(ModelError, match=rf"{first.name} and {last.name} have different values for '{name}'"):
            read(folder / "sharded")


def test_an_index_that_names_other_places_is_read_by_the_shards_own_headers(folder: Path) -> None:
    index = folder / "sharded" / INDEX
    content = json.loads(index.read_text())
    names, files = zip(*content["weight_map"].items(), strict=True)
    content["weight_map"] = dict(zip(names, files[1:] + files[:1], strict=True))
    index.write_text(json.dumps(content))
    assert same(load_model(folder / "sharded", device="cpu").model, folder / "sharded")
    assert same(open_mixing(folder / "single", folder / "sharded", device="cpu").mix(1.0).model, folder / "sharded")


def test_a_distributed_checkpoint_beside_the_weights_is_refused(folder: Path) -> None:
    (folder / "single" / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"reads shard-00001-model-00001-of-00001.safetensors.* before model.safetensors"
    ):
        load_model(folder / "single")


def adapter(folder: Path, name: str, **config: object) -> Path:
    model = tiny_model(seed=3)
    settings = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = get_peft_model(model.model, settings)
    module.peft_config["default"].base_model_name_or_path = str(folder / "original")
    module.save_pretrained(folder / name)
    path = folder / name / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder / name


def test_an_adapter_beside_whole_weights_is_refused_everywhere(folder: Path) -> None:
    path, both = adapter(folder, "adapter"), folder / "single"
    shutil.copy(path / "adapter_config.json", both)
    told = r"single holds two models, adapter_config.json and model.safetensors; .*remove adapter_config.json and"
    for read in (
        load_model, WeightFiles, depth_of, files_read, lambda p: require_mixable(folder / "original", p),
        lambda p: open_mixing(p, folder / "original"), lambda p: uwc.score(p, people(1)),
        lambda p: checkpoint_fingerprint(str(p)),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=told):
            read(both)  # type: ignore[operator]


def test_an_adapter_with_the_bases_configuration_beside_it_is_an_adapter(folder: Path) -> None:
    path = adapter(folder, "adapter")
    expected = score_tokens(load_model(path, device="cpu"), people(2)).logprob
    shutil.copy(folder / "single" / "config.json", path)
    assert (score_tokens(load_model(path, device="cpu"), people(2)).logprob == expected).all()
    assert depth_of(path) == 2


def test_adapters_in_folders_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """peft writes several of one model so; a trainer's copies beside the last one are no surprise."""
    for name in ("several/first", "several/second"):
        adapter(folder, name)
    with pytest.raises(ModelError, match=r"adapters .*: first, second"):
        load_model(folder / "several")
    trained = adapter(folder, "trained")
    shutil.copytree(folder / "several" / "first", trained / "checkpoint-100")
    load_model(trained, device="cpu")
    assert "checkpoint-100" not in capsys.readouterr().err
    shutil.copytree(folder / "several" / "first", trained / "other")
    load_model(trained, device="cpu")
    assert "adapter_config.json is read" in capsys.readouterr().err


def test_a_base_that_is_not_found_or_not_named_is_told_with_the_remedy(folder: Path) -> None:
    absent = adapter(folder, "absent", base_model_name_or_path="nobody/nothing")
    with pytest.raises(ModelError, match=r"adapter is for nobody/nothing, "):
        load_model(absent)
    unnamed = adapter(folder, "unnamed", base_model_name_or_path=None)
    with pytest.raises(ModelError, match=r"does not name its base.*base_model"):
        load_model(unnamed)
    number = adapter(folder, "number", base_model_name_or_path=5)
    for check in (load_model, lambda path: require_mixable(folder / "original", path)):
        with pytest.raises(ModelError, match="base_model_name_or_path = '5'"):
            check(number)
    nested = adapter(folder, "nested", base_model_name_or_path=str(adapter(folder, "adapter")))
    with pytest.raises(ModelError, match=r"its base .*adapter is not a whole model; merge that first"):
        load_model(nested)
    old = adapter(folder, "old", base_model_name_or_path="nobody/nothing", revision="abc")
    with pytest.raises(ModelError, match="revision abc of nobody/nothing"):
        load_model(old)
    with pytest.raises(ModelError, match="is an adapter; merge it"):
        require_mixable(folder / "adapter", folder / "single")


def test_an_adapters_file_has_to_hold_what_its_configuration_says(folder: Path) -> None:
    path = adapter(folder, "adapter")
    stored = load_file(path / "adapter_model.safetensors")
    name = min(stored)
    save_file({n: t for n, t in stored.items() if n != name}, path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"fit the model original: .*no tensor '.*lora_A"):
        load_model(path)
    extra = name.replace("q_proj", "v_proj")
    save_file({**stored, extra: stored[name].clone()}, path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"fit the model original: .*'.*v_proj"):
        load_model(path)
    (path / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match=r"adapter_model.safetensors.* no adapter_config\.json"):
        load_model(path)


def test_an_adapter_of_a_resized_base_is_told_by_both_sizes(folder: Path) -> None:
    base = tiny_model(seed=3)
    size = len(base.tokenizer)
    base.model.resize_token_embeddings(size + 1)
    model = get_peft_model(base.model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(folder / "original")
    model.save_pretrained(folder / "resized", save_embedding_layers=True)
    base.tokenizer.save_pretrained(folder / "resized")
    told = rf"the adapter has embeddings for {size + 1} tokens, its base .*original for {size}; merge it as it was"
    for read in (
        load_model, lambda path: open_mixing(folder / "original", path, device="cpu"),
        lambda path: require_mixable(folder / "original", path),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=told):
            read(folder / "resized")  # type: ignore[operator]


def test_an_adapter_is_attacked_as_the_model_that_it_makes(folder: Path, tmp_path: Path) -> None:
    """Merged before: what is scored, and what an attack on weights changes, is the whole."""
    path = adapter(folder, "adapter")
    expected = float(uwc.score(path, people(2), metrics=("probability",), device="cpu").scores[0].mean)
    attacks, settings = ["quantization", "pruning"], {"pruning": {"share": 0.0}}
    found = uwc.attack(
        path, people(2), attacks, metrics="probability", settings=settings, max_new_tokens=0, device="cpu"
    )
    outcomes = found.attacks.models[0].outcomes
    assert [o.before.mean for o in outcomes] == pytest.approx([expected] * 2, rel=1e-5)
    after = {o.attack: o.after.mean for o in outcomes}
    assert after["pruning"] == pytest.approx(expected, rel=1e-5)
    assert after["quantization"] != pytest.approx(expected, rel=1e-5)


def test_an_adapter_is_unlearned_from_as_the_model_that_it_makes(folder: Path) -> None:
    path = adapter(folder, "adapter")
    settings = {"epochs": 4, "batch_size": 2, "lr": 1e-4}
    uwc.unlearn(path, "ga", forget=people(2)[:2], training=settings, output_dir=folder / "out", device="cpu")
    whole = load_model(folder / "out", device="cpu").model.state_dict()
    merged = merge_adapter(load_model(path, device="cpu")).model.state_dict()
    changes = {name: float((whole[name] - merged[name]).abs().max()) for name in merged}
    assert whole.keys() == merged.keys() and all(0 < change < 1e-3 for change in changes.values())
    for lora in ({"save": "adapter"}, {"rank": 2, "save": "adapter"}):
        with pytest.raises(ConfigError, match=r"adapter is an adapter, .*further"):
            uwc.unlearn(path, "ga", forget=people(2)[:2], training={"lora": lora}, output_dir=folder / "again")


def test_a_folder_that_is_written_again_holds_one_model(folder: Path) -> None:
    save_model(tiny_model(seed=5), folder / "sharded")
    assert not (folder / "sharded" / INDEX).exists()
    assert same(load_model(folder / "sharded", device="cpu").model, folder / "sharded")
    path = adapter(folder, "adapter")
    with pytest.raises(ModelError, match=r"adapter holds a model of another kind \(adapter_config.json\)"):
        save_model(tiny_model(), path)
    with pytest.raises(ModelError, match=r"single holds a model of another kind \(model.safetensors\)"):
        save_model(load_model(path, device="cpu"), folder / "single")


def test_the_fingerprint_is_of_what_is_read_and_of_nothing_else(folder: Path) -> None:
    place = folder / "single"
    before = checkpoint_fingerprint(str(place))
    unread = ("consolidated.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "training_log.json", INDEX)
    for name in (*unread, "README.md"):
        (place / name).write_text("x", encoding="utf-8")
    assert checkpoint_fingerprint(str(place)) == before
    read = ("chat_template.jinja", "additional_chat_templates/tools.jinja", "generation_config.json", "vocab.bpe")
    for name in read:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("{}", encoding="utf-8")
    after = checkpoint_fingerprint(str(place))
    assert {name for name in after if after[name] != before.get(name)} == set(read)


def test_the_fingerprint_of_an_adapter_has_its_base_unless_that_is_given(folder: Path) -> None:
    path = adapter(folder, "adapter")
    alone, whole = (checkpoint_fingerprint(str(path), with_base=with_base) for with_base in (False, True))
    base = checkpoint_fingerprint(str(folder / "original"))
    assert whole == alone | {f"base:{name}": value for name, value in base.items()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(alone)


def test_the_fingerprint_of_a_contrast_has_both_models(folder: Path, untrained: Model) -> None:
    save_model(contrast(untrained, copied(tiny_model(seed=1))), folder / "contrast")
    found = checkpoint_fingerprint(str(folder / "contrast"))
    assert {f"{part}/{SINGLE}" for part in ("base", "reinforced")} | {"contrast.json"} <= set(found)
    drop = folder / "contrast" / "reinforced" / SINGLE
    save_file({n: t for n, t in load_file(drop).items() if "norm" not in n}, drop, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"reinforced': its files have no tensor"):
        load_model(folder / "contrast")


def test_the_reading_of_an_adapter_or_a_contrast_is_that_of_the_loaded_model(folder: Path, untrained: Model) -> None:
    """An adapter may lie without a tokenizer, and neither has generation settings of its own."""
    base = tiny_model(seed=3)
    base.model.generation_config.eos_token_id = [base.tokenizer.eos_token_id, base.tokenizer.pad_token_id]
    save_model(base, folder / "original")
    save_model(contrast(base, copied(base)), folder / "contrast")
    for path in (adapter(folder, "adapter"), folder / "contrast"):
        model, reading = load_model(path, device="cpu"), load_reading(path)
        assert reading.ends == model.end_ids == tuple(base.model.generation_config.eos_token_id)
        assert differences(Reading.of(model), reading) == []


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    "content", ["[" * 50_000, "5", '{"eos_token_id": "x"}', '{"pad_token_id": 1.5}', '{"eos_token_id": [null]}']
)
def test_damaged_configurations_are_named(file: str, content: str, folder: Path) -> None:
    (folder / "single" / file).write_text(content, encoding="utf-8")
    for load in (load_model, load_reading):
        with pytest.raises(ModelError, match=file.replace(".", "[.]")):
            load(folder / "single")


def test_a_dropout_outside_of_its_range_is_refused(folder: Path) -> None:
    change_config(folder / "single", attention_dropout=-1)
    with pytest.raises(ModelError, match="attention_dropout = -1"):
        load_model(folder / "single")


def test_a_model_of_a_million_layers_is_refused_before_it_is_made(folder: Path) -> None:
    change_config(folder / "single", num_hidden_layers=1_000_000)
    with pytest.raises(ModelError, match="num_hidden_layers = 1000000"):
        load_model(folder / "single")


def test_a_shard_with_an_impossible_name_is_missing(folder: Path) -> None:
    index = folder / "sharded" / INDEX
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "x" * 5000}}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"shard .* is missing"):
        contents(folder / "sharded")


@pytest.mark.parametrize("content", ["[5]", "{}", '{"strength": "x"}', "[" * 50_000, "\xff"])
def test_a_damaged_contrast_is_refused(content: str, folder: Path) -> None:
    (folder / "pair").mkdir()
    (folder / "pair" / "contrast.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"contrast[.]json"):
        load_contrast(folder / "pair", None)


def test_an_impossible_name_is_no_model() -> None:
    for look in (load_model, load_reading, checkpoint_fingerprint):
        with pytest.raises(ModelError, match="999"):
            look("9" * 400)


@pytest.mark.parametrize(
    "wrong", [{"max_new_tokens": -1}, {"max_new_tokens": "x"}, {"cache_implementation": "no"}, {"eos_token_id": -1}]
)
def test_a_wrong_generation_configuration_is_named(wrong: dict[str, object], folder: Path) -> None:
    (folder / "single" / "generation_config.json").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config[.]json"):
        load_reading(folder / "single")
