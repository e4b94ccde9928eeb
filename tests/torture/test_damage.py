"""Files of a store that were damaged, exchanged, removed, added or replaced, and a rerun with --verify."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.pipeline.conftest import Started
from tests.torture.conftest import Tried
from tests.torture.trials import COMMANDS, Place, finish, require_bits, seeded, share, signal_at

Damage = Callable[[Path, random.Random], object]


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit, and keep the time of change."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def append(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 100)))


def exchange(path: Path, chance: random.Random) -> None:
    """Exchange it with a file of the same name, if there is one with another content, else with any."""
    store = next(parent for parent in path.parents if parent.name == "store")
    others = [p for p in sorted(store.glob("*-*/**/*")) if p.is_file() and p.read_bytes() != path.read_bytes()]
    other = chance.choice([p for p in others if p.name == path.name] or others)
    beside = path.with_name("beside")
    path.rename(beside)
    other.rename(path)
    beside.rename(other)


def link(path: Path, _: random.Random) -> None:
    """Replace it with a link to its content elsewhere."""
    elsewhere = next(parent for parent in path.parents if parent.name == "runs").parent / f"away-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def replaced_by(make: Callable[[Path], object], path: Path, _: random.Random) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Damage] = {
    "a flipped bit": flip,
    "a truncated file": truncate,
    "an appended file": append,
    "exchanged files": exchange,
    "a deleted file": lambda path, _: path.unlink(),
    "a link": link,
    "a link to nothing": partial(replaced_by, lambda path: path.symlink_to("nowhere")),
    "a folder": partial(replaced_by, lambda path: path.mkdir()),
    "a pipe": partial(replaced_by, os.mkfifo),
    "an empty file": partial(replaced_by, lambda path: path.touch()),
    "an added file": lambda path, _: path.with_name("further.json").write_text("{}"),
    "a deleted folder": lambda path, _: shutil.rmtree(path.parent),
}
FOLDERS: dict[str, Damage] = {
    "deleted": lambda path, _: shutil.rmtree(path),
    "a file": lambda path, _: (shutil.rmtree(path), path.write_text("x")),
    "a link to nothing": lambda path, _: (shutil.rmtree(path), path.symlink_to("nowhere")),
    "exchanged": lambda path, chance: exchange_folders(path, chance),
}


def exchange_folders(path: Path, chance: random.Random) -> None:
    other = chance.choice([p for p in sorted(path.parent.glob("*-*")) if p != path])
    beside = path.with_name("beside")
    path.rename(beside)
    other.rename(path)
    beside.rename(other)


def stored(folder: Path) -> list[Path]:
    """All files of results in the store."""
    return [path for path in sorted((folder / "runs" / "store").glob("*-*/**/*")) if path.is_file()]


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(("first", "count"), share(20, sample=0, of=10))
def test_a_damaged_file(kind: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried(f"{kind} in a store", count, "a warning that names the step and file; the same bits")
    for number in range(count):
        chance, case = seeded(f"{kind} in a store", first, number)
        folder = place.copied("study", tmp_path / str(number))
        path = chance.choice(stored(folder))
        case = f"{case}: {path.relative_to(folder)}"
        DAMAGE[kind](path, chance)
        require_mended(place, folder, case, path.parent, twice=number % 4 == 0)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(("first", "count"), share(6, sample=0, of=10))
def test_a_damaged_step(kind: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("a step's folder deleted, exchanged or replaced", count, "the same bits")
    for number in range(count):
        chance, case = seeded(f"{kind} of a step", first, number)
        folder = place.copied("study", tmp_path / str(number))
        path = chance.choice(sorted((folder / "runs" / "store").glob("*-*")))
        FOLDERS[kind](path, chance)
        require_mended(place, folder, f"{case}: {path.name}", path, twice=True)
        shutil.rmtree(folder)


def require_mended(place: Place, folder: Path, case: str, damaged: Path, *, twice: bool) -> None:
    done = finish(Started(*COMMANDS["study"], "--verify", cwd=folder))
    assert done.returncode == 0, f"{case}: {done.stderr}"
    if not any(words in case for words in ("deleted folder", "deleted of a step", "to nothing of")):
        assert "is computed again: " in done.stderr, f"{case}: {done.stderr}"
    require_bits(place.finished["study"], folder, case)
    if not twice:
        return
    again = finish(Started(*COMMANDS["study"], "--verify", cwd=folder))
    assert "0 to run" in again.stderr and "computed again" not in again.stderr, f"{case}: {again.stderr}"


def test_a_sample_of_damages_at_once(place: Place, tmp_path: Path, tried: Tried) -> None:
    """One damage to each step."""
    tried("several damaged files at once", 1, "the same bits")
    chance, case = seeded("sample", 0, 0)
    folder = place.copied("study", tmp_path / "damaged")
    for kind, step in zip(DAMAGE, sorted((folder / "runs" / "store").glob("*-*")), strict=False):
        DAMAGE[kind](chance.choice([path for path in sorted(step.rglob("*")) if path.is_file()]), chance)
    done = finish(Started(*COMMANDS["study"], "--verify", cwd=folder))
    assert done.returncode == 0, done.stderr
    require_bits(place.finished["study"], folder, case)


@pytest.fixture(scope="module")
def interrupted(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a study was killed during a training."""
    for at in range(10, place.changes["study"], 4):
        folder = place.new(tmp_path_factory.mktemp("interrupted") / "place")
        finish(Started(*COMMANDS["study"], cwd=folder, before=partial(signal_at, [at], signal.SIGKILL)))
        if list((folder / "runs" / "store" / "checkpoints").glob("*/checkpoint.json")):
            return folder
    raise AssertionError("no checkpoint was written")


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind not in ("exchanged files",)])
@pytest.mark.parametrize(("first", "count"), share(5, sample=0))
def test_a_damaged_checkpoint_of_a_training(
    kind: str, first: int, count: int, place: Place, interrupted: Path, tmp_path: Path, tried: Tried
) -> None:
    tried("damaged checkpoints of a training", count, "the training starts again; the same bits")
    for number in range(count):
        chance, case = seeded(f"{kind} in a checkpoint", first, number)
        folder = shutil.copytree(interrupted, tmp_path / str(number), symlinks=True)
        files = sorted((folder / "runs" / "store" / "checkpoints").glob("*/*"))
        path = chance.choice(files)
        DAMAGE[kind](path, chance)
        place.require_same("study", folder, f"{case}: {path.name}")
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["results.json", "results.md", "report.html", "run.json", "run.log"])
@pytest.mark.parametrize(("first", "count"), share(4, sample=0))
def test_damaged_results(name: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried("damaged results and reports", count, "they are written again, the same bits")
    for number in range(count):
        chance, case = seeded(f"damage of {name}", first, number)
        folder = place.copied("study", tmp_path / str(number))
        kind = chance.choice(["a flipped bit", "a truncated file", "a deleted file", "a link", "a link to nothing"])
        DAMAGE[kind](folder / "runs" / "small" / name, chance)
        place.require_same("study", folder, f"{case}: {kind}")
        shutil.rmtree(folder)
