"""`uwc attack` through the real command line."""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people, tiny_model
from tests.pipeline.conftest import Started, validate_result
from typer.testing import CliRunner, Result

import uwc
from uwc.attacks.suffix_search import SuffixSearch
from uwc.cli.main import app
from uwc.data.example import Example
from uwc.errors import UserError
from uwc.models import chunks
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import AttackResults, RobustnessResults
from uwc.robustness import read_points


def written(path: Path, examples: list[Example], **more: Any) -> str:
    names = ("id", "question", "answer", "subject", "paraphrased_question")
    rows = [{n: getattr(e, n) for n in names} | {k: f(e) for k, f in more.items()} for e in examples]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path: Path, knowing: Model) -> dict[str, str]:
    save_model(knowing, tmp_path / "knowing")
    save_model(tiny_model(hidden_size=64), tmp_path / "never")
    return {
        "model": str(tmp_path / "knowing"),
        "never": str(tmp_path / "never"),
        "scored": written(
            tmp_path / "scored.jsonl",
            people(4)[:4],
            question_es=lambda e: f"¿{e.question}",
            alias=lambda e: f"{e.question} As said",
        ),
        "owned": written(tmp_path / "owned.jsonl", people(4)[4:]),
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["attack", *arguments], catch_exceptions=False)


def test_attacks_and_chains_are_measured_on_model_and_control(files: dict[str, str], tmp_path: Path) -> None:
    result = run(
        files["model"], "--data", files["scored"], "--attacker-data", files["owned"], "--retrained", files["never"],
        "--attack", "relearn+probe", "--attack", "translation", "--translation-column", "question_es",
        "--attack", "rewritten", "--question-column", "question_es", "--question-column", "alias",
        "--set", "attack.settings={relearn: {steps: 1}, probe: {epochs: 1, layers: [1, 2]}}", "--json",
        "-o", str(tmp_path / "out"),
    )  # fmt: skip
    validate_result(tmp_path / "out" / "attack.json")
    found = AttackResults.parse(result.stdout, where="stdout")
    assert found.to_dict() == AttackResults.load(tmp_path / "out" / "attack.json").to_dict()
    for model in found.attacks.models:
        for outcome in model.outcomes:
            chained = outcome.attack == "relearn+probe"
            labels = {"relearn+probe": ["layer 1", "layer 2"], "rewritten": ["question_es", "alias"]}
            assert [v.label for v in outcome.variants] == labels.get(outcome.attack, [""])
            assert (outcome.worst_case is not None) == (outcome.attack in labels)
            assert all((v.changed is not None) == chained for v in outcome.variants)
            assert outcome.recovery.mean == pytest.approx(outcome.after.mean - outcome.before.mean)
            known = model.model.role == "unlearned"
            assert outcome.before.mean == pytest.approx(1.0 if known else 0.0, abs=0.05)
            assert (outcome.over_control is not None) == known
        assert [o.attack for o in model.outcomes] == ["relearn+probe", "translation", "rewritten"]


def test_a_model_in_memory_is_attacked_as_its_folder_is(files: dict[str, str], knowing: Model) -> None:
    printed = run(files["model"], "--data", files["scored"], "--attack", "prefix", "--json").stdout
    ours = uwc.attack(knowing, files["scored"], ["prefix"], control=files["never"]).attacks.models[0].outcomes
    theirs = AttackResults.parse(printed, where="stdout").attacks.models[0].outcomes
    assert [o.model_copy(update={"over_control": None}) for o in ours] == list(theirs)


def test_perplexity_is_compared_by_a_ratio(files: dict[str, str]) -> None:
    printed = run(
        files["model"], "--data", files["scored"], "--attack", "jailbreak", "--metric", "perplexity",
        "--set", "attack.settings.jailbreak.kinds=[pressure]", "--json",
    ).stdout  # fmt: skip
    (outcome,) = AttackResults.parse(printed, where="stdout").attacks.models[0].outcomes
    assert outcome.recovery.kind == "ratio"
    assert outcome.recovery.mean == pytest.approx(outcome.after.mean / outcome.before.mean)


def test_an_attack_that_fails_is_told_and_the_others_are_kept(files: dict[str, str], tmp_path: Path) -> None:
    """A paraphrase that is the question itself changes no prompt."""
    rows = [{"question": e.question, "answer": e.answer, "paraphrased_question": e.question} for e in people(2)]
    same = tmp_path / "same.jsonl"
    same.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match="changes no prompt"):
        run(files["model"], "--data", str(same), "--attack", "paraphrase", "--attack", "prefix", "-o", str(tmp_path))
    found = AttackResults.load(tmp_path / "attack.json")
    assert [w.code for w in found.warnings] == ["few_clusters", "no_subjects"]
    (model,) = found.attacks.models
    assert [o.attack for o in model.outcomes] == ["prefix"] and list(model.failed) == ["paraphrase"]


