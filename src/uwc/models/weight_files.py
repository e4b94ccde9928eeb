"""A checkpoint's safetensors files: tensors are listed from the headers, and read one at a time, memory-mapped."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from uwc.errors import ModelError
from uwc.models.checkpoint_files import contents, local_file

_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def plain_name(name: str) -> str:
    """The tensor's name without the prefixes of wrappers: a leading ``module.``, and ``_orig_mod.`` anywhere."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def open_safetensors(file: Path) -> Any:
    """Open a file and read its header. Raises ModelError if it is damaged."""
    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except Exception as error:  # safetensors raises a class of its own
        raise ModelError(f"{file}: damaged ({error}); fetch or save the model again") from error


@dataclass(frozen=True)
class _Place:
    file: str
    key: str
    shape: tuple[int, ...]
    dtype: str


class WeightFiles:
    """The safetensors files of a checkpoint that are read (see `contents`). Tensors are accessed by their plain names.

    Args:
        path: a folder, or a hub name; its files are fetched.

    Attributes:
        shapes: tensor -> its shape.
        dtypes: tensor -> its safetensors type: ``"F32"``, ``"BF16"``, ``"I8"``, ``"F8_E4M3"``.
        files: file -> its tensors, in order.
        index: the file that lists the shards, if there are several.

    Raises:
        ModelError: there are no whole weights, a shard is missing or damaged, two tensors have one plain name, or two
            shards have different values for one tensor.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._handles: dict[str, Any] = {}
        self._places: dict[str, _Place] = {}
        found = contents(path)
        if found.kind != "model":
            raise ModelError(f"{path}: an {found.kind} has no whole weights of its own; give a whole model")
        self.index = found.index
        for file in found.weights:
            self._list(file)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: p.shape for name, p in self._places.items()}
        self.dtypes: Mapping[str, str] = {name: p.dtype for name, p in self._places.items()}
        self.files: Mapping[str, list[str]] = {
            f: [n for n, p in self._places.items() if p.file == f] for f in self._handles
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, memory-mapped."""
        place = self._places[name]
        tensor: Tensor = self._handles[place.file].get_tensor(place.key)
        return tensor

    def key(self, name: str) -> str:
        """The tensor's name in the file, with prefixes of wrappers."""
        return self._places[name].key

    def _list(self, file: str) -> None:
        local = local_file(self.path, file)
        if local is None:
            raise ModelError(f"{self.path}: the shard {file} is missing; fetch or save the model again")
        handle = self._handles[file] = open_safetensors(local)
        for key in list(handle.keys()):
            name, stored = plain_name(key), handle.get_slice(key)
            place = _Place(file, key, tuple(stored.get_shape()), stored.get_dtype())
            other = self._places.get(name)
            if other is None:
                self._places[name] = place
            elif other.key != key:
                raise ModelError(
                    f"{self.path}: {other.key!r} and {key!r} are both {name!r} without what wrappers add; keep one of "
                    "them"
                )
            elif replace(place, file=other.file) != other or not torch.equal(self.read(name), handle.get_tensor(key)):
                raise ModelError(
                    f"{self.path}: {other.file} and {file} have different values for {key!r}; fetch or save the model "
                    "again"
                )
