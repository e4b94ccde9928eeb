"""The commands for one's own checkpoints, on saved models, through the real command line."""

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.conftest import people
from tests.pipeline.conftest import Run
from transformers import AutoModelForCausalLM
from typer.main import get_command
from typer.testing import CliRunner

import uwc as package
from uwc.cli.main import app
from uwc.cli.study import study
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import CalibrationResults


@pytest.fixture
def workplace(tmp_path: Path, knowing: Model) -> Path:
    """A model that knows four people, and files of what to forget and what to keep."""
    save_model(knowing, tmp_path / "original")
    for name, part in (("forget", people(4)[:4]), ("retain", people(4)[4:])):
        rows = [
            {"id": e.id, "q": e.question, "a": e.answer, "subject": e.subject, "other": e.paraphrased_question}
            for e in part
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_unlearn_score_and_calibrate(uwc: Run, workplace: Path) -> None:
    columns = ("--column", "question=q", "--column", "answer=a", "--column", "paraphrased_question=other")
    data = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", *columns)
    settings = ("--set", "training.lr=2.0e-3", "--set", "training.epochs=6", "--set", "training.batch_size=2")
    done = uwc("unlearn", "original", "--method", "gd", *data, "--output-dir", "unlearned", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "unlearned"
    AutoModelForCausalLM.from_pretrained(workplace / "unlearned")

    done = uwc("score", "unlearned", "--data", "forget.jsonl", *columns, "--original", "original", "--json")
    rows = {(r["set"], r["metric"]): r for r in json.loads(done.stdout)["scores"]}
    strength = rows["forget", "extraction_strength"]
    assert strength["n"] == 4 and strength["clusters"] == 2
    assert rows["forget", "kl_to_original"]["mean"] > 0.1
    assert ("forget_paraphrased", "extraction_strength") in rows

    done = uwc("calibrate", "original", "unlearned", *data, "--tau", "0.9", "--save", "mixed", "--json")
    results = CalibrationResults.parse(done.stdout, where="stdout")
    assert results.calibration.kept[0].ratio >= 0.9
    assert 0 <= results.calibration.alpha <= 1
    forget = next(s for s in results.scores if (s.set, s.condition) == ("forget", "calibrated"))
    done = uwc("score", "mixed", "--data", "forget.jsonl", *columns, "--metric", "extraction_strength", "--json")
    assert json.loads(done.stdout)["scores"][0]["mean"] == pytest.approx(forget.mean)


def test_a_table_is_printed_without_json(uwc: Run, workplace: Path) -> None:
    done = uwc("score", "original", "--data", "forget.jsonl", "--column", "question=q", "--column", "answer=a")
    assert done.returncode == 0, done.stderr
    assert "extraction_strength" in done.stdout and "Error" not in done.stderr


def test_another_prompt_gives_other_scores(uwc: Run, workplace: Path) -> None:
    options = ("--column", "question=q", "--column", "answer=a", "--metric", "probability", "--json")
    usual = uwc("score", "original", "--data", "forget.jsonl", *options)
    other = uwc(
        "score",
        "original",
        "--data",
        "forget.jsonl",
        *options,
        "--set",
        "model.prompt={text: '{question}', chat: false}",
    )
    assert json.loads(usual.stdout)["scores"][0]["mean"] > 0.9 > json.loads(other.stdout)["scores"][0]["mean"]


def told(*arguments: str) -> Any:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["methods", "terms", "metrics", "attacks", "tricks", "benchmarks", "published"])
def test_lists_are_printed_as_json(kind: str) -> None:
    assert all(row["name"] for row in told("list", kind))


def test_numbers_in_lists_are_numbers() -> None:
    rows = {row["name"]: row for row in told("list", "metrics")}
    assert rows["probability"]["range"] == [0, 1] and rows["probability"]["higher_remembers"] is True
    assert rows["mia_min_k"]["settings"] == {"k": 0.4}
    tricks = {row["name"]: row for row in told("list", "tricks")}
    assert tricks["temperature"]["neutral"] == 1.0
    metric = told("explain", "ES")
    assert (metric["name"], metric["range"]) == ("extraction_strength", [0, 1])


def test_the_schema_of_a_study_has_its_sections_and_admits_the_shipped_ones() -> None:
    schema = json.loads(CliRunner().invoke(app, ["schema", "study"]).output)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert {"model", "benchmark", "unlearn", "score", "calibrate", "attack"} <= set(schema["properties"])
    assert "tau" in schema["$defs"]["CalibrateConfig"]["properties"]
    for name in ("quickstart", "compare"):
        text = (resources.files("uwc") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        assert set(yaml.safe_load(text)) <= set(schema["properties"])


def test_an_option_has_one_help_text_but_where_it_means_something_else() -> None:
    helps: dict[str, set[str]] = {}
    for group in (app, study):
        for command in vars(get_command(group))["commands"].values():
            for param in command.params:
                helps.setdefault(param.opts[0], set()).add(str(getattr(param, "help", "")))
    several = {name for name, texts in helps.items() if len(texts) > 1 and name.startswith("--")}
    of_models = {"--forget", "--retain", "--original", "--retrained", "--model", "--device"}
    assert several == of_models | {"--attack", "--metric", "--budget", "--output-dir", "--set", "--redact"}


def test_usage_has_one_pair_of_brackets_around_an_argument() -> None:
    for name in ("score", "audit", "check", "compare", "data"):
        told = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "120"}, prog_name="uwc").output
        (usage,) = re.findall(r"Usage: .*", told)
        assert not re.search(r"\[\[(?!NAME)|\.\.\.[\]}]?\.\.\.", usage), usage


