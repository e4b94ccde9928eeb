"""Provenance of real studies, and their replay: the same bits, and every changed source named."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import uwc
from uwc.cli import app
from uwc.commands.replay import DIFFERENT
from uwc.io import file_digest
from uwc.studies.config import StudyConfig
from uwc.studies.plan import SCHEMA
from uwc.studies.provenance import checkpoint_fingerprint
from uwc.studies.summary import read_summary

TOWNS = {"forget": ("Vint", "Besk"), "retain": ("Lyle", "Orm", "Quarn")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study that trains everything."""
    folder = tmp_path_factory.mktemp("trained")
    settings: dict[str, Any] = {"retain_eval_share": 0.4}
    for name, towns in TOWNS.items():
        rows = [{"question": f"Where is {t}'s clock?", "answer": f"In the old hall of {t}"} for t in towns]
        settings[name] = str(folder / f"{name}.jsonl")
        Path(settings[name]).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = {
        "name": "trained",
        "benchmark": {"name": "local-files", "settings": settings},
        "model": {"build": {"hidden_size": 32, "layers": 2, "heads": 2, "vocabulary": 300}},
        "finetune": {"epochs": 60, "lr": 1e-2},
        "unlearn": {"training": {"epochs": 2, "lr": 1e-3}, "runs": [{"method": "gd"}]},
        "score": {"max_new_tokens": 4},
        "calibrate": {"scan": 2, "resolution": 0.25},
    }
    uwc.run_study(StudyConfig(**config), runs=folder / "runs")
    return folder


@pytest.fixture(scope="module")
def given(trained: Path) -> Path:
    """The folder of runs of a study on the first one's model, as a user would bring it."""
    recorded = json.loads((trained / "runs" / "trained" / "results.json").read_text(encoding="utf-8"))
    config = recorded["study"]["config"] | {
        "name": "given",
        "finetune": None,
        "model": {"path": str(original(trained))},
    }
    uwc.run_study(StudyConfig(**config), runs=trained / "given")
    return trained / "given"


def original(trained: Path) -> Path:
    return next((trained / "runs" / "store").glob("finetune-*")) / "model"


def summary_of(runs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    path = runs / name / "results.json"
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_every_record_leads_to_weights_data_settings_and_machine(trained: Path) -> None:
    results = summary_of(trained / "runs", "trained")[1]
    provenance = results["provenance"]
    assert provenance["schema"] == SCHEMA
    assert provenance["data_files"] == {
        str(trained / f"{n}.jsonl"): file_digest(trained / f"{n}.jsonl") for n in TOWNS
    }  # fmt: skip
    named = [results["models"][0]["step"], *results["unlearned"][0]["steps"].values()]
    assert named == ["score original", "unlearn gd", "score gd", "calibrate gd"]
    for name in named:
        step = provenance["steps"][name]
        assert len(step["key"]) == len(step["settings"]) == 64 and step["data"]
        environment = provenance["environments"][step["environment"]]
        assert {"uwc", "code", "torch", "transformers", "python", "device", "threads"} <= set(environment)
        for role in step["inputs"].values():
            assert any(file.endswith(".safetensors") for file in provenance["steps"][role]["files"])
    assert provenance["steps"]["fine-tune original"]["files"] == checkpoint_fingerprint(str(original(trained)))


def test_a_full_replay_has_the_same_bits(trained: Path, tmp_path: Path) -> None:
    path, _ = summary_of(trained / "runs", "trained")
    found = uwc.replay(path, tolerance=0.0, keep=tmp_path)
    assert found.counts["within"] == found.counts["different"] == 0
    assert found.counts["equal"] > 200
    assert found.models == found.environment == found.warnings == found.record_changes == []
    assert found.kept is not None
    assert [folder.is_symlink() for folder in found.kept.glob("store/finetune-*")] == [False]


def test_a_forged_number_is_found_and_the_exit_status_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = summary_of(trained / "runs", "trained")
    results["unlearned"][0]["after"]["forget"]["perplexity"]["mean"] *= 1.01
    results["provenance"]["environments"][0]["torch"] = "1.0"
    results["provenance"]["steps"]["score gd"]["key"] = "0" * 64
    results["notes"].insert(0, "All is well.")
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["replay", str(forged), "--models-from", str(trained / "runs"), "--json"])
    assert done.exit_code == DIFFERENT
    record = json.loads(done.stdout)
    different = [n["path"] for n in record["numbers"] if n["verdict"] == "different"]
    assert different == ["unlearned.gd.after.forget.perplexity.mean"]
    assert [row["what"] for row in record["environment"]] == ["torch"]
    changes = {row["what"]: row for row in record["record_changes"]}
    assert changes["notes.0"]["recorded"] == "All is well."
    assert changes["provenance.steps.score gd.key"]["recorded"] == "0" * 64
    assert not list((tmp_path / "runs").iterdir()), "the recomputed steps are removed at the end"


