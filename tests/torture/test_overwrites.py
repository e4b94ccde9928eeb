"""Overwriting a model or a result is broken off: what is there is the old one, the new one, or none that is read."""

import hashlib
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from tests.pipeline.conftest import Started, run_command
from tests.torture.conftest import WHOLE, Tried
from tests.torture.trials import COMMANDS, Place, count_changes, finish, hidden, seeded, share, signal_at

from uwc.models.checkpoint_files import KINDS
from uwc.results import CalibrationResults, Scores

Files = dict[str, str]
NAMES = {
    "unlearn": KINDS,
    "unlearn an adapter": KINDS,
    "calibrate": (CalibrationResults.FILE,),
    "calibrate --save": KINDS,
    "score": (Scores.FILE,),
}
"""Kind -> the files without one of which nothing is read."""
ADAPTER = ("--set", "training.lora.rank=2", "--set", "training.lora.save=adapter")


def commands(kind: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """The command that wrote the old files, the one that replaces them, and the folder."""
    new = (*COMMANDS[kind.split()[0]], "--overwrite")
    if kind == "unlearn":
        return (*new, *ADAPTER), new, "out"
    if kind == "unlearn an adapter":
        return new, (*new, *ADAPTER), "out"
    if kind == "score":
        return tuple("unlearned" if part == "original" else part for part in new), new, "out"
    old = tuple({"unlearned": "original"}.get(part, part) for part in new)
    return old, new, "out/model" if kind.endswith("--save") else "out"


def files_in(folder: Path) -> Files:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("kind", NAMES if WHOLE else ["unlearn", "score"])
@pytest.mark.parametrize(("first", "count"), share(30, of=15))
def test_broken_off_overwriting(kind: str, first: int, count: int, place: Place, tmp_path: Path, tried: Tried) -> None:
    tried(f"kill or interrupt of overwriting by {kind}", count, "the old files, the new ones, or a refusal; no mixture")
    old, new, where = commands(kind)
    before = place.new(tmp_path / "before")
    assert run_command(*old, cwd=before).returncode == 0
    after = shutil.copytree(before, tmp_path / "after", symlinks=True)
    assert run_command(*new, cwd=after, before=partial(count_changes, tmp_path / "count")).returncode == 0
    expected, changes = [files_in(folder / where) for folder in (before, after)], (tmp_path / "count").stat().st_size
    assert expected[0] != expected[1]
    for number in range(count):
        moments, case = seeded(f"overwriting by {kind}", first, number)
        folder = shutil.copytree(before, tmp_path / str(number), symlinks=True)
        late = moments.random() < 0.7  # where the files are moved
        at = moments.randint(max(1, changes - 40), changes) if late else moments.randint(1, changes)
        sent = moments.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT))
        finish(Started(*new, cwd=folder, before=partial(signal_at, [at], sent)))
        found = files_in(folder / where)
        if any(name in found for name in NAMES[kind]):
            assert any(files.items() <= found.items() for files in expected), f"{case}: {at} {sorted(found)}"
            if not expected[0].items() <= found.items():
                assert found.keys() == expected[1].keys(), f"{case}: {at} {sorted(found)}"
        again = finish(Started(*new, cwd=folder))
        assert again.returncode == 0, f"{case}: {at} {again.stderr}"
        assert files_in(folder / where) == expected[1] and not hidden(folder), f"{case}: {at}"
        shutil.rmtree(folder)
