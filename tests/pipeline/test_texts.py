"""`uwc score --outputs` and `uwc check --outputs`: texts of a system that is not a checkpoint, by the command line."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import people
from tests.pipeline.conftest import validate_result
from typer.testing import CliRunner, Result

import uwc
from uwc.cli.main import app
from uwc.data.example import Example
from uwc.models.model import Model
from uwc.results import CheckResults, Scores

SECRET = people(6)
FORGET = [replace(e, secret=(e.answer.split()[-1],)) for e in SECRET[:6]]
RETAIN = SECRET[6:]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(folder: Path, name: str, examples: list[Example]) -> Path:
    names = ("id", "question", "answer", "subject", "secret")
    return lines(folder / f"{name}.jsonl", [{n: getattr(e, n) for n in names} for e in examples])


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path: Path) -> list[str | Path]:
    """The options of a system that says nothing, as the original says the answers, and one of two variants brings them
    back for the first person."""
    everything = [*FORGET, *RETAIN]
    says = {e.id: "I do not know" if e in FORGET else e.answer for e in everything}
    outputs = lines(tmp_path / "out.jsonl", [{"id": i, "model_output": text} for i, text in says.items()])
    before = lines(tmp_path / "before.jsonl", [{"id": e.id, "output": e.answer} for e in everything])
    attacked = [
        {"id": e.id, "variant": v, "output": e.answer if v == "b" and e in FORGET[:2] else "no", "prompt": f"{v}!"}
        for v in ("a", "b")
        for e in FORGET
    ]
    jail = lines(tmp_path / "jail.jsonl", attacked)
    return [
        *("--outputs", outputs, "--column", "output=model_output", "--before", before, "--under", f"jailbreak={jail}"),
        *("--forget", questions(tmp_path, "forget", FORGET), "--retain", questions(tmp_path, "retain", RETAIN)),
    ]


def test_scores_differences_recovery_and_the_page(files: list[str | Path], tmp_path: Path) -> None:
    """The original says all six secrets, the system none, and the worst of its variants two of six."""
    done = run("score", *files, "-o", tmp_path / "scores")
    assert done.exit_code == 0, done.output
    validate_result(tmp_path / "scores" / "score.json")
    scores = Scores.load(tmp_path / "scores" / "score.json")
    means = {(s.set, s.metric): s.mean for s in scores.scores}
    assert means["forget", "secret_said"] == 0 and means["retain", "rouge_l"] == 1
    assert {(d.set, d.metric): d.mean for d in scores.differences}["forget", "secret_said"] == -1
    assert scores.kind == "texts" and set(scores.files) == {"out.jsonl", "before.jsonl", "jail.jsonl"}
    assert scores.left_out["extraction_strength"] == "the model's weights"
    assert scores.attacks is not None
    (outcome,) = (o for o in scores.attacks.models[0].outcomes if o.metric == "secret_said")
    assert outcome.worst_case is not None
    assert (outcome.before.mean, outcome.after.mean, outcome.worst_case.mean) == pytest.approx((0, 1 / 6, 1 / 3))
    assert outcome.recovery.mean == pytest.approx(1 / 6) and outcome.recovery.clusters == 3
    table = scores.answers
    assert table.groupby(["role", "condition", "attack", "variant"]).size().to_dict() == {
        ("original", "as delivered", "", ""): 12,
        ("unlearned", "as delivered", "", ""): 12,
        ("unlearned", "attack", "jailbreak", "a"): 6,
        ("unlearned", "attack", "jailbreak", "b"): 6,
    }
    assert (tmp_path / "scores" / "answers.html").exists()
    for said in ("jailbreak", "-1", "perplexity"):
        assert said in done.output


def test_a_check_of_texts_decides_what_texts_show(files: list[str | Path], tmp_path: Path) -> None:
    """With six clusters in all nothing of the forget set can be met, and weights are named where they are needed."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        """
name: mine
requirements:
  - {name: said, metric: rouge_l, at_least: 0.9}
  - {name: brought-back, metric: secret_said, attack: jailbreak, variants: worst, at_most: 0.9}
  - {name: strength, metric: extraction_strength, at_most: 0.1}
  - {name: rounded, metric: rouge_l, precision: int4, at_most: 0.1, optional: true}
  - {name: without-control, metric: rouge_l, relative_to: retrained, at_most: 0.1, optional: true}