def test_stored_models_are_taken_only_if_they_are_the_recorded_ones(trained: Path, tmp_path: Path) -> None:
    path, results = summary_of(trained / "runs", "trained")
    with pytest.raises(uwc.UserError, match="no results are kept there"):
        uwc.replay(path, models_from=tmp_path)
    results["provenance"]["steps"]["unlearn gd"]["files"]["model.safetensors"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(uwc.UserError, match=r"model.safetensors has changed since the summary was made"):
        uwc.replay(tmp_path / "other.json", models_from=trained / "runs")


def test_a_replay_on_a_given_checkpoint_has_the_same_bits(given: Path, tmp_path: Path) -> None:
    path, results = summary_of(given, "given")
    assert results["provenance"]["steps"]["base model"]["files"] == checkpoint_fingerprint(
        results["study"]["config"]["model"]["path"]
    )
    assert uwc.replay(path, tolerance=0.0, keep=tmp_path).counts["different"] == 0


def test_a_comparison_with_an_attack_has_the_same_bits(trained: Path, tmp_path: Path) -> None:
    unlearned = next((trained / "runs" / "store").glob("unlearn-*")) / "model"
    compared = uwc.compare(
        str(original(trained)), {"mine": str(unlearned)}, attacks=["jailbreak"], max_new_tokens=0,
        forget=str(trained / "forget.jsonl"), retain=str(trained / "retain.jsonl"), out=tmp_path / "compared",
    )  # fmt: skip
    provenance = compared.results["provenance"]
    assert provenance["steps"]["checkpoint mine"]["files"] == checkpoint_fingerprint(str(unlearned))
    under_attack = compared.results["attacks"]["models"][0]
    assert provenance["steps"][under_attack["steps"]["jailbreak"]]["data"]["attacker"]
    found = uwc.replay(tmp_path / "compared" / "results.json", tolerance=0.0, keep=tmp_path)
    assert found.counts["different"] == found.counts["within"] == 0
    assert {"attacks", "mine, calibrated"} <= {row["group"] for row in found.groups}


def test_a_changed_or_missing_source_is_named_before_anything_is_computed(given: Path, trained: Path) -> None:
    path = summary_of(given, "given")[0]
    weights, data = original(trained) / "config.json", trained / "forget.jsonl"
    for file, said in ((weights, "config.json"), (data, "forget.jsonl")):
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        with pytest.raises(uwc.UserError, match=f"{said}.* changed since the summary was made"):
            uwc.replay(path)
        file.unlink()
        with pytest.raises(uwc.UserError, match=f"{said}.* is missing"):
            uwc.replay(path)
        file.write_bytes(content)


def test_another_version_of_the_steps_is_a_warning(trained: Path, tmp_path: Path) -> None:
    _, results = summary_of(trained / "runs", "trained")
    results["provenance"]["schema"] = SCHEMA - 1
    (tmp_path / "older.json").write_text(json.dumps(results), encoding="utf-8")
    (told,) = read_summary(tmp_path / "older.json").warnings()
    assert "computes some steps otherwise" in told
