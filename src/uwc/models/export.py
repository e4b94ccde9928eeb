"""Saving a mixture as a checkpoint: shard by shard, with the file layout of the original."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from uwc.errors import ModelError, reporting_full_disk
from uwc.models.adapters import AdapterMixer, save_scaled
from uwc.models.checkpoint_files import ADAPTER, ADAPTER_WEIGHTS, CONTRAST, INDEX, SINGLE
from uwc.models.loading import require_none_of, save_target
from uwc.models.mixing import Mixing, mix_tensor
from uwc.models.streaming import StreamedMixer


def require_free(mixing: Mixing, folder: Path) -> None:
    """Raise ModelError if the folder has weights that saving the mixture would not replace, or is one of the two
    models."""
    expected = {SINGLE}
    if isinstance(mixing, StreamedMixer):
        sources = [mixing.original.path, mixing.unlearned.path]
        expected = set(_file_names(mixing).values())
    else:
        sources = [str(mixing.path)] if isinstance(mixing, AdapterMixer) else []
        expected = {ADAPTER_WEIGHTS} if isinstance(mixing, AdapterMixer) else expected
    if any(Path(source).resolve() == folder.resolve() for source in sources):
        raise ModelError(f"--save {folder}: this is one of the models that are mixed; give another folder")
    foreign = sorted(f.name for f in folder.glob("*.safetensors") if f.name not in expected)
    if foreign:
        raise ModelError(f"--save {folder}: it holds other weights ({foreign[0]}); give an empty folder")
    require_none_of(folder, CONTRAST, *((INDEX,) if isinstance(mixing, AdapterMixer) else (ADAPTER,)))


def _file_names(mixing: StreamedMixer) -> dict[str, str]:
    """The original's file -> the mixture's, such that transformers reads it."""
    files = mixing.original.files
    return dict.fromkeys(files, SINGLE) if mixing.original.index is None else {f: f.replace("/", "-") for f in files}


def save_mixture(mixing: Mixing, alpha: float, folder: Path) -> None:
    """Write the mixture: the original's shards, configuration and tokenizer with mixed weights; or a scaled adapter.

    Args:
        mixing: the mixer, set to `alpha`.
        alpha: the mixture.
        folder: the folder to write to; see `require_free`.

    Raises:
        DiskFull: no space is left.
    """
    with reporting_full_disk(folder):
        if isinstance(mixing, StreamedMixer):
            folder.mkdir(parents=True, exist_ok=True)
            _save_streamed(mixing, alpha, folder)
        elif isinstance(mixing, AdapterMixer):
            save_scaled(mixing.path, folder, alpha)
            mixing.original.tokenizer.save_pretrained(folder)
        else:
            save_target(mixing.mix(alpha), folder)


@torch.no_grad()
def _save_streamed(mixing: StreamedMixer, alpha: float, folder: Path) -> None:
    for old in (folder / SINGLE, folder / INDEX):
        old.unlink(missing_ok=True)
    where: dict[str, str] = {}
    size = 0
    dtypes: dict[torch.dtype, int] = {}
    files = _file_names(mixing)
    for number, (source, file) in enumerate(files.items(), start=1):
        shard = {name: _stored(mixing, name, alpha) for name in mixing.original.files[source]}
        if number == len(files):
            shard |= {name: _mixed(mixing, name, alpha) for name in _untied(mixing)}
        save_file(_apart(shard), folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
        for tensor in shard.values():
            size += tensor.nbytes
            dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + tensor.numel()
    if set(files.values()) != {SINGLE}:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _save_beside(mixing, max(dtypes, key=lambda d: dtypes[d]), folder)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared memory, as there is if one of the models has tied embeddings."""
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.data_ptr(), name)
    return {name: t if first[t.data_ptr()] == name else t.clone() for name, t in tensors.items()}


def _stored(mixing: StreamedMixer, name: str, alpha: float) -> Tensor:
    """A tensor of the original's files, mixed, in the smallest type that holds both models'."""
    read_by = mixing.pairing.names.get(name)
    return mixing.original.read(name) if read_by is None else _mixed(mixing, read_by, alpha)


def _mixed(mixing: StreamedMixer, name: str, alpha: float) -> Tensor:
    """A tensor of the model."""
    ours, theirs = mixing.pairing.tensors[name]
    return mix_tensor(mixing.original.read(ours), mixing.unlearned.read(theirs), alpha).contiguous()


def _untied(mixing: StreamedMixer) -> list[str]:
    """The mixture's tensors that are not in the original's files: an embedding that is no longer tied."""
    return sorted(set(mixing.pairing.tensors) - set(mixing.pairing.names.values()))


def _save_beside(mixing: StreamedMixer, dtype: torch.dtype, folder: Path) -> None:
    """Write the original's configuration, with the type of the weights, and the tokenizer."""
    model, source = mixing.working.model, mixing.original.path
    config: Any = AutoConfig.from_pretrained(source, trust_remote_code=True) if _is_own(model) else None
    config = config or AutoConfig.from_pretrained(source)
    config.dtype = dtype
    if config.tie_word_embeddings and not model.config.tie_word_embeddings:
        config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = False
    config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.save_pretrained(folder)
    mixing.working.tokenizer.save_pretrained(folder)
    for code in Path(source).glob("*.py"):
        (folder / code.name).write_bytes(code.read_bytes())


def _is_own(model: Any) -> bool:
    """Whether the model's class came with the checkpoint, and was trusted when it was loaded."""
    return type(model).__module__.startswith("transformers_modules")
