"""Loading and saving models and tokenizers, with errors a user can act on."""

import os
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from uwc.data.prompts import PromptTemplate
from uwc.errors import ModelError, reporting_full_disk
from uwc.models.contrast import FILE as CONTRAST_FILE
from uwc.models.contrast import load_contrast
from uwc.models.streaming import fill
from uwc.models.target import Target
from uwc.models.weight_files import WeightFiles

Dtype = Literal["float32", "bfloat16", "float16"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
DEVICES: tuple[DeviceName, ...] = ("cuda", "mps", "cpu")

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The device to compute on; "auto" takes CUDA, then MPS, then the CPU. Started by a launcher, each process takes
    the GPU that it was given.

    Raises:
        ModelError: the device asked for is not there.
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
    require_whole: bool = True,
    tokenizer_of: str | None = None,
) -> Target:
    """Load any causal language model that transformers knows, from a folder or the hub.

    Names that wrappers lengthened (``module.``, ``_orig_mod.``) are read as the model's own.

    Args:
        path: a folder, or a hub name such as ``"meta-llama/Llama-3.2-1B-Instruct"``.
        dtype: the precision of the weights in memory.
        device: where to compute.
        template: how questions are put to it; the default uses the tokenizer's chat template where there is one.
        trust_remote_code: run Python code that comes with the checkpoint.
        name: what messages call it; the folder's or hub's name by default.
        require_whole: refuse a checkpoint that lacks weights of the model, which transformers would make up.
        tokenizer_of: the checkpoint whose tokenizer is taken if this one has none that can be read.

    Raises:
        ModelError: there is no such model, it has no safetensors weights, or it needs remote code.
    """
    where = str(path)
    tokenizer = _tokenizer(where, tokenizer_of, trust_remote_code)
    try:
        load = partial(
            AutoModelForCausalLM.from_pretrained, dtype=getattr(torch, dtype), use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        if (Path(where) / CONTRAST_FILE).exists():
            model, lacking = load_contrast(Path(where), load), []
        else:
            model, report = load(where, output_loading_info=True)
            lacking = sorted(report["missing_keys"])
    except Exception as error:  # transformers, the hub and safetensors raise many kinds
        raise ModelError(loading_failed(where, error)) from error
    if lacking and require_whole and (lacking := fill(model, WeightFiles(where))):
        raise ModelError(
            f"cannot load the model {where!r}: its files have no tensor {lacking[0]!r}"
            + (f", nor {len(lacking) - 1} others" if len(lacking) > 1 else "")
            + "; save the whole model again, under the names that transformers gives its weights"
        )
    model.to(pick_device(device)).eval()
    return Target(model, tokenizer, template or PromptTemplate(), name or Path(where).name)


def _tokenizer(where: str, other: str | None, trust_remote_code: bool) -> Any:
    """The checkpoint's tokenizer; that of another one where it has none."""
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
    except Exception as error:  # a folder without a tokenizer: transformers raises many kinds
        if other is None or other == where:
            raise ModelError(loading_failed(where, error, what="tokenizer of the model")) from error
        return _tokenizer(other, None, trust_remote_code)


def depth_of(path: str | Path, *, trust_remote_code: bool = False) -> int:
    """How many transformer blocks a model has, from its configuration alone. Raises ModelError if there is no model."""
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=trust_remote_code)
        return int(config.get_text_config().num_hidden_layers)
    except Exception as error:  # transformers and the hub raise many kinds
        raise ModelError(loading_failed(str(path), error)) from error


def loading_failed(where: str, error: Exception, *, what: str = "model") -> str:
    """One line that says why a model cannot be loaded."""
    reason = str(error).strip().split("\n")[0][:200]
    if "trust_remote_code" in str(error):
        reason = "it needs Python code of its own; pass --trust-remote-code if you trust its author"
    elif Path(where).is_dir() and not list(Path(where).glob("*.safetensors")):
        reason = "the folder holds no .safetensors file; uwc reads weights in this format only"
    elif not Path(where).exists():
        reason = f"there is no such folder, and the hub did not give a model of that name ({reason})"
    elif what != "model":
        reason = f"put tokenizer.json and tokenizer_config.json into the folder ({reason.rstrip(':')})"
    return f"cannot load the {what} {where!r}: {reason}"


def save_target(target: Target, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer so that plain transformers loads them.

    Raises:
        DiskFull: no space was left.
    """
    with reporting_full_disk(folder):
        target.model.save_pretrained(folder)
        target.tokenizer.save_pretrained(folder)


def parameter_count(model: Any) -> int:
    """The number of distinct parameters; tied weights count once."""
    return sum(p.numel() for p in model.parameters())
