"""Stored results whose files are missing, damaged or exchanged are computed again, to the same bits."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.helpers.small_study import STUDY, run_plan

from uwc.results import StudyResults
from uwc.studies.config import StudyConfig
from uwc.studies.plan import Plan, make_plan
from uwc.studies.run import missing_steps, verify_store
from uwc.studies.steps import MODEL, Checkpoint
from uwc.studies.store import Store

ONE = StudyConfig(**{**STUDY.model_dump(), "unlearn": {**STUDY.unlearn.model_dump(), "runs": [{"method": "gd"}]}})
Finished = tuple[Plan, Path, StudyResults]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study, its store and its results."""
    folder, plan = tmp_path_factory.mktemp("finished") / "store", make_plan(ONE)
    return plan, folder, run_plan(plan, Store(folder))[0]


def copied(finished: Finished, to: Path) -> Path:
    shutil.copytree(finished[1], to)
    return to


def folder_of(store: Path, kind: str, *, of: int = 0) -> Path:
    return sorted(store.glob(f"{kind}-*"))[of]


def flip(path: Path, *, unseen: bool = False) -> None:
    """Flip a bit in the middle of a file; unseen, the time of its last change stays."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    if unseen:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def exchange(first: Path, second: Path) -> None:
    beside = first.with_name("beside")
    first.rename(beside)
    second.rename(first)
    beside.rename(second)


@pytest.mark.slow
@pytest.mark.parametrize("unseen", [False, True])
def test_a_flipped_bit_in_any_file_is_found(finished: Finished, unseen: bool, tmp_path: Path) -> None:
    plan, folder, _ = finished
    steps = [step for step in plan.steps if not isinstance(step, Checkpoint)]
    files = sorted(p.relative_to(folder) for s in steps for p in Store(folder).folder(s).rglob("*") if p.is_file())
    assert len(files) > 20 and {f.suffix for f in files} >= {".safetensors", ".parquet", ".json", ".jsonl"}
    store = copied(finished, tmp_path / "store")
    for file in files:
        flip(store / file, unseen=unseen)
        verify_store(plan, Store(store), everything=True)
        left = missing_steps(plan, Store(store))
        assert [step.id for step in left if Store(store).folder(step).name == file.parts[0]], file
        shutil.rmtree(store / file.parts[0], ignore_errors=True)
        shutil.copytree(folder / file.parts[0], store / file.parts[0])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "scores are damaged": lambda s: flip(next(folder_of(s, "score").glob("*.parquet")), unseen=True),
    "scores are exchanged": lambda s: exchange(folder_of(s, "score"), folder_of(s, "score", of=1)),
    "a file of scores is exchanged": lambda s: exchange(
        *(folder_of(s, "score", of=i) / "forget.parquet" for i in (0, 1))
    ),
    "the calibration is missing": lambda s: next(folder_of(s, "calibrate").glob("*.json")).unlink(),
    "the log is a folder": lambda s: (
        (folder_of(s, "unlearn") / "log.json").unlink(),
        (folder_of(s, "unlearn") / "log.json").mkdir(),
    ),
    "a manifest is missing": lambda s: (folder_of(s, "calibrate") / "manifest.json").unlink(),
    "a manifest is truncated": lambda s: (folder_of(s, "calibrate") / "manifest.json").write_bytes(b"{"),
    "a manifest is a pipe": lambda s: (
        (folder_of(s, "calibrate") / "manifest.json").unlink(),
        os.mkfifo(folder_of(s, "calibrate") / "manifest.json"),
    ),
    "a manifest is a link": lambda s: (
        shutil.move(folder_of(s, "calibrate") / "manifest.json", s / "elsewhere"),
        (folder_of(s, "calibrate") / "manifest.json").symlink_to(s / "elsewhere"),
    ),
    "a step is a file": lambda s: (
        shutil.rmtree(folder := folder_of(s, "calibrate")),
        folder.write_text("x"),
    ),
    "weights are exchanged, and a score is missing": lambda s: (
        exchange(folder_of(s, "finetune") / MODEL, folder_of(s, "unlearn") / MODEL),
        shutil.rmtree(folder_of(s, "calibrate")),
    ),
    "weights are damaged unseen, and a score is missing": lambda s: (
        flip(folder_of(s, "finetune") / MODEL / "model.safetensors", unseen=True),
        shutil.rmtree(folder_of(s, "calibrate")),
    ),
    "a tokenizer is missing, and the scores": lambda s: (
        (folder_of(s, "finetune") / MODEL / "tokenizer.json").unlink(),
        [shutil.rmtree(folder) for folder in s.glob("score-*")],
    ),
    "a chat template was added": lambda s: (
        (folder_of(s, "unlearn") / MODEL / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        shutil.rmtree(folder_of(s, "score")),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_computed_again(
    finished: Finished, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, expected = finished
    folder = copied(finished, tmp_path / "store")
    DAMAGE[damage](folder)
    store = Store(folder)
    verify_store(plan, store)
    assert missing_steps(plan, store)
    assert run_plan(plan, store)[0].to_dict() == expected.to_dict()
    assert "is computed again" in capsys.readouterr().err
    again = Store(folder)
    verify_store(plan, again, everything=True)
    assert missing_steps(plan, again) == []


@pytest.mark.slow
def test_a_model_that_no_step_reads_is_compared_on_demand(finished: Finished, tmp_path: Path) -> None:
    plan, _, _ = finished
    folder = copied(finished, tmp_path / "store")
    flip(folder_of(folder, "finetune") / MODEL / "model.safetensors", unseen=True)
    verify_store(plan, Store(folder))
    assert missing_steps(plan, Store(folder)) == []
    verify_store(plan, Store(folder), everything=True)
    assert [step.kind for step in missing_steps(plan, Store(folder))] == ["finetune"]


@pytest.mark.slow
def test_a_store_copied_without_its_times_is_used(finished: Finished, tmp_path: Path) -> None:
    plan, source, _ = finished
    shutil.copytree(source, tmp_path / "store", copy_function=shutil.copyfile)
    store = Store(tmp_path / "store")
    verify_store(plan, store, everything=True)
    assert missing_steps(plan, store) == []


@pytest.mark.slow
def test_checkpoints_that_a_kill_left_beside_a_complete_step_are_removed(finished: Finished, tmp_path: Path) -> None:
    plan, _, expected = finished
    store = Store(copied(finished, tmp_path / "store"))
    left = store.checkpoints(next(step for step in plan.steps if step.name.startswith("unlearn")))
    left.mkdir(parents=True)
    assert run_plan(plan, store)[0].to_dict() == expected.to_dict()
    assert not left.exists() and not missing_steps(plan, store)
