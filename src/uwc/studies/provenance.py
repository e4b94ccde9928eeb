"""The environment of a computation, and fingerprints of code and checkpoints."""

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from uwc import __version__
from uwc.errors import ModelError
from uwc.io import digest, file_digest

LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "numpy",
    "scipy",
    "safetensors",
    "datasets",
    "lm_eval",
)


def environment(*, device: str = "auto") -> dict[str, str]:
    """Versions of everything that may affect numbers, and the machine; `device` is the user's setting."""
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
    """SHA-256 (hex) over the package's source files."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"), key=lambda f: f.relative_to(root).as_posix())
    return digest({f.relative_to(root).as_posix(): file_digest(f) for f in files})


def _device_name(asked: str) -> str:
    import torch

    if asked in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "mps" if asked != "cpu" and torch.backends.mps.is_available() else "cpu"


BASE = "base:"
"""Prefix of the names of a base's files in an adapter's fingerprint."""


def checkpoint_fingerprint(path: str, *, with_base: bool = True) -> dict[str, str]:
    """The identity of a checkpoint's content: hashes of the files that loading reads, or a hub revision.

    The files are weights, configurations, tokenizer, chat templates and Python code; for an adapter also those of the
    base that it names.

    Args:
        path: a folder or hub name.
        with_base: whether to include an adapter's base; not needed if the adapter is attached to another known model.

    Raises:
        ModelError: the folder has no model, or two, or the hub has no such model.
    """
    from uwc.models.adapters import adapter_config, named_base  # heavy: only for checkpoints
    from uwc.models.checkpoint_files import files_read

    folder = Path(path)
    if folder.exists():
        found = {name: file_digest(folder / name) for name in files_read(folder)}
    else:
        found = {"hub": path, "revision": _hub_revision(path)}
    if with_base and (adapter := adapter_config(path)) is not None:
        base = checkpoint_fingerprint(named_base(path, adapter), with_base=False)
        found |= {f"{BASE}{name}": value for name, value in base.items()}
    return found


def _hub_revision(name: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return str(HfApi().model_info(name, timeout=20).sha)
    except Exception as error:  # offline, gated, unknown: each has its own class
        if not isinstance(error, HFValidationError):  # otherwise a path that does not exist
            for file in ("config.json", "adapter_config.json"):
                cached = try_to_load_from_cache(name, file)
                if isinstance(cached, str | os.PathLike):
                    return Path(cached).parent.name
        reason = str(error).strip().split("\n")[0][:160]
        raise ModelError(f"{name!r} is neither a folder nor a model that the hub gives us: {reason}") from error