def test_a_table_is_printed(files: dict[str, str]) -> None:
    """One row for each attack and metric; a ratio is marked as one."""
    metrics = ("--metric", "rouge_l", "--metric", "PPL")
    table = run(files["model"], "--data", files["scored"], "--attack", "prefix", *metrics).stdout
    rows = [line for line in table.splitlines() if "prefix" in line and "forget" in line]
    assert "before" in table and [("rouge_l" in row, " x " in row) for row in rows] == [(True, False), (False, True)]


def test_a_curve_has_the_effort_for_half_of_the_recovery(files: dict[str, str]) -> None:
    result = run(
        files["never"], "--data", files["scored"], "--attack", "relearn_original", "--original", files["model"],
        "--set", "attack.settings.relearn_original.lr=0.01", "--curve", "40,5", "--json",
    )  # fmt: skip
    (curve,) = AttackResults.parse(result.stdout, where="stdout").curves
    assert curve.efforts == (5, 40) and curve.over == "steps"
    assert curve.scores[1] > 0.5
    half = curve.half_recovery
    assert half is not None and 0 < half.effort <= 40 and half.low <= half.effort and half.clusters == 2


def test_rules_of_selection_are_compared_by_the_examples_for_half_of_the_recovery(
    files: dict[str, str], tmp_path: Path
) -> None:
    options = [
        files["never"], "--data", files["scored"], "--attacker-data", files["owned"], "--original", files["model"],
        "--attack", "relearn", "--over", "examples", "--curve", "1,3", "--select", "random", "--select", "fisher",
        "--set", "attack.settings.relearn.steps=2",
    ]  # fmt: skip
    printed = run(*options, "-o", str(tmp_path / "out")).stdout
    validate_result(tmp_path / "out" / "attack.json")
    found = AttackResults.load(tmp_path / "out" / "attack.json")
    assert [(c.select, c.over) for c in found.curves] == [("random", "examples"), ("fisher", "examples")]
    assert [row["select"] for row in found.half_table()] == ["random", "fisher"]
    assert "Half of the recovery" in printed and "> 3" in printed
    assert set(found.to_frame()["select"]) == {"random", "fisher"}
    message = "select: fisher has no effect, since all 4 examples are taken; lower relearn.examples"
    with pytest.raises(UserError, match=message):
        run(*options[:-7], "1,4", "--select", "fisher")


