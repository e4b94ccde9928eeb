"""Loading and saving models and tokenizers, with errors a user can act on."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from uwc.data.prompts import PromptTemplate
from uwc.errors import ModelError, reporting_full_disk
from uwc.models.adapters import adapter_config, attach_adapter, named_base, require_adapter
from uwc.models.checkpoint_files import (
    ADAPTER,
    CONFIG,
    INDEX,
    SINGLE,
    contents,
    kind_of,
    loading_failed,
    read_json,
)
from uwc.models.contrast import load_contrast
from uwc.models.lora import has_adapter
from uwc.models.reading import Reading, load_tokenizer, read_as
from uwc.models.stored import require_all_read
from uwc.models.target import Target
from uwc.models.weight_files import WeightFiles

Dtype = Literal["float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: tuple[DeviceName, ...] = ("cuda", "mps", "cpu")

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The device to compute on; "auto" is CUDA, else MPS, else the CPU. Under a launcher each process has its own GPU.

    Raises:
        ModelError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in DEVICES if available[device])
    if not available[name]:
        usable = ", ".join(device for device, there in available.items() if there)
        raise ModelError(f"the device {name!r} is not available here; usable: auto, {usable}")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device(name, int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def load_target(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    template: PromptTemplate | None = None,
    trust_remote_code: bool = False,
    name: str = "",
    reading: Reading | None = None,
) -> Target:
    """Load a causal language model of transformers, or an adapter with its base, from a folder or the hub.

    Reads the same files as transformers (see `contents`); every tensor in them must belong to the model. Prefixes of
    wrappers (``module.``, ``_orig_mod.``) are removed. An adapter is attached to the base that its configuration names,
    as a peft model.

    Args:
        path: a folder, or a hub name such as ``"meta-llama/Llama-3.2-1B-Instruct"``.
        dtype: the precision of the weights in memory.
        device: where to compute.
        template: the prompt template; by default the tokenizer's chat template if there is one.
        trust_remote_code: run Python code of the checkpoint.
        name: its name in messages; the folder's or hub's name by default.
        reading: tokenizer, template and ends of the model that it is compared with, used in place of its own; a warning
            names the differences. Its own by default.

    Raises:
        ModelError: there is no such model, it has no safetensors weights or two sets of them, a tensor is missing or
            unexpected, an adapter's kind cannot be scored, it needs remote code, or a token has another id than in
            `reading`.
    """
    where, name = str(path), name or Path(path).name
    given: dict[str, Any] = {"dtype": dtype, "device": device, "template": template}
    kind = contents(where).kind
    if kind == "adapter":
        adapter = adapter_config(where) or {}
        require_adapter(where, adapter)
        base = named_base(where, adapter)
        tokenizer = load_tokenizer(where, base if reading is None else None, trust_remote_code, needed=reading is None)
        target = load_target(base, trust_remote_code=trust_remote_code, **given)
        target = replace(attach_adapter(target, where), tokenizer=tokenizer, name=name)
    else:
        tokenizer = load_tokenizer(where, None, trust_remote_code, needed=reading is None)
        load = partial(_load_whole, dtype=getattr(torch, dtype), device=pick_device(device), trust=trust_remote_code)
        model = load_contrast(Path(where), load) if kind == "contrast" else load(where)
        target = Target(model.eval(), tokenizer, template or PromptTemplate(), name)
    return target if reading is None else read_as(target, reading, path=where)


def _load_whole(where: str, *, dtype: torch.dtype, device: torch.device, trust: bool) -> Any:
    """Load a model from whole weights. Raises ModelError unless all of them are read."""
    files, quantised = WeightFiles(where), bool(read_json(where, CONFIG).get("quantization_config"))
    place = {"device_map": {"": device}} if quantised else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **place,
        )
    except Exception as error:  # transformers, the hub and safetensors raise many kinds
        raise ModelError(loading_failed(where, error)) from error
    require_all_read(model, files, report, quantised=quantised)
    return model if quantised else model.to(device)


def depth_of(path: str | Path, *, trust_remote_code: bool = False) -> int:
    """The number of transformer blocks, from the configuration alone. Raises ModelError if there is no model."""
    kind, source = kind_of(path), str(path)
    if kind == "adapter":
        source = named_base(path, adapter_config(path) or {})
    elif kind == "contrast":
        source = str(Path(path) / "base")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        return int(config.get_text_config().num_hidden_layers)
    except Exception as error:  # transformers and the hub raise many kinds
        raise ModelError(loading_failed(str(path), error)) from error


def save_target(target: Target, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer in the format of transformers; for an adapter it alone.

    Whole weights in the folder are replaced.

    Raises:
        ModelError: the folder has a model of another kind, which would be loaded too.
        DiskFull: no space is left.
    """
    other = (SINGLE, INDEX) if has_adapter(target.model) else (ADAPTER,)
    require_none_of(folder, *other)
    with reporting_full_disk(folder):
        for old in (folder / SINGLE, folder / INDEX):
            old.unlink(missing_ok=True)
        target.model.save_pretrained(folder)
        target.tokenizer.save_pretrained(folder)


def require_none_of(folder: Path, *files: str) -> None:
    """Raise ModelError if a folder to write to has one of the files, which belong to another kind of model."""
    for file in files:
        if (folder / file).exists():
            raise ModelError(f"{folder} holds a model of another kind ({file}); give another folder")


def parameter_count(model: Any) -> int:
    """The number of distinct parameters; tied weights count once."""
    return sum(p.numel() for p in model.parameters())
