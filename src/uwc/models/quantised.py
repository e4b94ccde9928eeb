"""Checkpoints that are stored quantised: the libraries that read them, and their weights as plain numbers."""

from collections.abc import Mapping
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch

from uwc import progress
from uwc.errors import ModelError
from uwc.models.checkpoint_files import CONFIG, model_config, read_json
from uwc.models.packed import is_unpacked_here

LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed_tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
}
"""Method of quantisation -> the packages by which transformers reads its checkpoints."""

REMEDY = "load it with its weights dequantised (--set model.dequantize=true, in Python dequantize=True)"


def quantization_of(path: str, *, dequantize: bool) -> dict[str, Any]:
    """The settings of the quantisation in which a checkpoint is stored; empty if it is not.

    Args:
        path: the checkpoint.
        dequantize: whether plain weights are wanted, which need no library where they are unpacked here.

    Raises:
        ModelError: a library that reads it is not installed.
    """
    settings = read_json(path, CONFIG).get("quantization_config") or {}
    if not isinstance(settings, dict):
        raise ModelError(
            f"{path}: the quantization_config of {CONFIG} is not an object; fetch or save the checkpoint again"
        )
    if not settings:
        return {}
    unpacked = is_unpacked_here(settings)
    absent = [name for name in LIBRARIES.get(_method(settings), ()) if find_spec(name) is None]
    if absent and not (unpacked and dequantize):
        names = " ".join(name.replace("_", "-") for name in absent)
        raise ModelError(
            f"{path} is stored quantised ({_method(settings)}), and what reads it is not installed; "
            f"{f'{REMEDY}, or ' if unpacked else ''}install it with: pip install {names}"
        )
    return settings


def _method(settings: Mapping[str, Any]) -> str:
    return str(settings.get("quant_method") or "bitsandbytes")  # as old checkpoints, which have load_in_4bit alone


def is_llm_int8(model: Any) -> bool:
    """Whether a loaded model is quantised in LLM.int8()."""
    return bool(getattr(getattr(model.config, "quantization_config", None), "load_in_8bit", False))


def dequantizing(path: str, settings: Mapping[str, Any], *, trust: bool) -> dict[str, Any]:
    """The arguments of `from_pretrained` by which transformers dequantises a checkpoint's weights as it reads them;
    none if it cannot, and they are dequantised after loading."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(_method(settings))
    if kind is None or "dequantize" not in signature(kind).parameters:
        return {}
    config = model_config(path, trust_remote_code=trust)
    config.quantization_config = {**settings, "dequantize": True}
    return {"config": config}


@torch.no_grad()
def dequantize(model: Any, path: str, settings: Mapping[str, Any]) -> Any:
    """A loaded model with its weights dequantised to its dtype, if they are not yet, by the library that packed them.

    The model must not have computed anything: on some CPUs bitsandbytes then packs the weights in another way.

    Raises:
        ModelError: neither transformers nor the library can do so.
    """
    method = _method(settings)
    if getattr(model.config, "quantization_config", None) is not None:
        try:
            model = model.dequantize(dtype=model.dtype)
        except (NotImplementedError, ValueError) as error:
            raise ModelError(
                f"{path} is stored quantised ({method}), and transformers cannot dequantise it; leave out "
                "model.dequantize, or give the weights before quantisation"
            ) from error
    for mark in ("_weight_conversions", "is_loaded_in_4bit", "is_loaded_in_8bit"):  # left behind by transformers, for
        vars(model).pop(mark, None)  # packed weights: the first prevents that the model is saved
    text = f"{path} is stored quantised ({method}); its weights are dequantised to {_name(model.dtype)}"
    if settings.get("load_in_8bit"):
        text += ". Its inputs, which LLM.int8() rounds when it is served, are not; the attack llm_int8 rounds them"
    elif _rounds_inputs(settings):
        text += ". Its inputs, which are rounded when it is served, are not"
    progress.warn(text)
    return model.requires_grad_(True)


def _rounds_inputs(settings: Mapping[str, Any]) -> bool:
    """Whether a quantisation of 8-bit floats or of compressed-tensors rounds the inputs of linear maps too."""
    groups = settings.get("config_groups")
    scheduled = groups.values() if isinstance(groups, dict) else ()
    return bool(settings.get("activation_scheme")) or any(group.get("input_activations") for group in scheduled)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
