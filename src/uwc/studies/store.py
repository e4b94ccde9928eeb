"""Where finished steps are kept: one folder each, named by a hash of all that can change its numbers."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from uwc import progress
from uwc.errors import UserError, reporting_full_disk
from uwc.io import write_json

MANIFEST = "manifest.json"


class Store:
    """A folder of artifacts. An artifact is complete if and only if its folder holds a manifest.

    An artifact is written beside (under ``tmp/``) and renamed, under a lock that the system releases when its holder
    dies; so a killed run leaves nothing half-made in place, and two runs at once share their work.

    Args:
        root: the folder; made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for folder in (root, root / "tmp", root / "locks"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {root}: {error.strerror}; choose another folder with --runs") from error

    def folder(self, kind: str, key: str) -> Path:
        """Where the artifact of that kind and key is, or would be."""
        return self.root / f"{kind}-{key[:16]}"

    def checkpoints(self, kind: str, key: str) -> Path:
        """Where the training of an artifact keeps what it needs to go on; removed once the artifact is complete."""
        return self.root / "checkpoints" / f"{kind}-{key[:16]}"

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """The artifact's manifest, or None where it is not complete."""
        try:
            found: dict[str, Any] = json.loads((self.folder(kind, key) / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("key") == key else None

    def borrow(self, kind: str, key: str, other: "Store") -> None:
        """Make another store's complete artifact one of this store's, by a link to its folder."""
        with self.lock(kind, key, name=kind):
            if self.manifest(kind, key) is None:
                self.folder(kind, key).symlink_to(other.folder(kind, key).resolve(), target_is_directory=True)

    @contextmanager
    def lock(self, kind: str, key: str, *, name: str) -> Iterator[None]:
        """Hold the step's lock; says so if another run holds it, and waits."""
        lock = FileLock(self.root / "locks" / f"{kind}-{key[:16]}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another run is working on '{name}'; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self, kind: str, key: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """A temporary folder and a manifest to fill; on success both become the artifact, at once.

        Call with the step's lock held. Raises DiskFull if there is no space left.
        """
        temporary, final = self.root / "tmp" / f"{kind}-{key[:16]}", self.folder(kind, key)
        manifest: dict[str, Any] = {"key": key, "kind": kind}
        with reporting_full_disk(temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            try:
                yield temporary, manifest
                write_json(temporary / MANIFEST, manifest)
                shutil.rmtree(final, ignore_errors=True)  # an incomplete folder, if any
                os.replace(temporary, final)
                shutil.rmtree(self.checkpoints(kind, key), ignore_errors=True)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
