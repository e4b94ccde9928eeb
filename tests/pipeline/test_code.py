"""Code that comes with a checkpoint, a study's file or a results.json runs only where the command line allows it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people
from tests.pipeline.conftest import Run, run_command

from uwc.models.load import save_model
from uwc.models.model import Model

OWN = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({marker!r}).touch()

class Config(LlamaConfig):
    model_type = "my-own"

class Own(LlamaForCausalLM):
    config_class = Config
"""
PLUGIN = "from pathlib import Path\nPath({marker!r}).touch()\n"
STUDY = """
name: given
benchmark: {{name: local-files, settings: {{forget: forget.jsonl, retain: retain.jsonl}}}}
model: {{path: own, trust_remote_code: {trust}}}
unlearn: {{runs: [{{name: own, checkpoint: other}}]}}
score: {{max_new_tokens: 0, metrics: [extraction_strength]}}
calibrate: null
"""


@pytest.fixture
def place(knowing: Model, tmp_path: Path) -> Path:
    """A folder with a plain model, two with code of their own that leaves a marker, and questions."""
    auto = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Own"}
    for name in ("original", "own", "other"):
        save_model(knowing, tmp_path / name)
        if name != "original":
            config = tmp_path / name / "config.json"
            content = json.loads(config.read_text(encoding="utf-8")) | {"auto_map": auto, "model_type": "my-own"}
            config.write_text(json.dumps(content), encoding="utf-8")
            (tmp_path / name / "own.py").write_text(OWN.format(marker=str(tmp_path / "it ran")), encoding="utf-8")
    for name, part in (("forget", people(4)[:4]), ("retain", people(4)[4:])):
        rows = [{"id": e.id, "question": e.question, "answer": e.answer, "subject": e.subject} for e in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(STUDY.format(trust="true"), encoding="utf-8")
    return tmp_path


FILES = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
COMMANDS: dict[str, tuple[str, ...]] = {
    "score": ("score", "own", *FILES, "--set", "score.max_new_tokens=0"),
    "calibrate": ("calibrate", "own", "other", *FILES, "--set", "calibrate.scan=1"),
    "attack": ("attack", "own", "--forget", "forget.jsonl", "--attack", "prefix"),
    "unlearn": ("unlearn", "own", "--method", "ga", *FILES, "-o", "out", "--set", "training.warmup_ratio=0"),
    "compare": (
        "compare", "--original", "own", "--unlearned", "other", *FILES, "--attack", "none",
        "--set", "calibrate.scan=1",
    ),
    "study": ("study", "run", "study.yaml"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_checkpoints_code_runs_with_the_option_only(command: str, place: Path, uwc: Run) -> None:
    marker = place / "it ran"
    attempts: list[tuple[str, ...]] = [()]
    if command != "study":
        attempts.append(("--set", "model.trust_remote_code=true"))
    for further in attempts:
        done = uwc(*COMMANDS[command], *further)
        assert done.returncode == 1 and "--trust-remote-code" in done.stderr and not marker.exists()
    done = uwc(*COMMANDS[command], "--trust-remote-code")
    assert done.returncode == 0, done.stderr
    assert marker.exists()


@pytest.mark.slow
def test_a_results_json_cannot_ask_for_code(place: Path, uwc: Run) -> None:
    plain = STUDY.format(trust="false").replace("path: own", "path: original").replace("other", "original")
    (place / "plain.yaml").write_text(plain, encoding="utf-8")
    assert uwc("study", "run", "plain.yaml").returncode == 0
    recorded = place / "runs" / "given" / "results.json"
    content: dict[str, Any] = json.loads(recorded.read_text(encoding="utf-8"))
    content["study"]["config"]["model"] |= {"path": "own", "trust_remote_code": True}
    recorded.write_text(json.dumps(content), encoding="utf-8")
    done = uwc("replay", "runs/given/results.json")
    assert done.returncode == 1 and "--trust-remote-code" in done.stderr and not (place / "it ran").exists()
    content["study"]["config"]["model"] |= {"path": "original", "trust_remote_code": False}
    (place / "elsewhere").mkdir()
    plugin = place / "plugin.py"
    plugin.write_text(PLUGIN.format(marker=str(place / "it ran")), encoding="utf-8")
    content["study"]["config"]["plugins"] = [str(plugin)]
    recorded.write_text(json.dumps(content), encoding="utf-8")
    done = run_command("replay", str(recorded), cwd=place / "elsewhere")
    assert done.returncode == 1 and "--allow-plugins" in done.stderr and not (place / "it ran").exists()


def test_plug_ins_outside_of_the_current_folder_run_with_the_option_only(place: Path) -> None:
    marker, elsewhere = place / "it ran", place / "elsewhere"
    elsewhere.mkdir()
    (place / "plugin.py").write_text(PLUGIN.format(marker=str(marker)), encoding="utf-8")
    study = STUDY.format(trust="false").replace("other", f"{place}/original")
    study = study.replace("path: own", f"path: {place}/original")
    for name in ("forget", "retain"):
        study = study.replace(f"{name}.jsonl", f"{place}/{name}.jsonl")
    (place / "plugged.yaml").write_text(f"{study}plugins: [plugin.py]\n", encoding="utf-8")
    done = run_command("study", "plan", place / "plugged.yaml", cwd=elsewhere)
    assert done.returncode == 1 and str(place / "plugin.py") in done.stderr and not marker.exists()
    done = run_command("study", "plan", place / "plugged.yaml", "--allow-plugins", cwd=elsewhere)
    assert done.returncode == 0 and marker.exists(), done.stderr
    marker.unlink()
    done = run_command("study", "plan", "plugged.yaml", cwd=place)
    assert done.returncode == 0 and marker.exists() and "plug-ins of plugged.yaml: plugin.py" in done.stderr
