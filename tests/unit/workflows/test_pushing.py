"""Uploads to a stand-in for the hub, over its HTTP interface."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.conftest import copied, people
from tests.helpers.hub import GOOD, READ_ONLY, Hub, used_hub
from tests.helpers.results_factory import study_results
from typer.testing import CliRunner

import uwc
from uwc.cli.main import app
from uwc.errors import UserError
from uwc.models.load import save_model
from uwc.results import StudyResults

FORGET, RETAIN = people(4)[:4], people(4)[4:]
SECRET = "the texts that were to be forgotten"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with used_hub(tmp_path) as used:
        yield used


@pytest.fixture(scope="module")
def model(knowing: uwc.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model with its card, beside files that are not uploaded."""
    folder = tmp_path_factory.mktemp("pushed") / "calibrated"
    retention = {"forget": FORGET, "retain": RETAIN, "curve": False}
    uwc.calibrate(knowing, copied(knowing), **retention, save=folder, command=f"uwc calibrate {folder}")
    for name in ("run.log", "pytorch_model.bin", "optimizer.pt", "tensorboard/events.out"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(SECRET, encoding="utf-8")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """The folder of a study, with answers."""
    folder = tmp_path / "study"
    study_results().save(folder)
    for name in ("report.html", "answers.parquet", "store/key/log.json", "run.log", ".results.json.123"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(SECRET, encoding="utf-8")
    return folder


def test_a_model_arrives_byte_by_byte_with_its_card(hub: Hub, model: Path) -> None:
    done = uwc.push(model, "me/calibrated", message="the calibrated one")
    there = hub.files["models/me/calibrated@main"]
    assert hub.repos == {"models/me/calibrated": True} and hub.commits == ["the calibrated one"]
    assert done.repo_type == "model" and done.private and done.url.startswith(hub.url)
    assert {name: len(content) for name, content in there.items()} == done.files
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(there)
    for name, content in there.items():
        assert name == "README.md" or content == (model / name).read_bytes()
        assert SECRET.encode() not in content and str(model.parent).encode() not in content
    front = yaml.safe_load(there["README.md"].decode().split("---")[1])
    [entry] = front["model-index"]
    metrics = [m for r in entry["results"] for m in r["metrics"] if r["dataset"]["name"] == "forget"]
    assert front["uwc"]["tau"] == 0.95 and metrics[0]["type"] == "extraction_strength" and metrics[0]["args"]["n"] == 4
    assert "base_model" not in front  # it is not on the hub


@pytest.mark.slow
def test_an_unlearned_model_gets_a_card(hub: Hub, knowing: uwc.Model, tmp_path: Path) -> None:
    training = {"epochs": 0.5, "warmup_ratio": 0}
    uwc.unlearn(knowing, "gd", forget=FORGET, retain=RETAIN, training=training, output_dir=tmp_path / "gd")
    uwc.push(tmp_path / "gd", "mine", private=False, revision="second")
    there = hub.files["models/me/mine@second"]
    assert hub.repos == {"models/me/mine": False}
    assert yaml.safe_load(there["README.md"].decode().split("---")[1])["uwc"]["method"] == "gd"
    log = tmp_path / "gd" / "training_log.json"
    assert there["training_log.json"] == log.read_bytes()
    log.write_text("{}", encoding="utf-8")  # as an older version wrote it
    assert not {"training_log.json", "README.md"} & set(uwc.push(tmp_path / "gd", "mine", dry_run=True).files)


@pytest.mark.slow
def test_results_are_a_data_set_without_answers(hub: Hub, study: Path) -> None:
    done = uwc.push(study, "me/results")
    there = hub.files["datasets/me/results@main"]
    assert sorted(there) == sorted(done.files) == ["README.md", "report.html", "results.json", "results.md"]
    assert there["results.json"] == (study / "results.json").read_bytes()
    assert not any(SECRET.encode() in content for content in there.values())
    assert yaml.safe_load(there["README.md"].decode().split("---")[1])["viewer"] is False


@pytest.mark.slow
def test_answers_are_uploaded_on_demand(hub: Hub, study: Path) -> None:
    uwc.push(study, "me/results", with_answers=True, repo_type="model")
    there = hub.files["models/me/results@main"]
    assert there["answers.parquet"] == SECRET.encode() and there["report.html"] == (study / "report.html").read_bytes()


@pytest.mark.slow
def test_paths_of_the_machine_are_replaced(hub: Hub, study: Path, tmp_path: Path) -> None:
    (tmp_path / "private" / "original").mkdir(parents=True)
    results = StudyResults.load(study / "results.json").to_dict()
    results["model"]["source"] = str(tmp_path / "private" / "original")
    (study / "results.json").write_text(json.dumps(results), encoding="utf-8")
    uwc.push(study, "me/results")
    there = hub.files["datasets/me/results@main"]
    assert json.loads(there["results.json"])["model"]["source"] == "original"
    assert not any(str(tmp_path).encode() in content for content in there.values())


def test_a_dry_run_needs_no_network(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    done = uwc.push(study, "me/results", dry_run=True)
    assert done.files["results.json"] == (study / "results.json").stat().st_size and done.url == ""


def test_a_failed_upload_is_reported_and_can_be_repeated(hub: Hub, model: Path) -> None:
    hub.fails = {"/commit/": 413}
    with pytest.raises(UserError, match=r"413.*nothing is committed"):
        uwc.push(model, "me/calibrated")
    sent = hub.uploaded
    assert sent and not hub.files and not hub.commits
    hub.fails = {}
    uwc.push(model, "me/calibrated")
    assert hub.uploaded == sent  # large files are not sent again
    assert hub.files["models/me/calibrated@main"]["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_refusals_of_the_hub_are_one_line(hub: Hub, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, words in (("hf_wrong", "hf auth login"), (READ_ONLY, "may not write"), ("", "hf auth login")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UserError, match=words) as refused:
            uwc.push(model, "me/results")
        assert "\n" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", GOOD)
    hub.repos["models/me/public"] = False
    with pytest.raises(UserError, match="--public"):
        uwc.push(model, "me/public")
    hub.repos["datasets/me/data"] = True
    with pytest.raises(UserError, match=r"dataset repository.*--repo-type"):
        uwc.push(model, "me/data")
    with pytest.raises(UserError, match="nothing is committed"):
        uwc.push(model, "me/a name that cannot be")
    assert not hub.files
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="nothing is committed"):
        uwc.push(model, "me/results")


def test_what_cannot_be_uploaded(knowing: uwc.Model, tmp_path: Path, study: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        uwc.push(tmp_path / "nowhere", "me/x")
    with pytest.raises(UserError, match=r"results\.json"):
        uwc.push(tmp_path, "me/x")
    (study / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json"):
        uwc.push(study, "me/x", dry_run=True)
    save_model(knowing, tmp_path / "model")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="safetensors"):
        uwc.push(tmp_path / "model", "me/x", dry_run=True)


def test_the_command_lists_what_it_uploads(hub: Hub, model: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(model), "me/calibrated", "--public"])
    assert done.exit_code == 0, done.output
    assert done.output.index("model.safetensors") < done.output.index(f"{hub.url}/me/calibrated/commit/")
    assert hub.repos == {"models/me/calibrated": False}
    listed = CliRunner().invoke(app, ["push", str(model), "me/other", "--dry-run", "--json"])
    assert json.loads(listed.stdout)["files"]["config.json"] == (model / "config.json").stat().st_size
    assert len(hub.repos) == 1
