"""Damaged checkpoints: each is read, or refused in one line, by the commands that load a model."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.torture.fuzz import FORGET, RETAIN, Case, Prepare, chunks, damaged, numbered

from uwc.models.checkpoint_files import ADAPTER, ADAPTER_WEIGHTS, CONFIG, INDEX, SINGLE, TOKENIZER_CONFIG

BAD = "bad"
TOKENIZER, GENERATION = "tokenizer.json", "generation_config.json"
REMOVED = object()


def edited(file: str, *keys: str | int, value: Any) -> Prepare:
    """Sets a value in a JSON file of the checkpoint, or removes it."""

    def edit(folder: Path) -> None:
        path = folder / BAD / file
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        at = content
        for key in keys[:-1]:
            at = at[key]
        if value is REMOVED:
            at.pop(keys[-1])
        elif keys:
            at[keys[-1]] = value
        else:
            content = value
        path.write_text(json.dumps(content), encoding="utf-8")

    return edit


def written(file: str, content: str | bytes) -> Prepare:
    """Writes a file of the checkpoint."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / BAD / file).write_bytes(data)


def changed(file: str, change: Callable[[bytes], bytes]) -> Prepare:
    """Changes the bytes of a file of the checkpoint."""

    def write(folder: Path) -> None:
        path = folder / BAD / file
        path.write_bytes(change(path.read_bytes()))

    return write


def weights(change: Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]) -> Prepare:
    """Changes the header and the data of the weights."""

    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header, body = change(json.loads(data[8 : 8 + length]), data[8 + length :])
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + body

    return changed(SINGLE, rewrite)


def tensor(**values: Any) -> Prepare:
    """Changes what the header says of the first tensor."""

    def change(header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        first = next(name for name in header if name != "__metadata__")
        return {**header, first: {**header[first], **values}}, body

    return weights(change)


def renamed(old: str, new: str) -> Prepare:
    """Changes the names of tensors."""
    return weights(lambda header, body: ({name.replace(old, new): t for name, t in header.items()}, body))


def instead(file: str, make: Callable[[Path], object]) -> Prepare:
    """Something else in the place of a file."""

    def replace(folder: Path) -> None:
        (folder / BAD / file).unlink(missing_ok=True)
        make(folder / BAD / file)

    return replace


def sharded(**index: Any) -> Prepare:
    """An index in place of the single file; keys of None are left out."""

    def write(folder: Path) -> None:
        (folder / BAD / SINGLE).rename(folder / BAD / "one.safetensors")
        data = (folder / BAD / "one.safetensors").read_bytes()
        names = [n for n in json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]]) if n != "__metadata__"]
        content = {"metadata": {}, "weight_map": dict.fromkeys(names, "one.safetensors"), **index}
        content = {key: value for key, value in content.items() if value is not None}
        (folder / BAD / INDEX).write_text(json.dumps(content), encoding="utf-8")

    return write


def adapter(**config: Any) -> Prepare:
    """An adapter of the model in place of a whole one, with changes of its configuration."""

    def write(folder: Path) -> None:
        shutil.rmtree(folder / BAD)
        (folder / BAD).mkdir()
        where = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
        shapes = {"A": (2, 32), "B": (32, 2)}
        tensors = {where.format(n, side): np.ones(shape, np.float32) for n in (0, 1) for side, shape in shapes.items()}
        save_file(tensors, folder / BAD / ADAPTER_WEIGHTS)
        path = folder / BAD / ADAPTER
        content = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
        content = {**content, "base_model_name_or_path": "model", **config}
        content = {key: value for key, value in content.items() if value is not REMOVED}
        path.write_text(json.dumps(content), encoding="utf-8")

    return write


def both(first: Prepare, second: Prepare) -> Prepare:
    """Two changes."""

    def change(folder: Path) -> None:
        first(folder)
        second(folder)

    return change


