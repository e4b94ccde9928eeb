"""What a user can get wrong: one clear line on standard error, a non-zero exit status, no traceback."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.conftest import tiny_model
from tests.pipeline.conftest import TINY, Run, Started, run_command
from transformers import AutoModelForCausalLM

from uwc.cli.main import SIGNALS, main
from uwc.errors import DiskFull, reporting_full_disk
from uwc.models.load import save_model
from uwc.studies.config_file import load_config
from uwc.studies.plan import make_plan
from uwc.studies.steps import Outcome
from uwc.studies.store import Manifest, Store, file_records
from uwc.workflows.studies import run_plan

QUESTION = '{"question": "Where is it?", "answer": "In Vint"}\n'


def line_of(done: subprocess.CompletedProcess[str], *, status: int = 1) -> str:
    """The one line that tells what is wrong."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("changes", "essentials"),
    [
        (
            ["calibrate.tao=0.9"],
            ["tao", "did you mean 'tau'", "valid: tau, metric, sets, tasks, rank_by, scan"],
        ),
        (["unlearn.runs.0.method=gdd"], ["unknown method 'gdd'", "did you mean 'gd'", "valid: ga, gd, kl"]),
        (["unlearn.runs.0.training={lrr: 1}"], ["run 'gd'", "lrr", "valid: epochs, batch_size"]),
        (["unlearn.runs.1.settings={npo: {bta: 1}}"], ["bta", "did you mean 'beta'"]),
        (["unlearn.runs.1.method=gd"], ["two unlearning runs are called 'gd'"]),
        (["unlearn.runs.0.tricks={temprature: 2}"], ["unknown trick 'temprature'", "temperature"]),
        (["benchmark.name=tofoo"], ["unknown benchmark 'tofoo'", "tofu"]),
        (["benchmark.settings.forget_share=0.9"], ["forget_share", "0.9"]),
        (["benchmark.settings.authors=many"], ["authors = 'many'"]),
        (["finetune.epochs=-1"], ["finetune.epochs = -1", "greater than 0"]),
        (["finetune=null"], ["model.build", "knows no answers"]),
        (["model.path=somewhere"], ["either 'path'", "or 'build'"]),
        (["score.metrics=[extraction_strenth]"], ["unknown metric", "did you mean 'extraction_strength'"]),
        (["calibrate.metric=kl_to_original"], ["unknown retention metric", "extraction_strength"]),
        (["calibrate.metric=model_utility"], ["needs the sets real_authors and world_facts", "fictional-authors"]),
        (["calibrate.sets=[retain, forget]"], ["unknown retain set 'forget'", "holdout"]),
        (["calibrate.rank_by=rouge_1", "score.max_new_tokens=0"], ["'rouge_1' needs generated answers"]),
        (["name=../outside"], ["'../outside' cannot be the name of a study"]),
    ],
)
def test_a_wrong_study_file_is_refused_with_the_valid_choices(
    changes: list[str], essentials: list[str], tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from uwc.errors import UserError
    from uwc.workflows.studies import plan_study

    with pytest.raises(UserError) as refused:
        plan_study(tiny, overrides=changes, runs=tiny.parent / "runs")
    assert "\n" not in str(refused.value)
    for essential in essentials:
        assert essential in str(refused.value)


def test_a_syntax_error_is_told_with_its_line(uwc: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\nbenchmark: {name: [\n", encoding="utf-8")
    line = line_of(uwc("study", "plan", "bad.yaml"))
    assert "bad.yaml, line 3" in line and "not valid YAML" in line


def test_a_study_that_is_not_there(uwc: Run) -> None:
    assert "quickstart" in line_of(uwc("study", "run", "nowhere.yaml"))


def test_a_malformed_question_file_is_told_with_its_line(uwc: Run, tmp_path: Path) -> None:
    (tmp_path / "forget.jsonl").write_text(QUESTION + '{"question": "Who?"\n', encoding="utf-8")
    (tmp_path / "retain.jsonl").write_text(QUESTION, encoding="utf-8")
    assert "forget.jsonl, line 2" in line_of(uwc("study", "plan", "local-files"))


@pytest.mark.parametrize(
    ("forget", "retain", "essentials"),
    [
        ('{"question": "Who?", "answer": " "}', QUESTION, ["forget.jsonl, line 1", "empty"]),
        (QUESTION, QUESTION, ["forget and retain", "overlap"]),
        ("", QUESTION, ["forget.jsonl", "empty"]),
        ('{"id": "a", "question": "Q", "answer": "A"}\n{"id": "a", "question": "R", "answer": "B"}', QUESTION,
         ["forget.jsonl, line 2", "'a'", "unique"]),
    ],
)  # fmt: skip
def test_bad_examples_are_refused(forget: str, retain: str, essentials: list[str], tmp_path: Path) -> None:
    from uwc.errors import UserError
    from uwc.workflows.studies import plan_study

    for name, text in (("forget", forget), ("retain", retain)):
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    changes = [f"benchmark.settings.{n}={tmp_path / n}.jsonl" for n in ("forget", "retain")]
    with pytest.raises(UserError) as refused:
        plan_study(
            "local-files", overrides=[*changes, "benchmark.settings.retain_eval_share=0"], runs=tmp_path / "runs"
        )
    for essential in essentials:
        assert essential in str(refused.value)


def test_an_example_longer_than_the_context_is_named(uwc: Run, tiny: Path) -> None:
    line = line_of(uwc("study", "run", tiny, "--set", "model.build.context=8"))
    assert "more than the model's context of 8" in line and "author-" in line


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Two saved models of different widths."""
    for name, width in (("original", 32), ("other", 64)):
        save_model(tiny_model(hidden_size=width), tmp_path / name)
    for name, answer in (("forget", "In Vint"), ("retain", "In Lyle")):
        rows = [{"question": f"Where is {i}?", "answer": f"{answer} {i}"} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_an_unlearned_checkpoint_of_another_architecture(uwc: Run, checkpoints: Path) -> None:
    arguments = ("calibrate", "original", "other", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    line = line_of(uwc(*arguments))
    assert "hidden_size is 32" in line and "64" in line


def test_an_original_that_does_not_know_the_retain_data(uwc: Run, checkpoints: Path) -> None:
    arguments = ("calibrate", "original", "original", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    assert "calibration is meaningless" in line_of(uwc(*arguments))


def test_weights_that_are_not_safetensors_are_not_read(uwc: Run, checkpoints: Path) -> None:
    weights = checkpoints / "original" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    assert "weights are read from safetensors only" in line_of(uwc("score", "original", "--data", "forget.jsonl"))


def test_a_damaged_checkpoint(uwc: Run, checkpoints: Path) -> None:
    (checkpoints / "original" / "model.safetensors").write_bytes(b"not weights at all")
    assert "original/model.safetensors: damaged" in line_of(uwc("score", "original", "--data", "forget.jsonl"))


def test_a_model_that_is_not_there(uwc: Run, checkpoints: Path) -> None:
    assert "there is no such folder" in line_of(uwc("score", "nowhere", "--data", "forget.jsonl"))


def test_a_divergence_ends_the_unlearning_command(uwc: Run, checkpoints: Path) -> None:
    arguments = ("unlearn", "original", "--method", "gd", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    options = ("--output-dir", "out", "--set", "training={lr: 1.0e+30, clip: null, warmup_ratio: 0.0}")
    line = line_of(uwc(*arguments, *options))
    assert "training diverged" in line and "at step" in line
    AutoModelForCausalLM.from_pretrained(checkpoints / "out")  # the weights of the last finite step


def test_debug_shows_where_it_happened(uwc: Run) -> None:
    assert "Traceback" in uwc("study", "plan", "nowhere.yaml", "--debug").stderr


def test_a_full_disk_is_told_in_one_line_whatever_library_met_it(tmp_path: Path) -> None:
    """The system's error and safetensors' own class both become DiskFull."""
    with pytest.raises(DiskFull, match="no space left on the device while writing"), reporting_full_disk(tmp_path):
        raise OSError(28, "No space left on device")

    class SafetensorError(Exception):
        pass

    with pytest.raises(DiskFull), reporting_full_disk(tmp_path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for number, words in {28: "no space left", 27: "a file was too large"}.items():
        with pytest.raises(DiskFull, match=f"{words}.*inner"), reporting_full_disk(tmp_path):
            write_as_torch_does(number)
    with pytest.raises(ZeroDivisionError), reporting_full_disk(tmp_path):
        raise ZeroDivisionError


def write_as_torch_does(number: int) -> None:
    """Another error is raised while the system's is handled."""
    with reporting_full_disk(Path("inner")):
        try:
            raise OSError(number, "x")
        finally:
            raise RuntimeError("unexpected pos 5248 vs 5142")


def test_a_step_that_meets_a_full_disk_leaves_nothing_half_made(tiny: Path, tmp_path: Path) -> None:
    store, step = Store(tmp_path), make_plan(load_config(tiny)).steps[0]

    def fill() -> None:
        with store.lock(step) as lock, store.writing(step, lock) as writing:
            (writing.folder / "half").write_text("x", encoding="utf-8")
            raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull):
        fill()
    assert store.manifest(step) is None
    assert not list((tmp_path / "tmp").iterdir())
    made = {"key": step.key, "kind": step.kind, "name": step.name, "settings": {}, "inputs": {}, "seconds": 0.0}
    with store.lock(step) as lock, store.writing(step, lock) as writing:
        (writing.folder / "whole").write_text("x", encoding="utf-8")
        files = file_records(writing.folder)
        writing.manifest = Manifest(**made, outcome=Outcome(), model={}, files=files, environment={})
    assert store.manifest(step) is not None


def test_a_disk_that_is_full_at_the_report_is_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uwc.studies.gather.gather", full)
    plan: Any = SimpleNamespace(config=SimpleNamespace(name="x"), steps=(), left_out={})
    with pytest.raises(DiskFull, match=f"while writing {tmp_path}/out; free"):
        run_plan(plan, Store(tmp_path / "store"), tmp_path / "out")


@pytest.mark.skipif(not shutil.which("mount") or os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_really_full_disk(tmp_path: Path) -> None:
    """A study on a file system of 1 MB ends in one line; what was finished before stays."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
        done = run_command("study", "run", "tiny.yaml", "--runs", small, cwd=tmp_path)
        assert "no space left on the device" in line_of(done)
        assert list((small / "store").glob("*/manifest.json"))
        assert not list((small / "store" / "tmp").iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_interrupt_ends_with_130_and_keeps_what_is_done(tiny: Path, tmp_path: Path) -> None:
    study = Started("study", "run", tiny, cwd=tmp_path)
    while study.running and not list((tmp_path / "runs" / "store").glob("build-*/manifest.json")):
        time.sleep(0.02)
    done = study.end(signal.SIGINT)
    assert done.returncode == 130
    assert "run the same command again" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "runs" / "store" / "tmp").iterdir())


@pytest.mark.parametrize(
    ("command_line", "told"),
    [("compare original", "run the same command again to resume"),
     ("calibrate original", "the same command starts from the beginning"),
     ("calibrate original -o out", "in the output folder: run the same command again to continue"),
     ("score model --output-dir=out", "in the output folder: run the same command again to continue"),
     ("score --outputs texts.jsonl -o out", "the same command starts from the beginning"),
     ("unlearn original", "resumes from the last checkpoint, if")],
)  # fmt: skip
def test_an_interrupt_promises_no_more_than_is_kept(
    command_line: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("uwc.cli.main.app", interrupted)
    monkeypatch.setattr("sys.argv", ["uwc", *command_line.split()])
    try:
        with pytest.raises(SystemExit, match="130"):
            main()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert told in " ".join(capsys.readouterr().err.split())
