"""The store of finished steps, and what identifies code, machine and checkpoints."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import SoftFileLease, Timeout

from uwc import __version__, progress
from uwc.errors import ModelError, UserError, reporting_full_disk
from uwc.io import digest, file_digest, not_a_file, remove, write_text
from uwc.results import Part, Settings
from uwc.studies.steps import MODEL, Outcome, Step

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
    found |= _versions()
    found["platform"] = platform.platform()
    found["device"] = _device_name(device)
    if uses_cuda(device):
        from uwc.models.batching import memory_of  # heavy, and needed on a GPU alone

        chosen = torch.device(device if device.startswith("cuda:") else f"cuda:{torch.cuda.current_device()}")
        found["device memory"] = f"{memory_of(chosen) / 1e9:.2f} GB"
    found["threads"] = str(torch.get_num_threads())
    return found


@cache
def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "absent"
    return found


@cache
def code_fingerprint() -> str:
    """SHA-256 (hex) over the package's source files."""
    root = Path(__file__).parents[1]
    files = sorted(root.rglob("*.py"), key=lambda f: f.relative_to(root).as_posix())
    return digest({f.relative_to(root).as_posix(): file_digest(f) for f in files})


def uses_cuda(asked: str) -> bool:
    """Whether models are on a CUDA device; `asked` is the user's setting of the device."""
    import torch

    return (asked in ("auto", "cuda", "map") or asked.startswith("cuda:")) and torch.cuda.is_available()


def _device_name(asked: str) -> str:
    import torch

    if uses_cuda(asked):
        return torch.cuda.get_device_name(asked if asked.startswith("cuda:") else None)
    return "mps" if asked != "cpu" and torch.backends.mps.is_available() else "cpu"


BASE = "base:"
"""Prefix of the names of a base's files in an adapter's fingerprint."""


def checkpoint_fingerprint(
    path: str, *, with_base: bool = True, hashed: Callable[[Path], str] = file_digest
) -> dict[str, str]:
    """The identity of a checkpoint's content: hashes of the files that loading reads, or a hub revision.

    The files are weights, configurations, tokenizer, chat templates and Python code; for an adapter also those of the
    base that it names.

    Args:
        path: a folder or hub name.
        with_base: whether to include an adapter's base; not needed if the adapter is attached to another known model.
        hashed: gives the hash of a file of the folder.

    Raises:
        ModelError: the folder has no model, or two, or the hub has no such model.
    """
    from uwc.models.adapters import adapter_config, named_base  # heavy: only for checkpoints
    from uwc.models.checkpoint_files import files_read

    folder = Path(path)
    if os.path.exists(folder):
        found = {name: hashed(folder / name) for name in files_read(folder)}
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
        raise ModelError(
            f"{name!r} is neither a folder nor an available model on the hub: {reason}; correct the name, or "
            "download the model"
        ) from error


MANIFEST = "manifest.json"
LEASE = 180.0
"""Seconds after which a step's lock is taken from a run of another machine that no longer refreshes it."""


class FileRecord(Part):
    """A file of a step's result."""

    size: int
    """Bytes."""
    modified: int
    """Time of the last change, in nanoseconds since the epoch."""
    sha256: str


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
    peak_bytes: int | None = None
    """The most memory in use at once; None where the system does not say."""
    model: dict[str, str]
    """Files of the model that it made -> SHA-256, as `checkpoint_fingerprint` names them."""
    files: dict[str, FileRecord]
    """All files of the step's folder."""
    environment: dict[str, str]
    digest: str = ""
    """SHA-256 of everything else in the manifest."""

    def sealed(self) -> "Manifest":
        """The same with its digest."""
        return self.model_copy(update={"digest": self._digest()})

    def require_sealed(self) -> None:
        """Raise ValueError if the manifest was changed after it was sealed."""
        if self.digest != self._digest():
            raise ValueError("the manifest does not have the hash that it states")

    def _digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"digest"}))