def test_points_of_several_checkpoints_are_collected_for_uwc_robustness(files: dict[str, str], tmp_path: Path) -> None:
    points = tmp_path / "points.jsonl"
    for model in (files["model"], files["never"]):
        run(
            model, "--data", files["scored"], "--attack", "jailbreak", "--attack", "quantization",
            "--set", "attack.settings.jailbreak.kinds=[pressure]", "--points", str(points), "--split", "retain",
        )  # fmt: skip
    found = read_points(points)
    assert [(p.checkpoint, p.attack, p.touches_weights) for p in found] == [
        (m, a, a == "quantization") for m in ("knowing", "never") for a in ("jailbreak", "quantization")
    ]
    assert {p.split for p in found} == {"retain"}
    assert found[0].before > 0.9 and found[2].before == 0.0
    command = ["robustness", str(points), "--json", "-o", str(tmp_path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    validate_result(tmp_path / "robustness.json")
    saved = RobustnessResults.load(tmp_path / "robustness.json")
    assert json.loads(result.stdout) == saved.to_dict()
    assert set(saved.to_frame()["attack"]) == {"jailbreak", "quantization"} == {row["attack"] for row in saved.table()}
    assert saved.headline.startswith("2 checkpoints")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attack", "relearn"], "'relearn' needs examples of the forgotten data"),
        (["--attack", "relern"], "did you mean 'relearn'"),
        (["--attack", "probe+relearn"], "must come before"),
        (["--attack", "prefix", "--set", "attack.settings.prefix.tokens=0"], "tokens = 0"),
        (["--attack", "prefix", "--set", "prefix"], "key.key=value"),
        (["--attack", "prefix", "--set", "prefix.tokens=2"], "unknown key .* 'prefix'; valid: model"),
        (
            ["--attack", "prefix", "--set", "attack.settings.probe.epochs=2"],
            "'probe', which is not among the attacks: prefix",
        ),
        (["--attack", "sampling"], "changes only how answers are generated"),
        (["--attack", "prefix", "--metric", "ess"], "unknown metric 'ess'"),
        (["--attack", "prefix", "--curve", "1,two"], "write numbers with commas"),
        (["--attack", "prefix+token_noise", "--curve", "1"], "a curve is of one attack"),
        (["--attack", "paraphrase", "--curve", "1"], "has no effort to vary"),
        (["--attack", "translation"], "--translation-column"),
        (["--attack", "relearn_original", "--select", "fisher"], "give --curve"),
        (
            ["--attack", "prefix", "--curve", "1", "--select", "fisher"],
            "'prefix' chooses no examples; these do: few_shot",
        ),
        (["--attack", "relearn_original", "--curve", "1", "--select", "fishy"], "select = 'fishy': .*'fisher'"),
        (["--attack", "relearn_original", "--curve", "1", *["--select", "fisher"] * 2], "name each rule once"),
        (["--attack", "rewritten"], "--question-column"),
        (["--attack", "rewritten", "--question-column", "nosuch"], "nosuch"),
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
            "--set", "attack.settings.probe.layers=[9]",
        )  # fmt: skip


def test_scored_examples_in_the_attackers_hands_are_refused(files: dict[str, str]) -> None:
    with pytest.raises(UserError, match="overlap"):
        run(files["model"], "--data", files["scored"], "--attacker-data", files["scored"], "--attack", "relearn")


def killed_before(number: int, done: Path) -> None:
    """Kill this process before a step of a search, and keep every step; each finished one is a line of a file."""
    chunks.EVERY = 0.0
    step = SuffixSearch.step

    def counted(self: SuffixSearch) -> None:
        if (len(done.read_text()) if done.exists() else 0) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self)
        with done.open("a") as file:
            file.write(".")

    SuffixSearch.step = counted  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_killed_search_continues_with_the_same_bits(files: dict[str, str], tmp_path: Path) -> None:
    """4 questions of 2 steps each: killed before the fourth step, and run to the end, 8 steps are taken in all."""
    settings = "attack.settings.gcg_per_question={steps: 2, candidates: 8, start: x x}"
    given = ["attack", files["model"], "--data", files["scored"], "--attack", "gcg_per_question", "--set", settings]
    whole, out, done = tmp_path / "whole", tmp_path / "out", tmp_path / "done"
    assert run(*given[1:], "-o", str(whole)).exit_code == 0
    for number, status in ((3, -signal.SIGKILL), (-1, 0)):
        started = Started(*given, "-o", out, cwd=tmp_path, before=partial(killed_before, number, done))
        assert started.end().returncode == status
        assert (out / ".chunks").exists() == bool(status)
    assert len(done.read_text()) == 8
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}
    for name in ("attack.json", "answers.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_the_strongest_of_a_grid_is_printed_written_and_drawn(files: dict[str, str], tmp_path: Path) -> None:
    result = run(
        files["model"], "--forget", files["scored"], "--attacker-data", files["owned"], "--retrained", files["never"],
        "--original", files["model"], "--attack", "relearn", "--attack", "int4", "--vary", "lr=1e-5,1e-3", "--set",
        "attack.settings.relearn.budgets=[1,2]", "-o", str(tmp_path / "out"),
    )  # fmt: skip
    validate_result(tmp_path / "out" / "strongest.json")
    found = uwc.StrongestResults.load(tmp_path / "out" / "strongest.json").strongest
    assert (found.folds, found.candidates, found.spent.runs, found.spent.steps) == (1, 3, 3, 4)
    assert len(found.surface) == 5 and len(found.chosen) == 1
    assert f"on the questions of the choice: {found.on_choice:.4g} under these attacks, " in result.stdout
    assert found.choice_before == pytest.approx(1)  # the model knows all of its questions
    assert (tmp_path / "out" / "surface.svg").read_text().startswith("<?xml")
    printed = " ".join(result.stdout.split())
    assert "the strongest attack of the grid (3 candidates) recovers" in printed
    assert "(original)" in printed
    assert "the attacks that were chosen" in printed and "the search: 3 runs, 4 training steps" in printed


def test_the_strongest_within_a_budget_as_json(files: dict[str, str]) -> None:
    result = run(
        files["model"], "--forget", files["scored"], "--attacker-data", files["owned"], "--attack", "jailbreak",
        "--attack", "int3", "--budget", "runs=4", "--json",
    )  # fmt: skip
    found = uwc.StrongestResults.parse(result.stdout, where="stdout").strongest
    assert (found.runs, found.over_control, found.recovered_share, found.surface) == (4, None, None, ())


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ([], "name an attack"),
        (["--vary", "lr=1e-5"], "name the attacks to try"),
        (["--attack", "relearn", "--budget", "10"], "write minutes=10"),
        (["--attack", "relearn", "--vary", "bits=4"], "none of the attacks has this setting"),
        (["--budget", "runs=3", "--curve", "1,2"], "--curve does not go together"),
        (["--attack", "int4", "--folds", "2"], "at least 3"),
        (["--attack", "int4", "--folds", "9"], "9 folds of 2 subjects"),
        (["--attack", "int4", "--folds", "3", "--attacker-data", "x.jsonl"], "leave one of them out"),
        (["--budget", "runs=3", "--metric", "rouge_l", "--metric", "probability"], "--metric once"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(files: dict[str, str], given: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        run(files["model"], "--forget", files["scored"], *given)
