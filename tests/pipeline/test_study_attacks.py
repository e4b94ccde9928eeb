"""Attacks as steps of a study, through the real command line: results, reuse, and what is refused beforehand."""

import json
from pathlib import Path

import pytest
from tests.pipeline.conftest import TINY, Run, run_command, validate_result

from uwc.errors import UserError
from uwc.results import ES, AttackOutcome, StudyResults
from uwc.studies import gather as gathering
from uwc.studies.config_file import load_config
from uwc.studies.plan import make_plan
from uwc.studies.store import Store

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
    .replace("score: {", "score: {metrics: [extraction_strength, perplexity, rouge_l, kl_to_original, "
             "truth_ratio_arithmetic], ")
    + ATTACK
)  # fmt: skip
CHAINS = ["jailbreak", "relearn and probe", "token_noise", "sampling"]
MODELS = ["gd", "npo", "gd, calibrated", "npo, calibrated", "original", "retrained"]
PROBED = "relearn and probe"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the study was run."""
    place = tmp_path_factory.mktemp("attacked")
    (place / "tiny.yaml").write_text(STUDY, encoding="utf-8")
    done = run_command("study", "run", "tiny.yaml", cwd=place)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def results(folder: Path) -> StudyResults:
    """The study's results."""
    path = folder / "runs" / "tiny" / "results.json"
    validate_result(path)
    return StudyResults.load(path)


def outcome(results: StudyResults, model: str, attack: str, name: str = "forget", metric: str = ES) -> AttackOutcome:
    """What an attack on a model did to a metric on a set."""
    assert results.attacks is not None
    attacked = {m.model.label: m for m in results.attacks.models}[model]
    found = attacked.outcome(attack, name, metric)
    assert found is not None
    return found


def test_every_model_is_attacked_in_every_way(results: StudyResults) -> None:
    attacks = results.attacks
    assert attacks is not None and [a.name for a in attacks.attacks] == CHAINS
    assert attacks.attacks[1].chain == ("relearn", "probe") and attacks.attacks[1].touches_weights
    assert [m.model.label for m in attacks.models] == MODELS
    for model in MODELS:
        for attack in CHAINS[:3]:
            found = outcome(results, model, attack)
            assert found.after.n == found.before.n == 2 and found.recovery.kind == "difference"
            assert found.recovery.mean == pytest.approx(found.after.mean - found.before.mean)


def test_a_metric_that_is_averaged_geometrically_is_compared_by_ratio(results: StudyResults) -> None:
    found = outcome(results, "npo", "jailbreak", metric="perplexity")
    assert found.recovery.kind == "ratio"
    assert found.recovery.mean == pytest.approx(found.after.mean / found.before.mean)


def test_the_retrained_model_is_the_control(results: StudyResults) -> None:
    for attack in CHAINS[:3]:
        retrained, npo = (outcome(results, model, attack, "retain") for model in ("retrained", "npo"))
        assert npo.over_control is not None and retrained.over_control is not None
        assert npo.over_control.mean == pytest.approx(npo.after.mean - retrained.after.mean)
        assert retrained.over_control.mean == 0.0
        if npo.worst_case is not None:
            assert retrained.worst_case is not None and npo.worst_case_over_control is not None
            above = npo.worst_case.mean - retrained.worst_case.mean
            assert npo.worst_case_over_control.mean == pytest.approx(above)


def test_after_is_the_mean_of_variants_and_of_budgets_the_largest(results: StudyResults) -> None:
    jailbreak = outcome(results, "gd", "jailbreak")
    means = [v.mean for v in jailbreak.variants]
    assert len(means) == 3 and jailbreak.after.mean == pytest.approx(sum(means) / 3)
    assert jailbreak.worst_case is not None and jailbreak.worst_case.mean >= max(means)
    relearned = outcome(results, "gd", PROBED)
    assert [v.effort for v in relearned.variants] == [1.0, 1.0, 2.0, 2.0]
    assert all((v.changed or 0) > 0.95 for v in relearned.variants) and jailbreak.variants[0].changed is None
    assert relearned.after.mean == pytest.approx(sum(v.mean for v in relearned.variants[2:]) / 2)