DEEP = "[" * 50_000 + "]" * 50_000
CONFIGS: Mapping[str, tuple[Any, ...]] = {
    "hidden_size": (0, -1, 31, 10**9, "32", None, 1.5, [], REMOVED), "num_hidden_layers": (0, -1, 1, 3, 10**6, "two", None),
    "num_attention_heads": (0, -2, 3, 10**9, "x"), "num_key_value_heads": (0, 3, "x"), "vocab_size": (0, -1, 10, 10**12, "x", None, REMOVED),
    "intermediate_size": (0, 97, -1, "x"), "max_position_embeddings": (0, -1, 1, 5, "x", None, 10**12), "model_type": (0, "", "nosuch", "bert", "gpt2", [], None, REMOVED),
    "hidden_act": ("nosuch", 5, None), "rms_norm_eps": (0, -1.0, "x", float("nan"), 1e300), "rope_parameters": (5, {}, {"rope_type": "nosuch"}, {"rope_theta": 0}),
    "rope_scaling": ({"type": "linear"}, {"rope_type": "linear", "factor": 0}), "architectures": ([], ["NoSuch"], 5, [5], "LlamaForCausalLM", None),
    "dtype": ("nosuch", 5, "int8"), "torch_dtype": ("float99",), "tie_word_embeddings": (False, "x"), "eos_token_id": (-1, 10**9, "x", [], [None], 1.5),
    "pad_token_id": (-5, 10**9, "x"), "bos_token_id": ("x", -3), "attention_bias": (True, "x"), "attention_dropout": (5, -1, "x"), "initializer_range": ("x", -1),
    "quantization_config": (5, {}, {"quant_method": "nosuch"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, {"quant_method": "gptq", "bits": 4}),
    "auto_map": ({"AutoModelForCausalLM": "code.Model"}, 5, {"AutoConfig": "../x.y"}), "transformers_weights": (5, "", "../x.safetensors", "nosuch.safetensors", "a\x1b[31m.bin"),
    "use_cache": ("x",), "head_dim": (0, 1, -4, "x", 7), "layer_types": (["nosuch"], 5), "sliding_window": ("x", -1), "text_config": ({}, 5), "is_encoder_decoder": (True,),
    "pruned_heads": (5, {"0": [99]}), "id2label": (5, {"a": "b"}), "num_labels": (-1, 10**5), "chunk_size_feed_forward": (-1,), "transformers_version": (5, None), "return_dict": (False,),
}  # fmt: skip
TOKENIZERS: Mapping[str, Prepare] = {
    **{f"model.type = {value!r}": edited(TOKENIZER, "model", "type", value=value) for value in ("nosuch", 5, None, "WordPiece", "Unigram", "WordLevel")},
    **{f"no {key}": edited(TOKENIZER, key, value=REMOVED) for key in ("model", "version", "added_tokens", "decoder", "pre_tokenizer")},
    "no vocabulary": edited(TOKENIZER, "model", "vocab", value={}), "vocabulary of a list": edited(TOKENIZER, "model", "vocab", value=[["a", 0.5]]),
    "negative ids": edited(TOKENIZER, "model", "vocab", value={"a": -1}), "huge ids": edited(TOKENIZER, "model", "vocab", value={"a": 2**32 - 1, "b": 2**31}),
    "larger ids": edited(TOKENIZER, "model", "vocab", value={"a": 2**40}), "same ids": edited(TOKENIZER, "model", "vocab", value={"a": 0, "b": 0, "c": 0}),
    "merges of nothing": edited(TOKENIZER, "model", "merges", value=[["no", "such"]]), "merges of text": edited(TOKENIZER, "model", "merges", value="a b"),
    "merges of three": edited(TOKENIZER, "model", "merges", value=["a b c"]), "no merges": edited(TOKENIZER, "model", "merges", value=[]),
    "unk of nothing": edited(TOKENIZER, "model", "unk_token", value="nosuch"), "dropout of 5": edited(TOKENIZER, "model", "dropout", value=5),
    "dropout of 0.5": edited(TOKENIZER, "model", "dropout", value=0.5), "added token of no id": edited(TOKENIZER, "added_tokens", value=[{"content": "x"}]),
    "added tokens of 5": edited(TOKENIZER, "added_tokens", value=5), "added token far away": edited(TOKENIZER, "added_tokens", 0, "id", value=10**6),
    "empty added token": edited(TOKENIZER, "added_tokens", 0, "content", value=""),
    "bad regex": edited(TOKENIZER, "pre_tokenizer", value={"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}),
    "slow regex": edited(TOKENIZER, "pre_tokenizer", value={"type": "Split", "pattern": {"Regex": "(a*)*(a*)*b"}, "behavior": "Isolated", "invert": False}),
    "empty regex": edited(TOKENIZER, "pre_tokenizer", value={"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}),
    "nosuch pre_tokenizer": edited(TOKENIZER, "pre_tokenizer", value={"type": "NoSuch"}), "null pre_tokenizer": edited(TOKENIZER, "pre_tokenizer", value=None),
    "null decoder": edited(TOKENIZER, "decoder", value=None), "decoder of nothing": edited(TOKENIZER, "decoder", value={"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    "normalizer to nothing": edited(TOKENIZER, "normalizer", value={"type": "Replace", "pattern": {"Regex": "."}, "content": ""}),
    "normalizer of charsmap": edited(TOKENIZER, "normalizer", value={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "prepend": edited(TOKENIZER, "normalizer", value={"type": "Prepend", "prepend": "x" * 5000}),
    "strip": edited(TOKENIZER, "normalizer", value={"type": "Strip", "strip_left": True, "strip_right": True}),
    "truncation": edited(TOKENIZER, "truncation", value={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
    "truncation with a stride": edited(TOKENIZER, "truncation", value={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 9}),
    "padding": edited(TOKENIZER, "padding", value={"strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
    "template of unknown tokens": edited(TOKENIZER, "post_processor", value={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no", "type_id": 0}}], "pair": [], "special_tokens": {}}),
    "template without the text": edited(TOKENIZER, "post_processor", value={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
    "version 9": edited(TOKENIZER, "version", value="9.0"), "deep tokenizer": written(TOKENIZER, DEEP), "empty tokenizer": written(TOKENIZER, ""),
    "null tokenizer": written(TOKENIZER, "null"), "tokenizer of bytes": written(TOKENIZER, b"\xff\xfe\x00"), "no tokenizer": instead(TOKENIZER, lambda p: None),
    "unigram": edited(TOKENIZER, "model", value={"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]]}), "unigram of nothing": edited(TOKENIZER, "model", value={"type": "Unigram", "unk_id": 0, "vocab": []}),
    "unigram of NaN": written(TOKENIZER, '{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", NaN]]}}'), "word level": edited(TOKENIZER, "model", value={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "b"}),
    "word piece": edited(TOKENIZER, "model", value={"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "b", "continuing_subword_prefix": "##", "max_input_chars_per_word": 0}),
}  # fmt: skip
LOOP = "{% for i in range(10**9) %}{% for j in range(10**9) %}{% endfor %}{% endfor %}"
TOKENIZER_CONFIGS: Mapping[str, tuple[Any, ...]] = {
    "tokenizer_class": ("NoSuch", 5, None, "BertTokenizer", "LlamaTokenizer", "GPT2Tokenizer", [], REMOVED), "eos_token": (None, 5, "", "nosuch", {"content": "x"}, [], REMOVED),
    "pad_token": (None, "nosuch", 5), "bos_token": ("nosuch", 5), "unk_token": ("nosuch", {}), "model_max_length": (0, -1, "x", 10**400, 2), "padding_side": ("up", 5), "truncation_side": ("up",),
    "added_tokens_decoder": (5, {"x": {"content": "y"}}, {"9999999": {"content": "y"}}, {"0": {}}, {"-1": {"content": "y"}}), "additional_special_tokens": (5, [5], ["<|end|>", ""]),
    "chat_template": (5, "", "{{", "{{ nosuch.x.y }}", "{% for m in messages %}{{ m }}{% endfor %}", LOOP, "{{ 'x' * 10**7 }}", "{{ raise_exception('no\x1b[31m') }}", [{"name": "a"}], {"a": "b"},
        "constant", "{{ messages[99].content }}", "{{ ''.__class__.__mro__ }}", "{% include 'x' %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ messages[0]['content'] }}" * 1000, "{{ 1 / 0 }}",
        "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"),
    "add_bos_token": (True, "x"), "add_eos_token": (True,), "clean_up_tokenization_spaces": (True, "x"), "auto_map": ({"AutoTokenizer": ["code.T", None]},), "add_prefix_space": (True, "x"),
    "tokenizer_file": ("../x", 5), "extra_special_tokens": (5, ["x"], {"x_token": 5}), "legacy": (5,), "split_special_tokens": (True,), "name_or_path": (5,), "special_tokens_map_file": (5,),
}  # fmt: skip
GENERATIONS: Mapping[str, tuple[Any, ...]] = {
    "eos_token_id": (-1, "x", [], [10**9], None, 1.5), "max_new_tokens": (-1, "x"), "temperature": (0, -1, "x"), "num_beams": (0, 10**6, "x"), "top_k": (-1,), "pad_token_id": ("x", 10**9), "do_sample": (5,),
    "cache_implementation": ("nosuch",), "stop_strings": (5,), "forced_eos_token_id": (10**9,), "suppress_tokens": ([10**9],), "bad_words_ids": ([[]],), "nosuch": (1,), "max_length": (1,), "repetition_penalty": (0,),
}  # fmt: skip
ADAPTERS: Mapping[str, tuple[Any, ...]] = {
    "r": (0, -1, "x", 3, 10**9), "lora_alpha": ("x", -1, 10**300), "target_modules": ([], "nosuch", 5, ["nosuch"], None, "(["), "peft_type": ("NOSUCH", 5, "PREFIX_TUNING", "IA3", REMOVED), "task_type": ("NOSUCH", "SEQ_CLS", None),
    "base_model_name_or_path": (None, "", "nosuch", 5, "bad", "../outside", "x" * 5000), "lora_dropout": (5, "x"), "bias": ("nosuch", "all"), "layers_to_transform": ([99], "x"), "rank_pattern": ({"q_proj": 5}, 5),
    "modules_to_save": (["lm_head"], ["nosuch"]), "use_dora": (True,), "fan_in_fan_out": (True,), "use_rslora": (True,), "init_lora_weights": ("nosuch", "pissa"), "nosuch": (1,), "auto_mapping": ({"base_model_class": "X"}, 5),
    "inference_mode": (False,), "megatron_config": (5,), "alpha_pattern": ({"q_proj": "x"},), "revision": (5,), "trainable_token_indices": ([10**9],), "loftq_config": (5,),
}  # fmt: skip
HUGE = 2**62
WEIGHTS: Mapping[str, Prepare] = {
    "no weights": instead(SINGLE, lambda p: None), "empty weights": written(SINGLE, b""), "seven bytes": written(SINGLE, b"\0" * 7), "zeros": written(SINGLE, b"\0" * 5000), "text": written(SINGLE, "hello " * 99),
    "half": changed(SINGLE, lambda data: data[: len(data) // 2]), "one byte less": changed(SINGLE, lambda data: data[:-1]), "one byte more": changed(SINGLE, lambda data: data + b"\0"),
    "huge header": changed(SINGLE, lambda data: struct.pack("<Q", HUGE) + data[8:]), "short header": changed(SINGLE, lambda data: struct.pack("<Q", 9) + data[8:]), "deep header": written(SINGLE, struct.pack("<Q", len(DEEP)) + DEEP.encode()),
    "header of a list": written(SINGLE, struct.pack("<Q", 2) + b"[]"), "no tensors": written(SINGLE, struct.pack("<Q", 2) + b"{}"), "git LFS pointer": written(SINGLE, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
    "overlapping": tensor(data_offsets=[0, 10]), "negative offsets": tensor(data_offsets=[-4, 4]), "huge offsets": tensor(data_offsets=[0, HUGE]), "reversed offsets": tensor(data_offsets=[400, 0]), "no offsets": tensor(data_offsets=None),
    "dtype nosuch": tensor(dtype="NOSUCH"), "dtype I8": tensor(dtype="I8"), "dtype BOOL": tensor(dtype="BOOL"), "dtype F8": tensor(dtype="F8_E4M3"), "dtype I32": tensor(dtype="I32"), "dtype 5": tensor(dtype=5), "shape of text": tensor(shape="x"),
    "negative shape": tensor(shape=[-1, -4]), "huge shape": tensor(shape=[2**32, 2**32]), "shape of nothing": tensor(shape=[]), "long shape": tensor(shape=[1] * 5000), "flat": weights(lambda h, b: ({n: (t if n == "__metadata__" else {**t, "shape": [_size(t)]}) for n, t in h.items()}, b)),
    "transposed": weights(lambda h, b: ({n: (t if n == "__metadata__" else {**t, "shape": t["shape"][::-1]}) for n, t in h.items()}, b)), "other metadata": weights(lambda h, b: ({**h, "__metadata__": {"format": "tf"}}, b)),
    "metadata of 5": weights(lambda h, b: ({**h, "__metadata__": 5}, b)), "no metadata": weights(lambda h, b: ({n: t for n, t in h.items() if n != "__metadata__"}, b)), "metadata of escapes": weights(lambda h, b: ({**h, "__metadata__": {"format": "\x1b[31m"}}, b)),
    "other names": renamed("self_attn", "attn"), "names of escapes": renamed("self_attn", "\x1b[31m"), "long names": renamed("self_attn", "x" * 3000), "empty name": weights(lambda h, b: ({("" if "norm" in n else n): t for n, t in h.items()}, b)),
    "wrapped": renamed("model.", "module.model."), "twice wrapped": renamed("model.", "_orig_mod.module.model."), "layers of 99": renamed("layers.1", "layers.99"), "dots": renamed("model.", "..."), "same layer twice": renamed("layers.1", "layers.0"),
}  # fmt: skip
INDICES: Mapping[str, Prepare] = {
    "a good index": sharded(), "index without map": sharded(weight_map=None), "index without metadata": sharded(metadata=None), "empty map": sharded(weight_map={}), "map of a list": sharded(weight_map=["a"]), "map of numbers": sharded(weight_map={"a": 5}),
    "map of null": sharded(weight_map={"a": None}), "a missing shard": sharded(weight_map={"a": "nosuch.safetensors"}), "an absolute shard": sharded(weight_map={"a": "/etc/passwd"}), "a shard above": sharded(weight_map={"a": "../model/model.safetensors"}),
    "a shard that is a folder": sharded(weight_map={"a": "."}), "an empty shard name": sharded(weight_map={"a": ""}), "a long shard name": sharded(weight_map={"a": "x" * 5000}), "a shard of escapes": sharded(weight_map={"a": "\x1b]0;x\x07"}), "a NUL": sharded(weight_map={"a": "a\0b"}),
    "tensors of no shard": sharded(weight_map={"nosuch": "one.safetensors"}), "many shards": sharded(weight_map={str(i): f"{i}.safetensors" for i in range(20_000)}), "metadata of 5 in the index": sharded(metadata=5), "deep index": both(sharded(), written(INDEX, DEEP)),
    "index of null": both(sharded(), written(INDEX, "null")), "empty index": both(sharded(), written(INDEX, "")), "index of digits": both(sharded(), written(INDEX, "9" * 6000)), "a bin shard": sharded(weight_map={"a": "pytorch_model.bin"}),
}  # fmt: skip
PIECES = (CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION, SINGLE)


def _size(tensor: Mapping[str, Any]) -> int:
    size = 1
    for length in tensor["shape"]:
        size *= length
    return size


def checkpoints() -> Iterator[tuple[str, Prepare]]:
    """What is changed, and how."""
    for file, tables in ((CONFIG, CONFIGS), (TOKENIZER_CONFIG, TOKENIZER_CONFIGS), (GENERATION, GENERATIONS)):
        for key, values in tables.items():
            for value in values:
                yield f"{file}: {key} = {_told(value)}", edited(file, key, value=value)
    for key, values in ADAPTERS.items():
        for value in values:
            yield f"{ADAPTER}: {key} = {_told(value)}", adapter(**{key: value})
    yield f"{ADAPTER}: good", adapter()
    for file, content in (
        (ADAPTER, "[]"),
        (ADAPTER, ""),
        (ADAPTER, DEEP),
        (ADAPTER_WEIGHTS, ""),
        (ADAPTER_WEIGHTS, "x" * 999),
    ):
        yield f"{file}: {content[:3]!r}", both(adapter(), written(file, content))
    for table in (TOKENIZERS, WEIGHTS, INDICES):
        yield from table.items()
    for file in PIECES:
        yield f"{file} missing", instead(file, lambda path: None)
        yield f"{file} a folder", instead(file, lambda path: path.mkdir())
        yield f"{file} a dangling link", instead(file, lambda path: path.symlink_to("nowhere"))
        yield f"{file} a pipe", instead(file, os.mkfifo)
        yield f"{file} a device", instead(file, lambda path: path.symlink_to("/dev/zero"))
        for content in (
            "",
            "null",
            "[]",
            "5",
            "{",
            "{}",
            DEEP,
            '{"a": 1, "a": 2}',
            "9" * 6000,
            "\ufeff{}",
            "NaN",
            "\0" * 99,
        ):
            if file != SINGLE:
                yield f"{file} is {content[:9]!r}", written(file, content)
        for name, seed in numbered(f"damaged {file}", 12):
            yield name, changed(file, lambda data, seed=seed: damaged(data, seed))  # type: ignore[misc]
    for file in (
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
        "preprocessor_config.json",
        "contrast.json",
        "merges.txt",
    ):
        yield f"{file} of bytes", written(file, b"\xff\xfe\0")
        yield f"{file} a folder", instead(file, lambda path: path.mkdir())
        yield f"{file} deep", written(file, DEEP)
        yield f"{file} of a list", written(file, "[5]")


def _told(value: Any) -> str:
    return "removed" if value is REMOVED else repr(value)[:40]


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("score", BAD, "--data", FORGET, "--metric", "ES", "--metric", "rouge_l", "--set", "score.max_new_tokens=3"),
    (
        *("calibrate", "model", BAD, "--forget", FORGET, "--retain", RETAIN, "--search-only", "--set", "calibrate.scan=2"),
        *("--set", "calibrate.resolution=0.4", "--save", "out/saved"),
    ),
    ("attack", BAD, "--data", FORGET, "--attack", "relearn", "--attacker-data", RETAIN, "--set", "attack.settings.relearn.steps=1"),
)  # fmt: skip
EVERY = 3
"""Of the changes, which are tried with all commands; those of single keys are many."""


def copied(change: Prepare) -> Prepare:
    """Changes a copy of the model."""

    def prepare(folder: Path) -> None:
        shutil.copytree(folder / "model", folder / BAD)
        change(folder)

    return prepare


def cases() -> Iterator[Case]:
    """Each change with each command."""
    for number, (name, change) in enumerate(checkpoints()):
        for place, arguments in enumerate(COMMANDS):
            if number % EVERY == 0 or (number + place) % EVERY == 0:
                yield Case(
                    f"{arguments[0]}: {name}",
                    (*arguments, "-o", "out"),
                    copied(change),
                    names=(BAD, *PIECES, "model", "prompt.chat", "training diverged", "example"),
                )


CASES = list(cases())


@pytest.mark.parametrize("cases", chunks(CASES, every=150))
def test_checkpoints(cases: list[Case], try_all: Callable[..., None]) -> None:
    try_all("damaged checkpoint", cases)