def test_help_of_compare_has_groups_and_few_options(uwc: Run) -> None:
    told = uwc("compare", "--help", COLUMNS="120").stdout
    for group in ("Models", "Questions", "Measurement", "Attacks", "Output", "Further settings"):
        assert f"─ {group} ─" in told
    own, shared = told.split("Further options, described by uwc --help:")
    assert len(set(re.findall(r"--[a-z][a-z-]+", own)) - {"--help"}) == 16 and len(told.splitlines()) < 66
    names = "json plugin trust-remote-code device overwrite skip-invalid keep-paths log-to verify workers"
    assert re.findall(r"--([a-z-]+)", shared) == names.split()


def test_help_of_check_has_few_options_and_the_exit_statuses(uwc: Run) -> None:
    """Thirteen for a checkpoint, six for texts and servers."""
    told = uwc("check", "--help", COLUMNS="120").stdout
    own, shared = told.split("Further options, described by uwc --help:")
    before, _, texts = own.partition("─ Texts in place of a model ─")
    texts, _, after = texts.partition("╰")
    of_texts = set(re.findall(r"│ (--[a-z][a-z-]+)", texts))
    assert len(of_texts) == 6
    assert len(set(re.findall(r"│ (--[a-z][a-z-]+)", before + after)) - {"--help"}) == 13
    assert "0 pass, 5 fail, 6 undecided" in " ".join(own.split())
    assert "--log-to" not in shared


def test_options_that_help_of_a_command_only_names_are_described_by_uwc_help(uwc: Run) -> None:
    told = uwc("--help", COLUMNS="200").stdout
    described = dict(re.findall(r"• (--[a-z-]+): (.+)", told))
    commands = [c for group in (app, study) for c in vars(get_command(group))["commands"].values()]
    hidden = {o for c in commands for p in c.params if getattr(p, "hidden", False) for o in p.opts}
    assert hidden == set(described) and all(len(says.split()) > 4 for says in described.values())


def test_columns_of_one_file_and_of_every_file_that_has_them(uwc: Run, workplace: Path) -> None:
    """The retain file has the fields' own names, and needs no mapping; a column that no file has is refused."""
    rows = [json.loads(line) for line in (workplace / "retain.jsonl").read_text().splitlines()]
    renamed = [{"question": row["q"], "says": row["a"], "subject": row["subject"]} for row in rows]
    (workplace / "other.jsonl").write_text("\n".join(map(json.dumps, renamed)), encoding="utf-8")
    files = ("score", "original", "--forget", "forget.jsonl", "--retain", "other.jsonl", "--metric", "ES", "--json")
    columns = ("--column", "question=q", "--column", "forget:answer=a", "--column", "retain:answer=says")
    done = uwc(*files, *columns, "--set", "score.max_new_tokens=0")
    assert done.returncode == 0, done.stderr
    assert {(s["set"], s["n"]) for s in json.loads(done.stdout)["scores"]} == {("forget", 4), ("retain", 4)}
    refused = uwc(*files, "--column", "question=Customer Question").stderr
    for essential in ("'Customer Question'", "forget.jsonl: id, q, a", "other.jsonl: question, says"):
        assert essential in refused
    assert (
        "'holdout', which is not given; given: forget, retain" in uwc(*files, "--column", "holdout:question=q").stderr
    )


def test_a_plugin_is_loaded_before_its_metric_is_asked_for(uwc: Run, workplace: Path) -> None:
    plugin = """
import numpy as np
import uwc

@uwc.metric
def answer_tokens(scores):
    \"\"\"How many tokens the answer has.\"\"\"
    return scores.answer_lengths().astype(float)
"""
    (workplace / "mine.py").write_text(plugin, encoding="utf-8")
    columns = ("--column", "question=q", "--column", "answer=a")
    arguments = ("score", "original", "--forget", "forget.jsonl", *columns, "--metric", "answer_tokens", "--json")
    done = uwc(*arguments, "--plugin", "mine.py", "--set", "score.max_new_tokens=0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"][0]["mean"] >= 1
    assert "unknown metric 'answer_tokens'" in uwc(*arguments).stderr


def test_the_version_is_printed_by_a_process_that_imports_all_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "uwc", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == package.__version__


def test_the_public_names_are_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
