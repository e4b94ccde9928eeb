"""Atomic files and folders, digests, and data that JSON can hold."""

import glob
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import Field
from pathlib import Path
from typing import Any

from uwc.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file beside it, which is synced and renamed.

    Temporary files that killed processes left are removed once they are a minute old.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        with suppress(OSError):
            if left.suffix[1:].isdecimal() and time.time() - left.stat().st_mtime > 60:
                left.unlink()
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


PARTIAL = ".partial"
"""The folder in which the files of another folder are written until all are complete."""


@contextmanager
def written_whole(folder: Path, *, names: Iterable[str], replaces: Iterable[str] = ()) -> Iterator[Path]:
    """A hidden folder within `folder`, whose files are moved up once all are written; on an error it is removed.

    Of the files in `names`, without which nothing in the folder is read, the old ones are removed before any other
    file is changed, and the new ones are moved last: at every moment the folder has the old files, the new ones, or
    none that is read. If the move itself is interrupted, the hidden folder stays until the next write.

    Args:
        folder: the folder.
        names: files that say what the others are, such as a model's configuration.
        replaces: patterns of older files and folders in it, which are removed once the new ones are written.

    Yields:
        The hidden folder; what a killed process left of it was removed.
    """
    hidden, first = folder / PARTIAL, tuple(names)
    remove(hidden)
    try:
        hidden.mkdir(parents=True)
        yield hidden
        written = sorted(hidden.iterdir(), key=lambda path: path.name in first)
    except BaseException:
        remove(hidden)
        raise
    for name in first:
        remove(folder / name)
    for old in [path for pattern in replaces for path in folder.glob(pattern)]:
        remove(old)
    for path in written:
        remove(folder / path.name)
        os.replace(path, folder / path.name)
    remove(hidden)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """The path with a user's home folder for ``~``; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def not_a_file(path: Path) -> str:
    """Why a path is not a file that can be read; empty if it is one. Pipes and devices may never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return (
            f"this is a link to {os.readlink(path)}, which does not exist"
            if path.is_symlink()
            else "there is no such file"
        )
    except (OSError, ValueError) as error:  # too long, a NUL, links in a circle, no permission
        return f"the file cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "this is a folder; name a file in it"
    return "" if stat.S_ISREG(mode) else "this is a pipe or a device; save its content to a file"


def require_writable(folder: Path, *files: str) -> None:
    """Make a folder, and raise UserError if the files cannot be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from None
    for name in files:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, and the file of that name cannot be written; remove it")


def write_json(path: Path, value: Any) -> None:
    """Write plain data as JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


NOT_IN_KEY: Mapping[str, bool] = {"key": False}
"""Metadata of a field that a step uses only in messages, or to locate a file whose content is in its key."""
IF_GIVEN: Mapping[str, str] = {"key": "if given"}
"""Metadata of a field that is in the key of a step only where it is not empty, so that older keys stay."""


def in_key(of: Field[Any], value: Any) -> bool:
    """Whether a field of a dataclass with this value is in the key of a step."""
    rule = of.metadata.get("key", True)
    return bool(value) if rule == IF_GIVEN["key"] else bool(rule)


def digest(value: Any) -> str:
    """SHA-256 (hex) of plain data, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy as JSON would give it back: tuples as lists, keys as strings."""
    copied: dict[str, Any] = json.loads(json.dumps(value))
    return copied


def finite(value: Any) -> Any:
    """Plain data with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
