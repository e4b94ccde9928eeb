"""Where results are written is tested before any work, and nothing of another model is replaced without --overwrite."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import copied, people
from tests.pipeline.conftest import validate_result

import uwc
from uwc import api
from uwc.answers import read
from uwc.errors import ModelError, UserError
from uwc.io import PARTIAL, write_text, written_whole
from uwc.models.checkpoint_files import KINDS, MODEL_FILES
from uwc.models.load import load_model, require_no_model, save_model
from uwc.models.model import Loading, Model
from uwc.reports.answers_page import PAGE
from uwc.results import Scores

FORGET, RETAIN = people(4)[:4], people(4)[4:]
Command = Callable[..., Any]
COMMANDS: dict[str, Command] = {
    "score": lambda m, **o: uwc.score(m, FORGET, metrics="ES", max_new_tokens=0, **o),
    "attack": lambda m, **o: uwc.attack(m, FORGET, "prefix", **o),
    "attack_curve": lambda m, **o: api.attack_curve(m, FORGET, "prefix", [1], **o),
    "calibrate": lambda m, **o: uwc.calibrate(m, m, forget=FORGET, retain=RETAIN, curve=False, **o),
    "unlearn": lambda m, **o: uwc.unlearn(m, "ga", forget=FORGET, training={"warmup_ratio": 0.0}, **o),
}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded before the output is tested")

    for name in ("load", "own", "plain", "reading"):
        monkeypatch.setattr(Loading, name, loaded)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    command: str, knowing: Model, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    save_model(knowing, tmp_path / "model")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot write to"):
            COMMANDS[command](tmp_path / "model", output_dir=folder)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "unlearn"])
def test_the_result_of_another_model_is_replaced_on_demand_only(command: str, knowing: Model, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        save_model(knowing, folder)
    out = tmp_path / "out"
    COMMANDS[command](first, output_dir=out)
    COMMANDS[command](first, output_dir=out)  # of the same
    (file,) = (path for path in out.glob("*.json") if path.name in ("score.json", "attack.json", "calibration.json"))
    validate_result(file)
    assert (out / PAGE).exists() != read(out).empty
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"first.*--overwrite"):
        COMMANDS[command](second, output_dir=out)
    assert file.read_bytes() == before
    COMMANDS[command](second, output_dir=out, overwrite=True)
    assert f'"{second.name}"' in file.read_text(encoding="utf-8")
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"was not written by this version.*--overwrite"):
        COMMANDS[command](second, output_dir=out)


def test_a_mixture_is_shown_before_it_is_saved(knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api, "save_mixture", full)
    given = {"output_dir": tmp_path / "out", "save": tmp_path / "mixture", "shown": shown.append}
    with pytest.raises(UserError, match="no space left"):
        COMMANDS["calibrate"](copied(knowing), **given)
    assert len(shown) == 1 and json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert not list((tmp_path / "mixture").iterdir())


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json", "notes.md"):
        (folder / name).write_text("old", encoding="utf-8")
    (folder / PARTIAL).mkdir()
    (folder / PARTIAL / "left over").write_text("x", encoding="utf-8")
    with pytest.raises(KeyError), written_whole(folder, names=KINDS) as hidden:
        raise KeyError(str(hidden))
    assert len(list(folder.iterdir())) == 4
    (folder / "chat_template.jinja").write_text("old", encoding="utf-8")
    (folder / "base").mkdir()
    with written_whole(folder, names=KINDS, replaces=MODEL_FILES) as hidden:
        (hidden / "model.safetensors").write_text("new", encoding="utf-8")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "notes.md", "base"}
    with written_whole(folder, names=KINDS) as hidden:
        (hidden / "other.safetensors").write_text("new", encoding="utf-8")
    assert {path.name for path in folder.glob("*.safetensors")} == {"model.safetensors", "other.safetensors"}


def test_a_move_that_ends_anywhere_leaves_the_old_model_the_new_one_or_none(
    knowing: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The move is broken off at each of its changes of the folder, as a kill does."""
    base = tmp_path / "base"
    save_model(knowing, base)
    COMMANDS["unlearn"](base, output_dir=tmp_path / "whole")
    adapter = {"warmup_ratio": 0.0, "lora": {"rank": 2, "save": "adapter"}}
    uwc.unlearn(base, "ga", forget=FORGET, training=adapter, output_dir=tmp_path / "adapter")
    whole, outcomes = {path.name for path in (tmp_path / "whole").iterdir()}, []
    for moment in range(60):
        folder = tmp_path / f"{moment}"
        shutil.copytree(tmp_path / "adapter", folder)
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
        with (
            broken_off(monkeypatch, after=moment) as count,
            written_whole(folder, names=KINDS, replaces=MODEL_FILES) as hidden,
        ):
            shutil.copytree(tmp_path / "whole", hidden, dirs_exist_ok=True)
        outcomes.append(outcome(folder, whole))
        if count[0] < moment:
            break
    assert outcomes[0] == "old" and outcomes[-1] == "new" and outcomes.count("none") > 5
    assert outcomes == sorted(outcomes, key=["old", "none", "new"].index)


