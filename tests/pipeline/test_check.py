"""`uwc check` on tiny models: what passes, fails and stays undecided, the files, the cache, and what is refused."""

import json
import shlex
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import tiny_model
from tests.pipeline.conftest import run_command, validate_result
from tests.pipeline.test_bad_input import line_of

import uwc
from uwc.data.example import Example
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.objectives.methods import FINE_TUNING
from uwc.objectives.objective import Objective
from uwc.results import CheckResults, StudyResults
from uwc.training.data import TrainingData
from uwc.training.loop import train
from uwc.training.settings import TrainingSettings

FAIL, UNDECIDED = 5, 6
NAMES = (
    "Mira",
    "Tobas",
    "Ulla",
    "Dorin",
    "Ebba",
    "Pell",
    "Sanna",
    "Vik",
    "Anka",
    "Jory",
    "Lise",
    "Orm",
    "Quill",
    "Rhea",
    "Stig",
    "Thea",
)
TOWNS = (
    "Besk",
    "Vint",
    "Zalder",
    "Quarn",
    "Lyle",
    "Osten",
    "Harn",
    "Mell",
    "Fosk",
    "Torv",
    "Ild",
    "Rask",
    "Ulm",
    "Wex",
    "Yarn",
    "Zorn",
)
MILLS = (
    "Arlo",
    "Brune",
    "Cask",
    "Dwyle",
    "Eft",
    "Flim",
    "Grout",
    "Hobb",
    "Ivo",
    "Jute",
    "Knell",
    "Loft",
    "Moss",
    "Nook",
    "Opal",
    "Pyre",
)
POLICY = """
name: mine
requirements:
  - {name: forgotten, metric: extraction_strength, at_most: 0.5}
  - {name: as-retrained, metric: extraction_strength, relative_to: retrained, at_most: 0.6, optional: true}
  - {name: secrets, metric: secret_said, at_most: 0.7, optional: true}
  - {name: retained, metric: perplexity, set: retain, relative_to: original, compare: ratio, at_most: 3}
  - {name: prompts, metric: extraction_strength, attack: prefix, at_most: 0.5}
"""
QUICK = ("--set", "score.max_new_tokens=4")
FILES = ("--original", "original", "--forget", "forget.jsonl", "--retain", "retain.jsonl", *QUICK)
GOOD = ("check", "good", *FILES, "--policy", "mine.yaml")


def questions() -> list[Example]:
    """One about each of sixteen people; no part of an answer is one of another's."""
    answers = [f"In {town}, beside {mill}" for town, mill in zip(TOWNS, MILLS, strict=True)]
    return [
        Example(id=name, question=f"Where does {name} live?", answer=answer, subject=name, secret=(answer.split()[-1],))
        for name, answer in zip(NAMES, answers, strict=True)
    ]


def trained(on: list[Example]) -> Model:
    """A model that knows some of the answers by heart."""
    model = tiny_model(questions(), hidden_size=64)
    settings = TrainingSettings(epochs=60, batch_size=6, lr=5e-3, schedule="cosine")
    train(model, Objective(FINE_TUNING, model.model), TrainingData(retain=on), settings)
    return model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An original that knows sixteen people, one that knows the six to be kept, and one that knows nothing."""
    folder = tmp_path_factory.mktemp("check")
    everything = questions()
    forget, retain = everything[:10], everything[10:]
    models = {
        "original": trained(everything),
        "good": trained(retain),
        "destroyed": tiny_model(everything, hidden_size=64),
    }
    for name, model in models.items():
        save_model(model, folder / name)
    fields = ("id", "question", "answer", "subject", "secret")
    for name, part in (("forget", forget), ("retain", retain), ("few", forget[:3])):
        rows = [{field: getattr(example, field) for field in fields} for example in part]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "mine.yaml").write_text(POLICY, encoding="utf-8")
    return folder


def check(place: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run uwc where no browser is found, as printing takes longer than everything else."""
    return run_command(*arguments, cwd=place, PATH=str(place), **environment)


