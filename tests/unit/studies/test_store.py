"""What a given checkpoint is known by: the content of its files, its code among them, and not where it lies."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.conftest import people
from tests.helpers.harness_tasks import write_tasks

from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.studies.config_file import validated
from uwc.studies.plan import Plan, make_plan
from uwc.studies.steps import Checkpoint
from uwc.studies.store import checkpoint_fingerprint


@pytest.fixture
def folder(tmp_path: Path, untrained: Model) -> Path:
    """Two models, one with code of its own, and questions."""
    for name in ("original", "mine"):
        save_model(untrained, tmp_path / name)
    (tmp_path / "mine" / "own.py").write_text("SCALE = 1.0\n", encoding="utf-8")
    for name, part in (("forget", people(2)), ("retain", people(4)[4:])):
        rows = [json.dumps({"id": e.id, "question": e.question, "answer": e.answer}) + "\n" for e in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    return tmp_path


def planned(folder: Path, original: str, mine: str, *, tasks: Sequence[str] = (), **harness: object) -> Plan:
    settings = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain")}
    return make_plan(
        validated(
            {
                "name": "identity", "benchmark": {"name": "local-files", "settings": settings},
                "model": {"path": str(folder / original)},
                "unlearn": {"runs": [{"name": "mine", "checkpoint": str(folder / mine)}]},
                "score": {"max_new_tokens": 0, "metrics": ["extraction_strength"], "tasks": list(tasks)},
                "calibrate": {"tasks": list(tasks)},
                "harness": harness,
            },
            where="test",
        )
    )  # fmt: skip


def test_a_moved_folder_keeps_every_key_and_is_loaded_from_where_it_is(folder: Path) -> None:
    before = planned(folder, "original", "mine")
    for name in ("original", "mine"):
        shutil.move(folder / name, folder / f"moved-{name}")
    after = planned(folder, "moved-original", "moved-mine")
    assert [s.key for s in after.steps] == [s.key for s in before.steps]
    (run,) = after.runs
    assert isinstance(run.model, Checkpoint) and run.model.path == str(folder / "moved-mine")


def test_changed_weights_and_changed_code_change_the_key(folder: Path) -> None:
    before = planned(folder, "original", "mine")
    (folder / "mine" / "own.py").write_text("SCALE = 2.0\n", encoding="utf-8")
    code = planned(folder, "original", "mine")
    assert code.runs[0].score.key != before.runs[0].score.key
    assert code.original.score.key == before.original.score.key
    weights = folder / "mine" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert planned(folder, "original", "mine").runs[0].score.key != code.runs[0].score.key


def keys(plan: Plan) -> dict[str, str]:
    return {step.id: step.key for step in plan.steps}


def test_the_questions_and_settings_of_tasks_are_in_the_keys_of_scores_and_calibrations(folder: Path) -> None:
    """Where there is no task, nothing of them is in a key."""
    pytest.importorskip("lm_eval")
    own = write_tasks(folder / "tasks", people(4))
    plain = planned(folder, "original", "mine")
    for step in plain.steps:
        assert "tasks" not in step.settings and "tasks" not in step.settings.get("evaluation", {})

    def found(**settings: object) -> dict[str, str]:
        return keys(planned(folder, "original", "mine", tasks=["local_choice"], include_path=str(own), **settings))

    before = found()
    changed = {identity for identity, key in keys(plain).items() if before[identity] != key}
    assert changed == {"score/original", "score/unlearned/mine", "calibrate/calibrated/mine"}
    assert found() == before and found(limit=3) != before and found(seed=1) != before
    shutil.move(own, folder / "moved")
    (folder / "tasks").mkdir()
    moved = write_tasks(folder / "moved", people(4))
    same = planned(folder, "original", "mine", tasks=["local_choice"], include_path=str(moved))
    assert keys(same) == before, "the place of the folder is not"
    rows = json.loads((moved / "all.json").read_text())
    (moved / "all.json").write_text(json.dumps(rows[:-1]), encoding="utf-8")
    other = keys(planned(folder, "original", "mine", tasks=["local_choice"], include_path=str(moved)))
    assert {identity for identity, key in before.items() if other[identity] != key} == changed


def test_the_fingerprint_names_code_below_and_the_tokenizers_files(folder: Path) -> None:
    mine = folder / "mine"
    for name in ("layers/attention.py", "merges.txt", "spiece.model", ".cache/old.py", "notes.md"):
        (mine / name).parent.mkdir(exist_ok=True)
        (mine / name).write_text("x", encoding="utf-8")
    found = set(checkpoint_fingerprint(str(mine)))
    assert {"own.py", "layers/attention.py", "merges.txt", "spiece.model", "model.safetensors"} <= found
    assert not {".cache/old.py", "notes.md"} & found
