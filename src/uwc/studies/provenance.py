"""Where a number came from: versions, machine and device."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from uwc import __version__
from uwc.errors import ModelError

LIBRARIES = (
    "torch", "transformers", "tokenizers", "accelerate", "numpy", "scipy", "safetensors", "datasets", "lm_eval",
)  # fmt: skip


def environment(*, device: str = "auto") -> dict[str, str]:
    """Versions of everything that can move a number, and the machine; `device` is what the user asked for."""
    import torch

    found = {"uwc": __version__, "code": code_fingerprint()[:16], "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    found["platform"] = platform.platform()
    found["device"] = _device_name(device)
    found["threads"] = str(torch.get_num_threads())
    return found


@cache
def code_fingerprint() -> str:
    """SHA-256 (hex) over the package's source files: two builds of one version number can differ."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"), key=lambda f: f.relative_to(root).as_posix())
    return digest({f.relative_to(root).as_posix(): file_digest(f) for f in files})


def _device_name(asked: str) -> str:
    import torch

    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if asked != "cpu" and torch.backends.mps.is_available() else "cpu"


def digest(value: Any) -> str:
    """SHA-256 (hex) of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


_CONTENT = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Endings of the files of a checkpoint that say what it computes, besides Python code: weights, settings, tokenizer."""


def checkpoint_fingerprint(path: str) -> dict[str, str]:
    """What identifies a checkpoint's content: hashes of its files, its Python code among them, or a hub revision.

    Raises:
        ModelError: the folder holds no model, or the hub does not know the name.
    """
    folder = Path(path)
    if folder.is_dir():
        code = [f for f in folder.rglob("*.py") if not any(p.startswith(".") for p in f.relative_to(folder).parts)]
        parts = [*sorted(f for f in folder.iterdir() if f.suffix in _CONTENT), *sorted(code)]
        if not any(f.suffix == ".safetensors" for f in parts):
            raise ModelError(f"{path}: the folder holds no .safetensors file; uwc reads weights in this format only")
        return {f.relative_to(folder).as_posix(): file_digest(f) for f in parts}
    if folder.exists():
        raise ModelError(f"{path}: not a folder; give the folder that holds config.json and the weights")
    return {"hub": path, "revision": _hub_revision(path)}


def _hub_revision(name: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return str(HfApi().model_info(name, timeout=20).sha)
    except Exception as error:  # offline, gated, unknown: each a class of its own
        if not isinstance(error, HFValidationError):  # else no name of the hub, but a path to nowhere
            cached = try_to_load_from_cache(name, "config.json")
            if isinstance(cached, str | os.PathLike):
                return Path(cached).parent.name
        reason = str(error).strip().split("\n")[0][:160]
        raise ModelError(f"{name!r} is neither a folder nor a model that the hub gives us: {reason}") from error


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy as JSON would give it back: tuples as lists, keys as strings."""
    copied: dict[str, Any] = json.loads(json.dumps(value))
    return copied
