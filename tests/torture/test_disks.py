"""Full disks, limits of file sizes, and folders that cannot be written to."""

import ctypes
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.pipeline.conftest import Started, run_command
from tests.torture.conftest import WHOLE, Tried
from tests.torture.trials import (
    COMMANDS,
    Place,
    finish,
    hidden,
    limited,
    numbers_in,
    require_one_line,
    seeded,
    share,
)

TARGETS = {"study": "runs", "compare": "out", "calibrate": "out", "unlearn": "out", "score": "out"}
"""Command -> the folder that it writes to."""
KEPT = ("checkpoints", ".chunks")
"""Ends of the names of folders of what a rerun continues from."""
ONE_LINE = "one line that names the folder, nothing half written; with room again, the same bits"


def mount(folder: Path, *options: str) -> bool:
    return not subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], check=False,
                              capture_output=True).returncode  # fmt: skip


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of that many bytes."""
    folder.mkdir()
    if os.geteuid() != 0 or not shutil.which("mount") or not mount(folder, f"size={size}"):
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_kept(path: Path) -> bool:
    """Whether a rerun may continue from the file."""
    return any(part.endswith(KEPT) for part in path.parts)


def require_nothing_partial(place: Place, command: str, folder: Path, case: str) -> None:
    """Every file of numbers that is there is as in the undisturbed run."""
    expected = numbers_in(place.finished[command])
    wrong = [n for n, h in numbers_in(folder).items() if expected.get(n) != h and not is_kept(Path(n))]
    assert not wrong, f"{case}: {wrong}"
    left = [path for path in hidden(folder) if not is_kept(path)]
    assert not left, f"{case}: {left}"


@pytest.mark.parametrize("command", TARGETS)
@pytest.mark.parametrize(("first", "count"), share(12, of=6))
def test_a_full_disk(command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried(f"full disk under {command}", count, ONE_LINE)
    target = TARGETS[command]
    for number in range(count):
        sizes, case = seeded(f"disk of {command}", first, number)
        folder = place.new(tmp_path / str(number))
        size = int(sizes.uniform(0.02, 1.1) * size_of(place.finished[command] / target)) // 4096 * 4096 + 4096
        with small_disk(folder / target, size):
            done = finish(Started(*COMMANDS[command], cwd=folder))
            case = f"{case}, {size} bytes"
            if done.returncode:
                require_one_line(done, "no space left on the device", case)
                assert target in done.stderr, f"{case}: {done.stderr}"
                require_nothing_partial(place, command, folder, case)
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder / target)], check=True)
            place.require_same(command, folder, case)
        shutil.rmtree(folder)


@pytest.mark.parametrize("command", TARGETS)
@pytest.mark.parametrize(("first", "count"), share(6, sample=0, of=6))
def test_a_limit_of_file_sizes(
    command: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried
) -> None:
    tried("limits of file sizes", count, ONE_LINE)
    for number in range(count):
        sizes, case = seeded(f"limit of {command}", first, number)
        folder = place.new(tmp_path / str(number))
        limit = int(2 ** sizes.uniform(11, 18))
        before = partial(limited, resource.RLIMIT_FSIZE, limit, added=False)
        done = finish(Started(*COMMANDS[command], cwd=folder, before=before))
        case = f"{case}, {limit} bytes"
        if done.returncode:
            require_one_line(done, "a file was too large", case)
            require_nothing_partial(place, command, folder, case)
        place.require_same(command, folder, case)
        shutil.rmtree(folder)


def drop_rights() -> None:
    """Keep to the permissions of files, as every user but root does."""
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)  # version 3 of capset, this process
    assert ctypes.CDLL(None).capset(header, none) == 0


@contextmanager
def without_rights(folders: list[Path]) -> Iterator[None]:
    """Within, nothing in the folders can be changed."""
    paths = [path for folder in folders for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("command", TARGETS)
@pytest.mark.parametrize("where", ["mount", "target, finished", *(["target", "parent"] if WHOLE else [])])
def test_a_folder_that_cannot_be_written(command: str, where: str, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("folders that cannot be written to", 1, "one line before any work")
    folder = place.new(tmp_path / "place")
    target = folder / TARGETS[command]
    if where == "mount":
        with small_disk(target, 1 << 20):
            subprocess.run(["mount", "-o", "remount,ro", str(target)], check=True)
            done = finish(Started(*COMMANDS[command], cwd=folder))
    else:
        if where == "target, finished":
            shutil.copytree(place.finished[command] / TARGETS[command], target)
        elif where == "target":
            target.mkdir()
        with without_rights([folder]):
            done = finish(Started(*COMMANDS[command], cwd=folder, before=drop_rights))
    assert done.returncode == 1 and not done.stdout, done
    refusal = "holds a model" if "holds a model" in done.stderr else "cannot write to"
    require_one_line(done, refusal, f"{command}, {where}")
    assert "done  " not in done.stderr, done.stderr


def test_a_plan_of_a_store_that_cannot_be_written(place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("plans of a store that cannot be written to", 1, "the plan")
    folder = place.copied("study", tmp_path / "place")
    with without_rights([folder]):
        done = run_command("study", "plan", "small.yaml", cwd=folder, before=drop_rights)
    assert done.returncode == 0 and "missing" not in done.stdout, done
