"""A checkpoint's weights as files: listed from their headers, and read one tensor at a time, memory-mapped."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers.utils import cached_file

from uwc.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def plain_name(name: str) -> str:
    """The tensor's name without what wrappers add: a leading ``module.``, and ``_orig_mod.`` anywhere."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def local_file(path: str | Path, file: str) -> Path | None:
    """A checkpoint's file on this machine, fetched if the path is a hub name; None if the checkpoint has no such file.

    Raises:
        ModelError: there is no such checkpoint.
    """
    try:
        found = cached_file(
            str(path), file, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
        )  # fmt: skip
    except OSError as error:
        raise ModelError(f"{path}: there is no such folder, and the hub did not give a model of that name") from error
    return None if found is None else Path(found)


def open_safetensors(file: Path) -> Any:
    """The open file, its header read. Raises ModelError if it is damaged."""
    try:
        return safe_open(str(file), framework="pt", device="cpu")
    except Exception as error:  # safetensors raises a class of its own
        raise ModelError(f"{file}: damaged ({error}); fetch or save the model again") from error


@dataclass(frozen=True)
class _Place:
    file: str
    key: str
    shape: tuple[int, ...]


class WeightFiles:
    """The safetensors of one checkpoint, in one file or sharded. Tensors are known by their plain names.

    Args:
        path: a folder, or a hub name whose files are fetched.

    Attributes:
        shapes: tensor -> its shape.
        files: file -> the tensors in it, in their order.

    Raises:
        ModelError: there are no safetensors, a shard is missing or damaged, or two tensors have one plain name.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._handles: dict[str, Any] = {}
        self._places: dict[str, _Place] = {}
        for file in self._file_names():
            self._list(file)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: p.shape for name, p in self._places.items()}
        self.files: Mapping[str, list[str]] = {
            f: [n for n, p in self._places.items() if p.file == f] for f in self._handles
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU; its bytes are read from the file as they are used."""
        place = self._places[name]
        tensor: Tensor = self._handles[place.file].get_tensor(place.key)
        return tensor

    def _file_names(self) -> list[str]:
        index = local_file(self.path, INDEX)
        if index is None:
            if local_file(self.path, SINGLE) is None:
                raise ModelError(f"{self.path}: no {SINGLE} and no {INDEX}; uwc reads weights in this format only")
            return [SINGLE]
        try:
            shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError) as error:
            raise ModelError(f"{index}: not an index of shards ({error}); save the model again") from error
        return sorted(set(shards.values()))

    def _list(self, file: str) -> None:
        local = local_file(self.path, file)
        if local is None:
            raise ModelError(f"{self.path}: the shard {file} is missing; fetch or save the model again")
        handle = self._handles[file] = open_safetensors(local)
        for key in list(handle.keys()):
            name = plain_name(key)
            if name in self._places:
                raise ModelError(
                    f"{self.path}: {self._places[name].key!r} and {key!r} are both {name!r} without what wrappers "
                    "add; keep one of them"
                )
            self._places[name] = _Place(file, key, tuple(handle.get_slice(key).get_shape()))