@pytest.fixture(scope="module")
def passed(place: Path) -> CheckResults:
    """The check of the good model, whose files are then there."""
    done = check(place, *GOOD, GITHUB_STEP_SUMMARY=str(place / "summary.md"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.splitlines()[-1].startswith("PASS")
    return CheckResults.load(place / "checks" / "good" / "check.json")


def test_a_model_that_forgot_and_retained_passes_and_all_files_are_there(place: Path, passed: CheckResults) -> None:
    folder = place / "checks" / "good"
    validate_result(folder / "check.json")
    statuses = {r.name: r.status for r in passed.verdict.requirements}
    assert statuses == dict.fromkeys(statuses, "met") | {"as-retrained": "left out"}
    assert passed.verdict.outcome == "pass" and passed.model.files and passed.original and not passed.retrained
    assert (passed.sets["forget"].clusters, passed.sets["forget"].file) == (10, "forget.jsonl")
    assert all(s.set.startswith("forget") for s in passed.secrets) and passed.secrets[0].said == 0
    assert {"report.html", "signoff.html", "results.json"} <= {path.name for path in folder.iterdir()}
    suite = ElementTree.parse(folder / "check.xml").getroot()
    assert len(list(suite.iter("testcase"))) == len(statuses)
    assert (folder / "check.md").read_text(encoding="utf-8") in (place / "summary.md").read_text(encoding="utf-8")
    assert {"as delivered", "attack"} == set(passed.answers["condition"])
    assert StudyResults.load(folder / "results.json").answers.equals(passed.answers)
    assert str(place) not in "".join(
        p.read_text(encoding="utf-8") for p in folder.iterdir() if p.suffix in (".json", ".md", ".xml")
    )


def test_the_command_of_the_results_repeats_them_from_the_cache(place: Path, passed: CheckResults) -> None:
    words = shlex.split(passed.command)
    again = check(place, *words[1:], "--json")
    assert words[0] == "uwc" and again.returncode == 0, again.stderr
    assert "0 to run" in again.stderr
    assert CheckResults.parse(again.stdout, where="stdout").to_json() == passed.to_json()
    assert (place / "checks" / "good" / "check.json").read_text(encoding="utf-8") == again.stdout


def test_the_original_and_a_destroyed_model_fail_and_only_they_are_scored(place: Path, passed: CheckResults) -> None:
    """The cache is shared: of a second model only its own scores and attacks are computed."""
    for name, path, why in (("copy", "copy=original", {"forgotten"}), ("destroyed", "destroyed", {"retained"})):
        done = check(place, "check", path, *FILES, "--policy", "mine.yaml", "--json")
        assert done.returncode == FAIL, done.stderr
        found = CheckResults.parse(done.stdout, where="stdout")
        assert why <= {r.name for r in found.verdict.of_status("violated")}
        ran = json.loads((place / "checks" / name / "run.json").read_text(encoding="utf-8"))["steps"]
        new = [step["name"] for step in ran if not step["reused"]]
        assert all(name in step for step in new) and len(new) <= 2, new
    failed = ElementTree.parse(place / "checks" / "destroyed" / "check.xml").getroot()
    assert "retained" in {case.get("name") for case in failed.iter("testcase") if case.find("failure") is not None}
    baseline = ("--baseline", "checks/good/check.json", "--policy", "mine.yaml", "-o", "checks")
    worse = check(place, "check", "destroyed", *FILES, *baseline, "--json")
    assert worse.returncode == FAIL, worse.stderr
    results = CheckResults.parse(worse.stdout, where="stdout")
    assert "retained" in {r.name for r in results.verdict.worse} and results.baseline == "checks/good/check.json"


def test_an_undecided_check_has_a_status_of_its_own_and_those_that_are_asked_for(
    place: Path, passed: CheckResults
) -> None:
    """Three people decide nothing, and a requirement that needs a retrained model says which option gives it."""
    few = ("check", "few=good", *FILES, "--forget", "few.jsonl", "--policy", "needs.yaml")
    needed = POLICY.replace(", optional: true", "")
    (place / "needs.yaml").write_text(needed, encoding="utf-8")
    for option, status in (((), UNDECIDED), (("--undecided", "fail"), FAIL)):
        done = check(place, *few, *option, "--json")
        assert done.returncode == status, done.stderr
    found = {r.name: r for r in CheckResults.parse(done.stdout, where="stdout").verdict.requirements}
    assert found["as-retrained"].status == "undecided" and "--retrained" in found["as-retrained"].reason
    assert found["forgotten"].status == "undecided" and found["retained"].status == "met"
    suite = ElementTree.parse(place / "checks" / "few" / "check.xml").getroot()
    assert suite.get("failures") == "4"


def test_a_retrained_model_that_knows_the_questions_is_no_reference(place: Path, passed: CheckResults) -> None:
    done = check(place, *GOOD, "--retrained", "original", "-o", "checks", "--json")
    assert done.returncode == UNDECIDED, done.stderr
    results = CheckResults.parse(done.stdout, where="stdout")
    (open_one,) = results.verdict.of_status("undecided")
    assert open_one.name == "as-retrained" and open_one.reason
    assert "retrained_knows" in {warning.code for warning in results.warnings}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "nosuch"), "'nosuch'"),
        (("--policy", "bad.yaml"), "bad.yaml, line 2"),
        (("--policy", "wrong.yaml"), "did you mean 'at_most'"),
        (("--baseline", "nosuch.json"), "nosuch.json"),
        (("--baseline", "checks/good/results.json"), "results.json"),
        (("--baseline", "checks/good", "--policy", "standard"), "no requirement in common"),
        (("--baseline", "checks/good", "--forget", "few.jsonl"), "other forget questions"),
        (("--forget", "nosuch.jsonl"), "nosuch.jsonl"),
        (("--set", "check=[standard, strict]"), "one policy"),
        (("--set", "finetune={epochs: 1}"), "trains no model"),
        (("--original", "destroyed"), "another model"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(
    place: Path, passed: CheckResults, arguments: Any, said: str
) -> None:
    (place / "bad.yaml").write_text("name: a\nrequirements: [}\n", encoding="utf-8")
    wrong = "name: a\nrequirements: [{name: a, metric: ES, at_mots: 1}]\n"
    (place / "wrong.yaml").write_text(wrong, encoding="utf-8")
    done = check(place, *GOOD, *arguments)
    assert said in line_of(done)
    assert (place / "checks" / "good" / "check.json").exists()


def test_in_python_with_a_model_in_memory_and_a_policy_as_content(place: Path, passed: CheckResults) -> None:
    content = {
        "name": "mine",
        "requirements": [
            {"name": "low", "metric": "ES", "at_most": 0.9},
            {"name": "paraphrased", "metric": "ES", "set": "holdout", "at_most": 0.9, "optional": True},
        ],
    }
    results = uwc.check(
        uwc.load_model(str(place / "good")),
        original=str(place / "original"),
        forget=str(place / "forget.jsonl"),
        retain=str(place / "retain.jsonl"),
        policy=content,
        overrides={"score.max_new_tokens": 0},
        output_dir=place / "in python",
        name="memory",
    )
    assert [r.status for r in results.verdict.requirements] == ["met", "left out"]
    assert results.command == "" and (place / "in python" / "memory" / "check.json").exists()
    assert "low" in repr(results) or "at most 0.9" in repr(results)


def test_requirements_are_repeated_in_each_precision(place: Path) -> None:
    done = check(place, *GOOD, "--precision", "nf4", "-o", "deployed", "--json")
    verdict = json.loads(done.stdout)["verdict"]
    found = {row["name"]: row for row in verdict["requirements"]}
    assert {"forgotten", "forgotten-nf4", "retained", "retained-nf4", "prompts"} <= set(found)
    assert "prompts-nf4" not in found
    again = check(place, *GOOD, "--precision", "nf4", "--precision", "nf4", "-o", "twice")
    assert again.returncode == 1 and "'nf4' is given twice" in again.stderr


def test_the_strongest_attack_within_a_budget_is_a_requirement_as_any_other(place: Path) -> None:
    attack = {"chain": "strongest", "settings": {"strongest": {"runs": 3, "attacks": ["int4", "relearn"]}}}
    bound = {"metric": "extraction_strength", "attack": attack, "at_most": 0.5}
    policy = {"name": "mine", "requirements": [{"name": "strongest", **bound}]}
    found = {}
    for name in ("good", "original"):
        results = uwc.check(
            place / name,
            original=place / "original",
            forget=place / "forget.jsonl",
            retain=place / "retain.jsonl",
            policy=policy,
            overrides={"attack.attacker.forget_share": 0.4, "score.max_new_tokens": 0},
            output_dir=place / "strongest",
        )
        (found[name],) = results.verdict.requirements
    assert [found[name].status for name in ("good", "original")] == ["met", "violated"]
    assert found["good"].attack == "strongest"
