"""Loading, building and saving of models, with errors that a user can act on."""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from uwc import progress
from uwc.data.example import Example
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError, ModelError, reporting_full_disk
from uwc.models.adapters import adapter_config, attach_adapter, has_adapter, named_base, require_adapter
from uwc.models.checkpoint_files import (
    ADAPTER,
    CONFIG,
    GENERATION,
    INDEX,
    MODEL_FILES,
    SINGLE,
    contents,
    is_incomplete,
    kind_of,
    loading_failed,
    local_file,
    model_config,
    read_json,
    require_token_ids,
)
from uwc.models.contrast import load_contrast
from uwc.models.model import (
    MAP,
    DeviceName,
    Dtype,
    MaxMemory,
    Model,
    context_length,
    cuda_index,
    require_max_memory,
)
from uwc.models.packed import is_unpacked_here, unpacked_weights
from uwc.models.placement import placing, shares
from uwc.models.quantised import dequantize as dequantized
from uwc.models.quantised import dequantizing, quantization_of
from uwc.models.reading import Reading, load_tokenizer, read_as
from uwc.models.weights import WeightFiles, require_all_read

DEVICES = ("cuda", "mps", "cpu")

_LAYERS_OF_A_TENSOR = 100
"""The most layers that share a tensor; beyond it a configuration is damaged, and would be built for hours."""

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The device to compute on; "auto" and "map" are CUDA, else MPS, else the CPU.

    Under a launcher each process has its own GPU.

    Raises:
        ModelError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in ("auto", MAP):
        name = next(device for device in DEVICES if available[device])
    index = cuda_index(name)
    if not (available[name] if index is None else index < torch.cuda.device_count()):
        usable = ", ".join(device for device, there in available.items() if there)
        count = f" ({torch.cuda.device_count()} CUDA devices)" if index is not None else ""
        raise ModelError(f"the device {name!r} is not available here{count}; usable: auto, map, {usable}")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def load_model(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    template: PromptTemplate | None = None,
    trust_remote_code: bool = False,
    name: str = "",
    reading: Reading | None = None,
    base: str | Path | None = None,
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
) -> Model:
    """Load a causal language model of transformers, or an adapter with its base, from a folder or the hub.

    Reads the same files as transformers (see `contents`); every tensor in them must belong to the model. Prefixes of
    wrappers (``module.``, ``_orig_mod.``) are removed. An adapter is attached to the base that its configuration names,
    as a peft model.

    Args:
        path: a folder, or a hub name such as ``"meta-llama/Llama-3.2-1B-Instruct"``.
        dtype: the precision of the weights in memory; "auto" is that of the checkpoint's configuration, else of its
            first weight.
        device: where to compute; with "map" accelerate places the model over all devices, main memory and its files.
        template: the prompt template; by default the tokenizer's chat template if there is one.
        trust_remote_code: run Python code of the checkpoint.
        name: its name in messages; the folder's or hub's name by default.
        reading: tokenizer, template and ends of the model that it is compared with, used in place of its own; a warning
            names the differences. Its own by default.
        base: the folder or hub name of the base of an adapter that names none.
        max_memory: with the device "map", device -> the most memory of weights; by default what is free.
        dequantize: give a checkpoint that is stored quantised plain weights, in `dtype`; others are not affected.

    Raises:
        ConfigError: `max_memory` is malformed, or has no effect; or prompts do not use the date or an argument of
            the template.
        ModelError: there is no such model, it has no safetensors weights or two sets of them, a tensor is missing or
            unexpected, an adapter's kind cannot be scored, it needs remote code or a library of quantisation that is
            not installed, its weights cannot be dequantised, or a token has another id than in `reading`.
    """
    where, name = str(path), name or Path(path).name
    require_max_memory(max_memory or {}, device)
    given: dict[str, Any] = {"dtype": dtype, "device": device, "max_memory": max_memory}
    template = template or PromptTemplate()
    given["dequantize"] = dequantize
    kind = contents(where).kind
    if kind == "adapter":
        adapter = adapter_config(where) or {}
        require_adapter(where, adapter)
        named = str(base) if base and not adapter.get("base_model_name_or_path") else named_base(where, adapter)
        tokenizer = load_tokenizer(where, named if reading is None else None, trust_remote_code, needed=reading is None)
        if reading is None:
            template.require_used(tokenizer)
        model = load_model(named, trust_remote_code=trust_remote_code, **given)
        model = replace(attach_adapter(model, where), tokenizer=tokenizer, template=template, name=name)
    else:
        tokenizer = load_tokenizer(where, None, trust_remote_code, needed=reading is None)
        if reading is None:
            template.require_used(tokenizer)
        if kind == "contrast" and device == MAP:
            raise ModelError(f"{where}: a contrast of two models cannot be placed with device = {MAP}; give a device")
        load = partial(
            _load_whole,
            dtype=dtype,
            device=device,
            trust=trust_remote_code,
            max_memory=max_memory or {},
            dequantize=dequantize,
        )
        module = load_contrast(Path(where), load) if kind == "contrast" else load(where)
        if placed := shares(module):
            progress.note(f"{name}: " + ", ".join(f"{share:.0%} on {of}" for of, share in placed.items()))
        model = Model(module.eval(), tokenizer, template, name)
    if reading is not None:
        return read_as(model, reading, path=where)
    rows = int(model.model.get_input_embeddings().weight.shape[0])
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None and token >= rows:
            raise ModelError(
                f"{where}: the tokenizer's {tokenizer.convert_ids_to_tokens(token)!r} is token {token}, and the model "
                f"has embeddings for {rows}; put the tokenizer there that it was trained with"
            )
    return model


