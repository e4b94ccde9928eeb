"""The store of finished steps, and what identifies code, machine and checkpoints."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from uwc import __version__, progress
from uwc.errors import ModelError, UserError, reporting_full_disk
from uwc.io import digest, file_digest, write_text
from uwc.results import Part, Settings
from uwc.studies.steps import Outcome, Step

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
        raise ModelError(f"{name!r} is neither a folder nor an available model on the hub: {reason}") from error


MANIFEST = "manifest.json"


class Manifest(Part):
    """The record of a finished step, besides its files."""

    key: str
    kind: str
    name: str
    settings: Settings
    inputs: dict[str, str]
    """Role -> key."""
    outcome: Outcome
    seconds: float
    files: dict[str, str]
    """Files of the model that it made -> SHA-256."""
    environment: dict[str, str]


class Store:
    """A folder of results of steps. A result is complete if and only if its folder has a manifest.

    Results are written under ``tmp/`` and renamed, under a lock that the system releases when its holder dies. A killed
    run leaves no incomplete result, and concurrent runs share their work.

    Args:
        root: the folder; created if missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for folder in (root, root / "tmp", root / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {root}: {error.strerror}; choose another folder with --output-dir"
            ) from error

    def folder(self, step: Step) -> Path:
        """The folder of the step's result."""
        return self.root / _short(step)

    def checkpoints(self, step: Step) -> Path:
        """The folder of training checkpoints, to resume a step; removed once the step is complete."""
        return self.root / "checkpoints" / _short(step)

    def manifest(self, step: Step) -> Manifest | None:
        """The step's manifest, or None if it is not complete."""
        try:
            text = (self.folder(step) / MANIFEST).read_text(encoding="utf-8")
            found = Manifest.model_validate_json(text)
        except (OSError, ValidationError):
            return None
        return found if found.key == step.key else None

    def outcome(self, step: Step) -> Outcome:
        """The outcome of a complete step; an empty outcome otherwise."""
        found = self.manifest(step)
        return Outcome() if found is None else found.outcome

    def remove(self, step: Step) -> None:
        """Remove what is kept of a step, its training's checkpoints too, so that it is computed again."""
        with self.lock(step):
            if self.folder(step).is_symlink():
                self.folder(step).unlink()
            for folder in (self.folder(step), self.checkpoints(step)):
                shutil.rmtree(folder, ignore_errors=True)

    def borrow(self, step: Step, other: "Store") -> None:
        """Link the complete result of another store into this one."""
        with self.lock(step):
            if self.manifest(step) is None:
                self.folder(step).symlink_to(other.folder(step).resolve(), target_is_directory=True)

    @contextmanager
    def lock(self, step: Step) -> Iterator[None]:
        """Hold the step's lock; waits, with a note, if another run holds it."""
        lock = FileLock(self.root / "locks" / f"{_short(step)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another run is working on '{step.name}'; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, step: Step) -> Iterator["Writing"]:
        """A temporary folder for the step's files, which is renamed to the result if a manifest was set.

        Call with the step's lock held. Raises DiskFull if no space is left.
        """
        temporary, final = self.root / "tmp" / _short(step), self.folder(step)
        with reporting_full_disk(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            writing = Writing(temporary)
            try:
                yield writing
                write_text(temporary / MANIFEST, writing.manifest.model_dump_json(indent=1) + "\n")
                shutil.rmtree(final, ignore_errors=True)  # an incomplete folder, if any
                os.replace(temporary, final)
                shutil.rmtree(self.checkpoints(step), ignore_errors=True)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise


class Writing:
    """A result that is being written: its folder, and the manifest that completes it."""

    manifest: Manifest

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def _short(step: Step) -> str:
    return f"{step.kind}-{step.key[:16]}"