""",
        encoding="utf-8",
    )
    done = run("check", *files, "--policy", policy, "-o", tmp_path / "checks")
    assert done.exit_code in (5, 6), done.output
    validate_result(tmp_path / "checks" / "out" / "check.json")
    results = CheckResults.load(tmp_path / "checks" / "out" / "check.json")
    found = {r.name: r for r in results.verdict.requirements}
    assert found["said"].score == 0 and found["brought-back"].score == pytest.approx(1 / 3)
    assert found["strength"].status == "undecided" and "weights" in found["strength"].reason
    assert {found[name].status for name in ("rounded", "without-control")} == {"left out"}
    assert results.model.kind == "texts" and set(results.model.files) >= {"out.jsonl"}
    assert (tmp_path / "checks" / "out" / "signoff.html").exists()
    again = run("check", *files, "-o", tmp_path / "checks", "--json")
    assert CheckResults.parse(again.stdout, where="stdout").verdict.policy == "texts"


def test_an_evaluation_log_by_either_definition(tmp_path: Path) -> None:
    """A wrong answer at 1/4 and one at 1/16 against a true one at 1/2: R is 5/16, or geometrically 1/4."""
    half, quarter = 0.6931471805599453, 1.3862943611198906
    of_set = {
        "avg_gt_loss": {"0": half, "1": half},
        "avg_paraphrased_loss": {"0": half, "1": half},
        "average_perturb_loss": {"0": [quarter, 2 * quarter], "1": [quarter, 2 * quarter]},
        "rougeL_recall": {"0": 0.5, "1": 0.5},
        "generated_text": {i: [f"Question: {i}?\n", "a b", "a b c d"] for i in ("0", "1")},
    }
    log = tmp_path / "log.json"
    log.write_text(json.dumps({"eval_log_forget.json": of_set, "eval_log.json": of_set}), encoding="utf-8")
    setting = "score.settings.truth_ratio_utility.definition=geometric"
    for options, wrong in (((), 5 / 16), (("--set", setting), 1 / 4)):
        done = run("score", "--outputs", log, "--retrained", log, *options, "-o", tmp_path / "out", "--json")
        scores = Scores.parse(done.stdout, where="stdout")
        means = {(s.set, s.metric): s.mean for s in scores.scores}
        assert means["retain", "truth_ratio_utility"] == pytest.approx(1 - wrong)
        assert means["forget", "forget_quality"] == 1 and means["forget", "rouge_l"] == 0.5
        assert "real_authors" in scores.left_out["model_utility"]
        assert Scores.load(tmp_path / "out" / "score.json").to_json() == scores.to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--column", "output=nosuch"), "nosuch"),
        (("--metric", "probability"), "model's weights"),
        (("--under", "jail"), "NAME=FILE"),
        (("--under", "forget=x.jsonl"), "'forget'"),
        (("--original", "model"), "--before"),
        (("--outputs", "empty.jsonl"), "empty"),
        (("--forget", "none.jsonl"), "no question"),
    ],
)
def test_wrong_options_are_named_in_one_line(
    change: tuple[str, str], words: str, files: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    questions(tmp_path, "none", [Example(id="n", question="Who else?", answer="nobody")])
    done = run("score", *files, *change)
    assert done.exit_code == 1 and isinstance(done.exception, uwc.UserError)
    assert words in str(done.exception) and "\n" not in str(done.exception)


def test_texts_of_a_model_have_its_own_values_to_the_bit(knowing: Model, tmp_path: Path) -> None:
    """The answers that uwc writes, and JSON lines made of them, read as texts."""
    sets = {"forget": FORGET, "retain": RETAIN}
    metrics = ["rouge_l", "rouge_1_f1", "secret_said", "rouge_l_ascii"]
    ours = uwc.score(knowing, sets, metrics=metrics, max_new_tokens=12, output_dir=tmp_path / "model")
    table = ours.answers
    rows = table[table["set"].isin(["forget", "retain"])]
    path = lines(tmp_path / "out.jsonl", rows[["set", "id", "generated"]].to_dict("records"))
    names = {"answers": uwc.Outputs(tmp_path / "model" / "answers.parquet"), "lines": uwc.Outputs(path)}
    for name, given in (("answers", None), ("lines", sets)):
        theirs = uwc.score(names[name], given, metrics=metrics)
        scores = [score for score in ours.scores if name == "answers" or not score.set.endswith("paraphrased")]
        assert list(theirs.scores) == scores
        assert ours.secrets[0].said == theirs.secrets[0].said


def test_a_model_takes_no_texts_and_texts_take_no_model(knowing: Model, tmp_path: Path) -> None:
    texts = uwc.Outputs([{"question": "q", "answer": "a", "output": "x"}])
    for arguments in ({"original": texts}, {"under": {"x": texts}}):
        with pytest.raises(uwc.UserError):
            uwc.score(knowing, FORGET, **arguments)  # type: ignore[arg-type]
    for wrong in ({"original": knowing}, {"compare": knowing}, {"compat": "open-unlearning"}):
        with pytest.raises(uwc.UserError):
            uwc.score(texts, **wrong)  # type: ignore[arg-type]
    for refused in ({"original": knowing}, {"overrides": ["model.dtype=bfloat16"]}):
        with pytest.raises(uwc.UserError):
            uwc.check(texts, output_dir=tmp_path, **refused)
    with pytest.raises(uwc.UserError):
        uwc.check(knowing, forget=FORGET, output_dir=tmp_path)


@pytest.mark.parametrize("wrong", ["model.dtype=bfloat16", "score.max_new_tokens=3"])
def test_a_setting_of_models_is_refused_for_texts(wrong: str, files: list[str | Path]) -> None:
    done = run("score", *files, "--set", wrong)
    assert done.exit_code and wrong.partition("=")[0] in str(done.exception)


def test_the_command_of_a_check_repeats_it(files: list[str | Path], tmp_path: Path) -> None:
    further = questions(tmp_path, "more", [replace(e, question=f"And {e.question}") for e in FORGET])
    rows = [{"set": "more", "question": f"And {e.question}", "model_output": "no"} for e in FORGET]
    with Path(files[1]).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    given = (*files, "--set", "seed=3", "--set", f"benchmark.settings.further.more={further}", "-o", tmp_path / "one")
    done = run("check", *given, "--keep-paths")
    assert done.exit_code in (5, 6), done.exception
    first = CheckResults.load(tmp_path / "one" / "out" / "check.json")
    run("check", *shlex.split(first.command)[2:], "-o", tmp_path / "two", "--keep-paths")
    second = CheckResults.load(tmp_path / "two" / "out" / "check.json")
    assert "more" in second.sets and second.verdict.model_dump_json() == first.verdict.model_dump_json()
