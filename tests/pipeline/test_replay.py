"""Provenance of real studies, and their replay: the same bits, and every changed source named."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import scores_of
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.cli.replay import DIFFERENT
from uwc.io import file_digest
from uwc.studies.steps import STORE_VERSION
from uwc.studies.store import checkpoint_fingerprint

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
        "keep_paths": True,
    }
    uwc.run_study(config, runs_dir=folder / "runs")
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
    uwc.run_study(config, runs_dir=trained / "given")
    return trained / "given"


def original(trained: Path) -> Path:
    return next((trained / "runs" / "store").glob("finetune-*")) / "model"


def summary_of(runs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    path = runs / name / "results.json"
    return path, json.loads(path.read_text(encoding="utf-8"))


def test_every_record_leads_to_weights_data_settings_and_machine(trained: Path) -> None:
    results = summary_of(trained / "runs", "trained")[1]
    provenance = results["provenance"]
    assert provenance["store_version"] == STORE_VERSION
    assert provenance["data_files"] == {
        str(trained / f"{n}.jsonl"): file_digest(trained / f"{n}.jsonl") for n in TOWNS
    }  # fmt: skip
    named = [results["references"][0]["step"], *results["unlearned"][0]["steps"].values()]
    assert named == ["score/original", "unlearn/unlearned/gd", "score/unlearned/gd", "calibrate/calibrated/gd"]
    for name in named:
        step = provenance["steps"][name]
        assert len(step["key"]) == len(step["settings"]) == 64 and step["data"]
        environment = provenance["environments"][step["environment"]]
        assert {"uwc", "code", "torch", "transformers", "python", "device", "threads"} <= set(environment)
        for role in step["inputs"].values():
            assert any(file.endswith(".safetensors") for file in provenance["steps"][role]["files"])
    assert provenance["steps"]["finetune/original"]["files"] == checkpoint_fingerprint(str(original(trained)))


def test_a_full_replay_has_the_same_bits(trained: Path, tmp_path: Path) -> None:
    path, _ = summary_of(trained / "runs", "trained")
    done = uwc.replay(path, rtol=0.0, keep=tmp_path)
    assert done.diff.count("within") == done.diff.count("different") == 0
    assert done.diff.count("equal") > 200
    assert done.diff.models == done.diff.environment == done.diff.warnings == done.diff.texts == ()
    assert done.kept is not None
    assert [folder.is_symlink() for folder in done.kept.glob("store/finetune-*")] == [False]


def test_names_in_place_of_paths_are_found_from_the_current_folder(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files have to lie where the replay runs, by their names; elsewhere the message says how."""
    config = summary_of(trained / "runs", "trained")[1]["study"]["config"]
    shared = uwc.run_study({**config, "name": "shared", "keep_paths": False}, runs_dir=trained / "runs")
    assert list(shared.provenance.data_files) == ["forget.jsonl", "retain.jsonl"]
    path, here = shared.save(tmp_path / "shared"), tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(uwc.UserError, match=r"forget\.jsonl.*--keep-paths"):
        uwc.replay(path)
    for name in TOWNS:
        (here / f"{name}.jsonl").symlink_to(trained / f"{name}.jsonl")
    assert not uwc.replay(path, models_from=trained / "runs", rtol=0.0).diff.different


def test_a_forged_number_is_found_and_the_exit_status_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, results = summary_of(trained / "runs", "trained")
    scores_of(results["unlearned"][0]["calibrated_scores"])["forget", "perplexity"]["mean"] *= 1.01
    results["provenance"]["environments"][0]["torch"] = "1.0"
    results["provenance"]["steps"]["score/unlearned/gd"]["key"] = "0" * 64
    results["warnings"].insert(0, {"code": "well", "text": "All is well."})
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["replay", str(forged), "--models-from", str(trained / "runs"), "--json"])
    assert done.exit_code == DIFFERENT
    record = json.loads(done.stdout)
    different = [n["path"] for n in record["numbers"] if n["verdict"] == "different"]
    assert different == ["unlearned.gd.calibrated_scores.forget/perplexity.mean"]
    assert [row["path"] for row in record["environment"]] == ["torch"]
    changes = {row["path"]: row["first"] for row in record["texts"]}
    assert changes["warnings.0.text"] == "All is well."
    assert changes["provenance.steps.score/unlearned/gd.key"] == "0" * 64
    assert not list((tmp_path / "runs").iterdir()), "the recomputed steps are removed at the end"


def test_stored_models_are_taken_only_if_they_are_the_recorded_ones(trained: Path, tmp_path: Path) -> None:
    path, results = summary_of(trained / "runs", "trained")
    with pytest.raises(uwc.UserError, match="no results are kept there"):
        uwc.replay(path, models_from=tmp_path)
    results["provenance"]["steps"]["unlearn/unlearned/gd"]["files"]["model.safetensors"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(uwc.UserError, match=r"model.safetensors has changed since the results were made"):
        uwc.replay(tmp_path / "other.json", models_from=trained / "runs")


def test_a_replay_on_a_given_checkpoint_has_the_same_bits(given: Path, tmp_path: Path) -> None:
    path, results = summary_of(given, "given")
    assert results["provenance"]["steps"]["checkpoint/original"]["files"] == checkpoint_fingerprint(
        results["study"]["config"]["model"]["path"]
    )
    assert not uwc.replay(path, rtol=0.0, keep=tmp_path).diff.different


def test_a_comparison_with_an_attack_has_the_same_bits(trained: Path, tmp_path: Path) -> None:
    unlearned = next((trained / "runs" / "store").glob("unlearn-*")) / "model"
    compared = uwc.compare(
        str(original(trained)), {"mine": str(unlearned)}, attacks=["jailbreak"], overrides=["score.max_new_tokens=0"],
        forget=str(trained / "forget.jsonl"), retain=str(trained / "retain.jsonl"), output_dir=tmp_path / "compared",
        keep_paths=True,
    )  # fmt: skip
    steps = compared.provenance.steps
    assert steps["checkpoint/unlearned/mine"].files == checkpoint_fingerprint(str(unlearned))
    assert {"scored", "train"} <= set(steps["attack/unlearned/mine/jailbreak"].data)
    found = uwc.replay(tmp_path / "compared" / "results.json", rtol=0.0, keep=tmp_path).diff
    assert found.count("different") == found.count("within") == 0
    assert {"attacks", "mine, calibrated"} <= {group.group for group in found.groups()}


def test_a_changed_or_missing_source_is_named_before_anything_is_computed(given: Path, trained: Path) -> None:
    path = summary_of(given, "given")[0]
    weights, data = original(trained) / "config.json", trained / "forget.jsonl"
    for file, said in ((weights, "config.json"), (data, "forget.jsonl")):
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        with pytest.raises(uwc.UserError, match=f"{said}.* changed since the results were made"):
            uwc.replay(path)
        file.unlink()
        with pytest.raises(uwc.UserError, match=f"{said}.* is missing"):
            uwc.replay(path)
        file.write_bytes(content)
