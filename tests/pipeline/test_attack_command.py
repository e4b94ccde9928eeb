"""`uwc attack` through the real command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people, tiny_target
from typer.testing import CliRunner, Result

import uwc
from uwc.attacks.data import AttackData
from uwc.cli import app
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models.loading import save_target
from uwc.models.target import Target
from uwc.robustness.points import read_points


def written(path: Path, examples: list[Example], **more: Any) -> str:
    names = ("id", "question", "answer", "subject", "paraphrased_question")
    rows = [{n: getattr(e, n) for n in names} | {k: f(e) for k, f in more.items()} for e in examples]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path, knowing: Target) -> dict[str, str]:
    save_target(knowing, tmp_path / "knowing")
    save_target(tiny_target(hidden_size=64), tmp_path / "never")
    return {
        "model": str(tmp_path / "knowing"),
        "never": str(tmp_path / "never"),
        "scored": written(tmp_path / "scored.jsonl", people(4)[:4], question_es=lambda e: f"¿{e.question}"),
        "owned": written(tmp_path / "owned.jsonl", people(4)[4:]),
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["attack", *arguments], catch_exceptions=False)


def test_attacks_and_chains_are_measured_on_model_and_control(files: dict[str, str]) -> None:
    result = run(
        files["model"], "--data", files["scored"], "--attacker-data", files["owned"], "--control", files["never"],
        "--attack", "relearn+probe", "--attack", "translation", "--translation-column", "question_es",
        "--set", "relearn.steps=1", "--set", "probe.epochs=1", "--set", "probe.layers=1,2", "--json",
    )  # fmt: skip
    rows = json.loads(result.stdout)
    relearned = [r["variant"] for r in rows if r["model"] == "control" and r["attack"] == "relearn+probe"]
    assert relearned == ["layer 1", "layer 2", "strongest", "mean"]
    for row in rows:
        assert row["difference"] == pytest.approx(row["after"] - row["before"])
        assert row["before"] == pytest.approx(1.0 if row["model"] == "model" else 0.0, abs=0.05)
        assert (row["changed"] is not None) == (row["attack"] == "relearn+probe" and "layer" in row["variant"])
    assert {r["attack"] for r in rows} == {"relearn+probe", "translation"}


def test_a_model_in_memory_is_attacked_as_its_folder_is(files: dict[str, str], knowing: Target) -> None:
    printed = run(files["model"], "--data", files["scored"], "--attack", "prefix", "--json").stdout
    scored = uwc.read_examples(files["scored"])
    assert uwc.attack(knowing, AttackData(scored), ["prefix"], control=files["never"])[:1] == json.loads(printed)


def test_a_table_is_printed(files: dict[str, str]) -> None:
    table = run(files["model"], "--data", files["scored"], "--attack", "prefix", "--metric", "rouge_l").stdout
    assert "before" in table and "prefix" in table and "rouge_l" in table


def test_a_curve_has_the_half_effort(files: dict[str, str]) -> None:
    result = run(
        files["never"], "--data", files["scored"], "--attack", "relearn_original", "--original", files["model"],
        "--set", "relearn_original.lr=0.01", "--curve", "40,5", "--json",
    )  # fmt: skip
    rows = json.loads(result.stdout)
    assert [r["effort"] for r in rows] == [5, 40]
    assert rows[1]["after"] > 0.5
    assert 0 < rows[0]["half_effort"] <= 40


def test_points_of_several_checkpoints_are_collected_for_uwc_robustness(files: dict[str, str], tmp_path: Path) -> None:
    points = tmp_path / "points.jsonl"
    for model in (files["model"], files["never"]):
        run(
            model, "--data", files["scored"], "--attack", "jailbreak", "--attack", "quantization",
            "--set", "jailbreak.kinds=[pressure]", "--points", str(points), "--split", "retain",
        )  # fmt: skip
    found = read_points(points)
    assert [(p.checkpoint, p.attack, p.touches_weights) for p in found] == [
        (files[m], a, a == "quantization") for m in ("model", "never") for a in ("jailbreak", "quantization")
    ]
    assert {p.split for p in found} == {"retain"}
    assert found[0].before > 0.9 and found[2].before == 0.0
    result = CliRunner().invoke(app, ["robustness", str(points), "--json"], catch_exceptions=False)
    assert {c["attack"] for c in json.loads(result.stdout)["agreement"]} == {"jailbreak", "quantization"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attack", "relearn"], "'relearn' needs examples of the forgotten data"),
        (["--attack", "relern"], "did you mean 'relearn'"),
        (["--attack", "probe+relearn"], "must come before"),
        (["--attack", "prefix", "--set", "prefix.tokens=0"], "tokens = 0"),
        (["--attack", "prefix", "--set", "prefix"], "NAME=VALUE"),
        (["--attack", "prefix", "--set", "tokens=2"], "NAME.SETTING=VALUE"),
        (["--attack", "prefix", "--set", "probe.epochs=2"], "'probe', which is not among the attacks: prefix"),
        (["--attack", "sampling"], "changes only how answers are generated"),
        (["--attack", "prefix", "--metric", "es"], "unknown metric 'es'"),
        (["--attack", "prefix", "--curve", "1,two"], "write numbers with commas"),
        (["--attack", "prefix+token_noise", "--curve", "1"], "a curve is of one attack"),
        (["--attack", "paraphrase", "--curve", "1"], "has no effort to vary"),
        (["--attack", "translation"], "--translation-column"),
        (["--attack", "prefix", "--curve", "1", "--points", "points.jsonl"], "exclude each other"),
    ],
)
def test_mistakes_are_refused_before_any_model_is_loaded(tmp_path: Path, options: list[str], message: str) -> None:
    """The model does not exist; the mistake is found first."""
    scored = written(tmp_path / "scored.jsonl", people(4))
    with pytest.raises(UserError, match=message):
        run(str(tmp_path / "nowhere"), "--data", scored, *options)


def test_a_depth_that_does_not_exist_is_refused_from_the_configuration_alone(files: dict[str, str]) -> None:
    for weights in Path(files["model"]).glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(UserError, match="layer 9 does not exist; the model has 2 blocks"):
        run(
            files["model"], "--data", files["scored"], "--attacker-data", files["owned"], "--attack", "probe",
            "--set", "probe.layers=[9]",
        )  # fmt: skip


def test_scored_examples_in_the_attackers_hands_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(UserError, match="overlap"):
        run(files["model"], "--data", files["scored"], "--attacker-data", files["scored"], "--attack", "relearn")