def file_records(folder: Path) -> dict[str, FileRecord]:
    """The records of all files below a folder, by their relative names; the manifest is left out."""
    return {
        name: FileRecord(size=path.stat().st_size, modified=path.stat().st_mtime_ns, sha256=file_digest(path))
        for name, path in _files_below(folder).items()
    }


def changed_file(folder: Path, records: Mapping[str, FileRecord], *, content: Callable[[str], bool]) -> str:
    """The first file below a folder that differs from its record, and how; empty if there is none.

    Args:
        folder: the folder of a step's result.
        records: the files that it had when it was made.
        content: whether a file's content is compared too, and not only its size and time of change; it always is where
            the time of change differs.
    """
    found = _files_below(folder)
    if further := sorted(found.keys() - records.keys()):
        return f"{further[0]} does not belong to it"
    for name, record in records.items():
        if name not in found or found[name].is_symlink() or not found[name].is_file():
            return f"{name} is missing"
        stat = found[name].stat()
        if stat.st_size != record.size:
            return f"{name} has {stat.st_size} bytes, and had {record.size}"
        if (content(name) or stat.st_mtime_ns != record.modified) and file_digest(found[name]) != record.sha256:
            return f"the content of {name} has changed"
    return ""


def _files_below(folder: Path) -> dict[str, Path]:
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path for name, path in paths.items() if name != MANIFEST and (path.is_symlink() or not path.is_dir())}