def test_what_killed_writes_of_a_file_left_is_removed(tmp_path: Path) -> None:
    kept = [tmp_path / name for name in (".x.json.12", ".x.json.old", ".y.json.11")]
    left = tmp_path / ".x.json.11"
    for path in (*kept, left):
        path.write_text("{", encoding="utf-8")
    for path in (left, *kept[1:]):
        os.utime(path, (1, 1))
    write_text(tmp_path / "x.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", *(path.name for path in kept)}


def outcome(folder: Path, new: set[str]) -> str:
    """Which model is read from the folder."""
    files = {path.name for path in folder.iterdir() if path.is_file()}
    older = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    try:
        load_model(folder)
    except ModelError:
        require_no_model(folder, overwrite=False)
        return "none"
    assert older <= files or (new <= files and not older & files)
    return "old" if older <= files else "new"


class Killed(BaseException):
    pass


@contextmanager
def broken_off(monkeypatch: pytest.MonkeyPatch, *, after: int) -> Iterator[list[int]]:
    """Within, nothing in a folder is removed or moved after that many changes; gives their number."""
    count = [0]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **settings: Any) -> Any:
            if count[0] == after:
                raise Killed
            count[0] += 1
            return change(*arguments, **settings)

        return changed

    with monkeypatch.context() as patched, suppress(Killed):
        for of, name in ((os, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patched.setattr(of, name, counted(getattr(of, name)))
        yield count


def test_the_files_of_an_earlier_score_are_removed_and_those_of_others_kept(knowing: Model, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = {"forget": FORGET, "retain": RETAIN}
    uwc.score(knowing, both, metrics="ES", max_new_tokens=0, output_dir=out)
    assert (out / "retain.parquet").exists()
    (out / "notes.jsonl").write_text("mine", encoding="utf-8")
    uwc.score(knowing, {"forget": FORGET}, metrics="ES", max_new_tokens=0, output_dir=out)
    assert (out / "forget.parquet").exists() and (out / "notes.jsonl").exists()
    assert not list(out.glob("retain*")) and not list(out.glob(".*"))
    mine = tmp_path / "forget.jsonl"
    mine.write_text("mine", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"forget.jsonl was not written by an earlier score"):
            uwc.score("a model", {"forget": FORGET}, metrics="ES", output_dir=tmp_path, overwrite=overwrite)
    assert mine.read_text(encoding="utf-8") == "mine"


def test_files_have_the_permissions_of_the_umask(knowing: Model, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        COMMANDS["unlearn"](knowing, output_dir=tmp_path / "model")
        COMMANDS["score"](knowing, output_dir=tmp_path / "scores")
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()}
    assert {"model.safetensors", "score.json"} <= modes.keys() and set(modes.values()) == {0o640}, modes
    assert Scores.load(tmp_path / "scores" / "score.json").scores
