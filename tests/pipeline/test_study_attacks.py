"""Attacks as steps of a study, through the real command line: results, reuse, and what is refused beforehand."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.pipeline.conftest import TINY, Run, run_command

from uwc.errors import UserError
from uwc.studies.config_file import load_config
from uwc.studies.plan import make_plan

ATTACK = """
attack:
  models: [unlearned, calibrated, original, retrained]
  attacker: {forget_share: 0.5}
  examples: 2
  chains:
    - {chain: jailbreak, settings: {jailbreak: {kinds: [hypothesis, answer prefix]}}}
    - {chain: relearn+probe, name: relearn and probe, settings: {relearn: {budgets: [1, 2], lr: 1.0e-3}}}
    - {chain: [token_noise], settings: {token_noise: {rate: 0.2}}}
    - {chain: sampling, settings: {sampling: {samples: 2}}}
"""
STUDY = (
    TINY.replace("authors: 10, forget_share: 0.2", "authors: 10, forget_share: 0.4")
    .replace("context: 128", "context: 256")
    .replace("[{method: gd}, {method: npo}, {method: rmu}]", "[{method: gd}, {method: npo}]")
    .replace("score: {", "score: {metrics: [extraction_strength, perplexity, rouge_l, kl_to_original, "
             "truth_ratio_arithmetic], ")
    + ATTACK
)  # fmt: skip
CHAINS = ["jailbreak", "relearn and probe", "token_noise", "sampling"]
MODELS = ["gd", "npo", "gd, calibrated", "npo, calibrated", "original", "retrained"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the study was run."""
    place = tmp_path_factory.mktemp("attacked")
    (place / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    done = run_command("study", "run", "tiny.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    """The study's results."""
    found: dict[str, Any] = json.loads((folder / "runs" / "tiny" / "results.json").read_text(encoding="utf-8"))
    return found


def test_every_model_is_attacked_in_every_way(results: dict[str, Any]) -> None:
    attacks = results["attacks"]
    assert [c["name"] for c in attacks["chains"]] == CHAINS
    assert attacks["chains"][1]["attack"] == "relearn+probe" and attacks["chains"][1]["touches_weights"]
    assert [m["name"] for m in attacks["models"]] == MODELS
    for model in attacks["models"]:
        assert not model["failed"] and list(model["outcomes"]) == CHAINS
        for chain in CHAINS[:3]:
            outcome = model["outcomes"][chain]["forget"]["extraction_strength"]
            before = model["before"]["forget"]["extraction_strength"]
            assert outcome["after"]["n"] == before["n"] == 2
            expected = outcome["after"]["mean"] - before["mean"]
            assert outcome["difference"]["mean"] == pytest.approx(expected)


def test_the_gold_model_is_the_control(results: dict[str, Any]) -> None:
    models = {m["name"]: m["outcomes"] for m in results["attacks"]["models"]}
    for chain in CHAINS[:3]:
        retrained, npo = (models[name][chain]["retain"]["extraction_strength"] for name in ("retrained", "npo"))
        assert npo["over_control"]["mean"] == pytest.approx(npo["after"]["mean"] - retrained["after"]["mean"])
        assert retrained["over_control"]["mean"] == 0.0
        for which in {"strongest"} & set(npo):
            above = npo[which]["mean"] - retrained[which]["mean"]
            assert npo["strongest_over_control"]["mean"] == pytest.approx(above)


def test_after_is_the_mean_of_variants_and_of_budgets_the_largest(results: dict[str, Any]) -> None:
    outcomes = results["attacks"]["models"][0]["outcomes"]
    jailbreak = outcomes["jailbreak"]["forget"]["extraction_strength"]
    means = [v["mean"] for v in jailbreak["variants"]]
    assert len(means) == 3 and jailbreak["after"]["mean"] == pytest.approx(sum(means) / 3)
    assert jailbreak["strongest"]["mean"] >= max(means)
    relearned = outcomes["relearn and probe"]["forget"]["extraction_strength"]
    assert [v["effort"] for v in relearned["variants"]] == [1.0, 1.0, 2.0, 2.0]
    assert all(v["changed"] > 0.95 for v in relearned["variants"]) and jailbreak["variants"][0]["changed"] is None
    assert relearned["after"]["mean"] == pytest.approx(sum(v["mean"] for v in relearned["variants"][2:]) / 2)


def test_metrics_with_a_reference_or_wrong_answers_are_measured_under_attack(results: dict[str, Any]) -> None:
    original = next(m for m in results["attacks"]["models"] if m["name"] == "original")
    assert original["before"]["forget"]["kl_to_original"]["mean"] == 0.0
    under = original["outcomes"]
    assert under["jailbreak"]["forget"]["kl_to_original"]["after"]["mean"] == 0.0
    assert under["relearn and probe"]["forget"]["kl_to_original"]["after"]["mean"] > 0.0
    assert under["token_noise"]["forget"]["truth_ratio_arithmetic"]["after"]["n"] == 2


def test_an_attack_on_decoding_is_seen_by_texts_alone(results: dict[str, Any]) -> None:
    assert results["attacks"]["chains"][3]["metrics"] == ["rouge_l"]
    assert list(results["attacks"]["models"][0]["outcomes"]["sampling"]["forget"]) == ["rouge_l"]


def test_the_statistics_are_over_the_unlearned_models(results: dict[str, Any]) -> None:
    found = results["robustness"]
    assert found["checkpoints"] == 2 and {p["checkpoint"] for p in found["points"]} == {"gd", "npo"}
    assert all(any("only 2 checkpoints" in w for w in cell["agreement"]["warnings"]) for cell in found["cells"])
    assert found["log_metrics"] == ["perplexity", "truth_ratio_arithmetic"]
    auc = {r["metric"]: r["auc"] for r in found["faithfulness"] if r["set"] == "forget"}
    assert auc["extraction_strength"] == auc["perplexity"] == 1.0


def test_the_report_tells_it(folder: Path) -> None:
    page = (folder / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    for words in (
        "Under attack",
        "Which metrics hold under attack",
        "relearn and probe",
        "Faithfulness",
        "panels-retain",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("change", "repeated"),
    [
        ("attack.chains.2.settings.token_noise.rate=0.3", {f"attack {m} with token_noise" for m in MODELS}),
        ("attack.chains.2.name=noise", set()),
        ("calibrate.tau=0.8", {f"{kind} {m}" for m in ("gd", "npo") for kind in ("calibrate",)}
         | {f"attack {m}, calibrated with {c}" for m in ("gd", "npo") for c in CHAINS}),
    ],
)  # fmt: skip
def test_a_changed_attack_repeats_itself_alone(folder: Path, change: str, repeated: set[str]) -> None:
    arguments = ("study", "plan", "tiny.yaml", "--set", change, "--json")
    plan = run_command(*arguments, cwd=folder)
    assert {s["name"] for s in json.loads(plan.stdout) if s["status"] == "missing"} == repeated


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("attack.chains=[jailbreak+relearn]", "'relearn' changes the weights, and must come before 'jailbreak'"),
        ("attack.chains=[relearn+fooo]", "unknown attack 'fooo'"),
        ("attack.chains=[{chain: probe, settings: {probe: {layers: [7]}}}]", "layer 7 does not exist; the model has 2"),
        ("attack.chains=[{chain: probe, settings: {layers: [1]}}]", "settings are given by attack"),
        ("attack.chains=[{chain: token_noise, settings: {token_noise: {rate: 2}}}]", "rate = 2"),
        ("attack.chains=[probe, probe]", "two attacks are called 'probe'"),
        ("attack.chains=[translation]", "needs translated questions"),
        ("attack.attacker.forget_share=0", "'relearn' needs examples of the forgotten data"),
        ("attack.attacker.forget_share=1", "attack.attacker.forget_share = 1"),
        ("attack.attacker.unrelated=retain_eval", "attacker's unrelated and scored sets overlap"),
        ("attack.sets=[forgotten]", "unknown set in attack.sets 'forgotten'"),
        ("attack.models=[retrainedd]", "Input should be 'unlearned', 'calibrated', 'original' or 'retrained'"),
        ("attack.metrics=[exact_memorization]", "'exact_memorization' is not among score.metrics"),
        ("attack.metrics=[perplexity]", "changes only how answers are generated"),
        ("retrained=false", "names retrained, and the study has no retrained model"),
        ("calibrate=null", "names calibrated, and with calibrate: null no model is calibrated"),
    ],
)
def test_mistakes_are_refused_when_the_plan_is_made(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        make_plan(load_config(tmp_path / "tiny.yaml", overrides=[change]))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_mistake_is_one_line_and_nothing_is_run(uwc: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    done = uwc("study", "run", "tiny.yaml", "--set", "attack.chains=[jailbreak+relearn]")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "makes no sense" in done.stderr
    assert not list(tmp_path.glob("runs/store/*-*"))


def test_what_is_not_calibrated_is_scored_and_attacked_all_the_same(folder: Path) -> None:
    changes = ("name=plain", "calibrate=null", "attack.models=[unlearned, retrained]")
    arguments = ["study", "run", "tiny.yaml", "--json", *(part for c in changes for part in ("--set", c))]
    done = run_command(*arguments, cwd=folder)
    assert done.returncode == 0 and "0 to run" in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["ranking"] == [] and all("after" not in u for u in found["unlearned"])
    assert [m["name"] for m in found["attacks"]["models"]] == ["gd", "npo", "retrained"]
    assert "Nothing was calibrated" in (folder / "runs" / "plain" / "report.html").read_text(encoding="utf-8")