class Store:
    """A folder of results of steps. A result is complete if and only if its folder has a manifest.

    Results are written under ``tmp/`` and renamed, under a lock. A killed run leaves no incomplete result, and
    concurrent runs share their work. A lock is a file that only one run can create, and that its holder refreshes: that
    of a process of this machine that has died is taken at once, that of another machine once it was not refreshed for
    `LEASE` seconds of the waiting process's own monotonic clock. So no two clocks are compared, and nothing depends on
    locks of the system, which some file systems keep to one machine. A result is used again only if its files are
    those that were written: sizes and times of change are compared, and contents once, those of models where `verify`
    is called. Anything else is a missing result, with a warning, and is computed again.

    Args:
        root: the folder; created if missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._complete: dict[str, Manifest] = {}
        self._verified: set[str] = set()
        self._damaged: set[str] = set()
        self._borrowed: dict[str, Store] = {}
        try:
            for folder in (root, root / "tmp", root / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to {root}: {error.strerror}; choose another folder with --output-dir"
            ) from error

    def folder(self, step: Step) -> Path:
        """The folder of the step's result."""
        lender = self._borrowed.get(step.key)
        return self.root / _short(step) if lender is None else lender.folder(step)

    def checkpoints(self, step: Step) -> Path:
        """The folder of training checkpoints, to resume a step; removed once the step is complete."""
        return self.root / "checkpoints" / _short(step)

    def manifest(self, step: Step) -> Manifest | None:
        """The step's manifest, or None if its result is not complete, or not as it was written."""
        if (lender := self._borrowed.get(step.key)) is not None:
            return lender.manifest(step)
        if step.key not in self._complete and (found := self._read(step)) is not None:
            self._complete[step.key] = found
        return self._complete.get(step.key)

    def _read(self, step: Step) -> Manifest | None:
        folder = self.folder(step)
        if not folder.exists():
            return None
        try:
            if (folder / MANIFEST).is_symlink() or not_a_file(folder / MANIFEST):  # reading a pipe may never end
                raise FileNotFoundError
            found = Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
            found.require_sealed()
        except (OSError, ValueError):
            self._warn_of_damage(step, f"{MANIFEST} is missing or damaged")
            return None
        if found.key != step.key:
            changed = f"{MANIFEST} belongs to another step"
        else:
            changed = changed_file(folder, found.files, content=lambda name: not name.startswith(f"{MODEL}/"))
        if changed:
            self._warn_of_damage(step, changed)
        return None if changed else found

    def _warn_of_damage(self, step: Step, changed: str) -> None:
        if step.key not in self._damaged:
            self._damaged.add(step.key)
            progress.warn(f"the stored result of '{step.name}' is computed again: {changed} ({self.folder(step)})")

    def verify(self, step: Step) -> bool:
        """Compare the content of a complete result's model, too, once; returns whether it is as it was written."""
        found = self.manifest(step)
        if found is not None and step.key not in self._verified:
            if changed := changed_file(self.folder(step), found.files, content=lambda _: True):
                self._warn_of_damage(step, changed)
                self.remove(step)
                return False
            self._verified.add(step.key)
        return found is not None

    def outcome(self, step: Step) -> Outcome:
        """The outcome of a complete step; an empty outcome otherwise."""
        found = self.manifest(step)
        return Outcome() if found is None else found.outcome

    def remove_leftovers(self, step: Step) -> None:
        """Remove checkpoints of a complete step, which a run that was killed just after it has left."""
        if self.checkpoints(step).exists() and self.manifest(step) is not None:
            with self.lock(step):
                remove(self.checkpoints(step))

    def remove(self, step: Step) -> None:
        """Remove what is kept of a step, its training's checkpoints too, so that it is computed again."""
        self._borrowed.pop(step.key, None)
        self._complete.pop(step.key, None)
        with self.lock(step):
            for folder in (self.folder(step), self.checkpoints(step)):
                remove(folder)

    def borrow(self, step: Step, other: "Store") -> None:
        """Read the result of a step from another store where it is not complete in this one."""
        if self.manifest(step) is None:
            self._borrowed[step.key] = other

    def refresh(self) -> None:
        """Ask the file system again which results there are: that of a network may remember for a minute."""
        with suppress(OSError):
            os.listdir(self.root)

    @contextmanager
    def lock(self, step: Step) -> Iterator[SoftFileLease]:
        """Hold the step's lock; waits, with a note, if another run holds it."""
        lock = SoftFileLease(self.root / "locks" / f"{_short(step)}.lease", lease_duration=LEASE)
        try:
            lock.acquire(timeout=0.2)  # long enough to take that of a process that has died
        except Timeout:
            progress.note(f"another run computes '{step.name}'; waiting for it")
            lock.acquire(poll_interval=0.5)
        try:
            yield lock
        finally:
            lock.release()

    @contextmanager
    def writing(self, step: Step, lock: SoftFileLease) -> Iterator["Writing"]:
        """A temporary folder for the step's files, which is renamed to the result if a manifest was set.

        Args:
            step: the step.
            lock: its lock, which is held.

        Raises:
            DiskFull: no space is left.
            UserError: another run has taken the lock.
        """
        final = self.folder(step)
        temporary = self.root / "tmp" / f"{_short(step)}-{lock.token}"
        with reporting_full_disk(temporary):
            for left in temporary.parent.glob(f"{_short(step)}*"):  # of runs that were killed
                remove(left)
            try:
                temporary.mkdir()
                writing = Writing(temporary)
                yield writing
                self._require_held(step, lock)
                write_text(temporary / MANIFEST, writing.manifest.sealed().model_dump_json(indent=1) + "\n")
                remove(final)  # a damaged result, if any
                os.replace(temporary, final)
                remove(self.checkpoints(step))
            except BaseException as error:
                shutil.rmtree(temporary, ignore_errors=True)
                if isinstance(error, FileNotFoundError):  # another run has removed the folder
                    self._require_held(step, lock)
                raise

    def _require_held(self, step: Step, lock: SoftFileLease) -> None:
        if lock.owner is None or lock.owner.token != lock.token:
            raise UserError(
                f"another run has taken over '{step.name}', as this one did not refresh its lock for "
                f"{LEASE:.0f} s (suspended, or cut off from the store); run the study again to use the results of the "
                "other"
            )


class Writing:
    """A result that is being written: its folder, and the manifest that completes it."""

    manifest: Manifest

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def _short(step: Step) -> str:
    return f"{step.kind}-{step.key[:16]}"