def _load_whole(
    where: str, *, dtype: Dtype, device: DeviceName, trust: bool, max_memory: MaxMemory, dequantize: bool
) -> Any:
    """Load a model from whole weights. Raises ModelError unless all of them are read."""
    require_token_ids(where)
    files, packing = WeightFiles(where), quantization_of(where, dequantize=dequantize)
    layers = getattr(model_config(where, trust_remote_code=trust).get_text_config(), "num_hidden_layers", None) or 0
    if layers > _LAYERS_OF_A_TENSOR * len(files.shapes):
        raise ModelError(
            f"{Path(where) / CONFIG}: damaged (num_hidden_layers = {layers}, and the weights have {len(files.shapes)} "
            "tensors); fetch or save it again"
        )
    chosen = pick_device(device)
    if packing and dequantize and device == MAP:
        raise ModelError(f"{where} is stored quantised, and is not dequantised with device = {MAP}; give a device")
    here = dequantize and is_unpacked_here(packing)
    on_one: dict[str, Any] = {"device_map": {"": chosen}} if packing else {}
    plainly = dequantizing(where, packing, trust=trust) if packing and dequantize else {}
    with placing(max_memory) if device == MAP else nullcontext((on_one, lambda _: None)) as (place, keep):
        try:
            options = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True, **place}
            if here:
                model, report = _unpacked(files, packing, trust=trust, **options)
            else:
                model, report = AutoModelForCausalLM.from_pretrained(
                    where, use_safetensors=True, trust_remote_code=trust, **options, **plainly
                )
        except ModelError:
            raise
        except Exception as error:  # transformers, the hub and safetensors raise many kinds
            raise ModelError(loading_failed(where, error)) from error
        keep(model)
    require_all_read(model, files, report, quantised=bool(packing))
    for key, value in model.config.to_dict().items():
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, int | float) and not 0 <= value <= 1:
            raise ModelError(f"{where}: {CONFIG} has {key} = {value}; set it from 0 to 1")
    if packing and dequantize:
        return dequantized(model, where, packing)
    return model if packing or device == MAP else model.to(chosen)


def _unpacked(files: WeightFiles, packing: Mapping[str, Any], *, trust: bool, **options: Any) -> Any:
    """The model of a checkpoint whose weights are unpacked here, and transformers' report."""
    config = model_config(files.path, trust_remote_code=trust)
    del config.quantization_config
    model = unloaded(config, trust)
    dtype = options["dtype"]
    state = unpacked_weights(files, packing, torch.float32 if dtype == "auto" else getattr(torch, dtype))
    if local_file(files.path, GENERATION) is not None:
        options["generation_config"] = GenerationConfig.from_pretrained(files.path)
    model, report = type(model).from_pretrained(None, config=model.config, state_dict=state, **options)
    model.config.name_or_path = model.name_or_path = files.path
    return model, report