def test_metrics_with_a_reference_or_wrong_answers_are_measured_under_attack(results: StudyResults) -> None:
    diverged = {attack: outcome(results, "original", attack, metric="kl_to_original") for attack in CHAINS[:2]}
    assert diverged["jailbreak"].before.mean == diverged["jailbreak"].after.mean == 0.0
    assert diverged[PROBED].after.mean > 0.0
    assert outcome(results, "original", "token_noise", metric="truth_ratio_arithmetic").after.n == 2


def test_every_answer_is_in_the_table(results: StudyResults) -> None:
    """The attacked values are those of the results, and the texts those of the worst variants."""
    table = results.answers
    assert table.groupby(["role", "condition"]).ngroups == 8, "four roles, plain and under attack"
    assert table.loc[table["attack"] != PROBED, "generated"].notna().all()
    for key, scores in results.scored():
        model = (table["role"] == key.role) & (table["model"] == (key.run or key.role))
        plain = table[model & (table["condition"] != "attack")]
        for score in scores:
            values = plain.loc[plain["set"] == score.set, score.metric]
            assert len(values) == results.sets[score.set].examples and values.notna().sum() == score.n
            if score.metric == ES:
                assert values.mean() == score.mean
    for attack in CHAINS[:3]:
        rows = table.query("role == 'unlearned' and model == 'npo' and attack == @attack and set == 'forget'")
        found = outcome(results, "npo", attack)
        assert rows[ES].mean() == (found.worst_case or found.after).mean
        assert (rows["completed_from"] <= rows["answer"].str.len()).all()
    worst = table.query("attack == 'jailbreak'")
    assert not any(question == prompt for question, prompt in zip(worst["question"], worst["prompt"], strict=True))


def test_an_attack_on_decoding_is_seen_by_texts_alone(results: StudyResults) -> None:
    assert results.attacks is not None and results.attacks.attacks[3].metrics == ("rouge_l",)
    sampled = [o.metric for o in results.attacks.models[0].outcomes if o.attack == "sampling" and o.set == "forget"]
    assert sampled == ["rouge_l"]


def test_the_statistics_are_over_the_unlearned_models_where_they_are_enough(
    results: StudyResults, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models are too few; gathered again from the stored steps as if they were not."""
    assert results.robustness is None
    monkeypatch.setattr(gathering, "ENOUGH_MODELS", 2)
    plan = make_plan(load_config(str(folder / "tiny.yaml")))
    found = gathering.gather(plan, Store(folder / "runs" / "store")).robustness
    assert found is not None and found.checkpoints == 2 and {p.checkpoint for p in found.points} == {"gd", "npo"}
    assert all(any("only 2 checkpoints" in w for w in cell.agreement.warnings) for cell in found.cells)
    assert found.log_metrics == ("perplexity", "truth_ratio_arithmetic")
    auc = {r.metric: r.auc for r in found.faithfulness if r.set == "forget"}
    assert auc["extraction_strength"] == auc["perplexity"] == 1.0


def test_the_report_tells_it(folder: Path) -> None:
    page = (folder / "runs" / "tiny" / "report.html").read_text(encoding="utf-8")
    for words in (
        '<h2 id="attacks">',
        "relearn and probe",
    ):
        assert words in page
    assert "Robustness of the metrics" not in page


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
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1 and "is impossible" in done.stderr
    assert not list(tmp_path.glob("runs/store/*-*"))


def test_what_is_not_calibrated_is_scored_and_attacked_all_the_same(folder: Path) -> None:
    changes = ("name=plain", "calibrate=null", "attack.models=[unlearned, retrained]")
    arguments = ["study", "run", "tiny.yaml", "--json", *(part for c in changes for part in ("--set", c))]
    done = run_command(*arguments, cwd=folder)
    assert done.returncode == 0 and "0 to run" in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert found["ranking"] == [] and all(u["calibration"] is None for u in found["unlearned"])
    assert [m["model"]["role"] for m in found["attacks"]["models"]] == ["unlearned", "unlearned", "retrained"]
    assert "Nothing was calibrated" in (folder / "runs" / "plain" / "report.html").read_text(encoding="utf-8")