def unloaded(config: Any, trust: bool) -> Any:
    """The model that a configuration describes, without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust)


def is_stored_quantised(path: str) -> bool:
    """Whether a checkpoint, or the base of an adapter, is stored quantised."""
    adapter = adapter_config(path)
    where = path if adapter is None else named_base(path, adapter)
    return bool(read_json(where, CONFIG).get("quantization_config"))


def depth_of(path: str | Path, *, trust_remote_code: bool = False) -> int:
    """The number of transformer blocks, from the configuration alone. Raises ModelError if there is no model."""
    return int(_config_of(path, trust_remote_code).get_text_config().num_hidden_layers)


def context_of(path: str | Path, *, trust_remote_code: bool = False) -> int:
    """The longest sequence in tokens, from the configuration alone. Raises ModelError if there is no model."""
    return context_length(_config_of(path, trust_remote_code))


def _config_of(path: str | Path, trust_remote_code: bool) -> Any:
    kind, source = kind_of(path), str(path)
    if kind == "adapter":
        source = named_base(path, adapter_config(path) or {})
    elif kind == "contrast":
        source = str(Path(path) / "base")
    return model_config(source, trust_remote_code=trust_remote_code)


def save_model(model: Model, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer in the format of transformers; for an adapter it alone.

    Whole weights in the folder are replaced.

    Raises:
        ModelError: the folder has a model of another kind, which would be loaded too.
        DiskFull: no space is left.
    """
    other = (SINGLE, INDEX) if has_adapter(model.model) else (ADAPTER,)
    require_none_of(folder, *other)
    with reporting_full_disk(folder):
        for old in (folder / SINGLE, folder / INDEX):
            old.unlink(missing_ok=True)
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        share_weights(folder)


def share_weights(folder: Path) -> None:
    """Give weights the permissions of the files beside them; safetensors leaves them to their owner alone."""
    for weights in folder.rglob("*.safetensors"):
        shutil.copymode(next(weights.parent.glob("*.json")), weights)


def require_no_model(folder: Path, *, overwrite: bool) -> None:
    """Raise ModelError if a folder to write to has a model, and it must not be replaced."""
    found = next((file.name for pattern in MODEL_FILES for file in sorted(folder.glob(pattern))), "")
    if found and not overwrite and not is_incomplete(folder):
        raise ModelError(
            f"{folder} holds a model ({found}); give another folder, or replace it with --overwrite (in Python "
            "overwrite=True)"
        )


def require_none_of(folder: Path, *files: str) -> None:
    """Raise ModelError if a folder to write to has one of the files, which belong to another kind of model."""
    for file in files:
        if (folder / file).exists():
            raise ModelError(f"{folder} holds a model of another kind ({file}); give another folder")


def parameter_count(model: Any) -> int:
    """The number of distinct parameters; tied weights count once."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    return sum(p.numel() for name, p in model.named_parameters() if not (p.is_meta and name in tied))


END, PAD = "<|end|>", "<|pad|>"


def build_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which encodes any text without loss.

    Args:
        texts: the training texts.
        vocabulary: the most entries, at least 258 (all bytes, the end and the padding token).

    Raises:
        ConfigError: the vocabulary is smaller than that.
    """
    if vocabulary < 258:
        raise ConfigError(
            f"model.build.vocabulary = {vocabulary} is too small; 258 is the least (all bytes, 2 markers)"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)


def build_model(
    examples: Iterable[Example],
    *,
    vocabulary: int = 1024,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    context: int = 256,
    initializer_range: float = 0.02,
    template: PromptTemplate | None = None,
    seed: int = 0,
) -> Model:
    """A randomly initialised Llama with a tokenizer trained on the examples' questions and answers.

    Args:
        examples: the training texts of the tokenizer.
        vocabulary: the most tokens in the vocabulary.
        hidden_size: width of the model; that of the feed-forward layers is three times as large.
        layers: number of blocks.
        heads: attention heads; must divide `hidden_size`.
        context: the longest sequence, in tokens.
        initializer_range: standard deviation of the initial weights; with 1 / sqrt(hidden_size) long answers are
            memorised several times faster than with the usual 0.02, and generalise less to other phrasings.
        template: the prompt template of the model.
        seed: of the initial weights.

    Raises:
        ConfigError: inconsistent sizes.
    """
    if hidden_size % (2 * heads):
        raise ConfigError(f"model.build: hidden_size = {hidden_size} must be a multiple of 2 x heads = {2 * heads}")
    template = template or PromptTemplate()
    texts = [template.text.replace("{question}", e.question) + template.separator + e.answer for e in examples]
    tokenizer = build_tokenizer(texts, vocabulary=vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return Model(model.eval(), tokenizer, template, "built")
