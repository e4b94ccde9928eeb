"""Examples in docs/sign-off.md are valid: YAML parses, the policy loads, the CSV is read."""

import re
from pathlib import Path

import pytest
import yaml

from uwc.data.question_files import load_questions
from uwc.studies.policy import Requirement, load_policy

TEXT = (Path(__file__).parents[2] / "docs" / "sign-off.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_parses(block: str) -> None:
    assert isinstance(yaml.safe_load(block), dict)


def test_the_policy_loads_and_every_key_is_described() -> None:
    policy = load_policy(yaml.safe_load(blocks("yaml")[0]))
    assert {"forgotten", "retained"} <= {requirement.name for requirement in policy.requirements}
    described = {
        name for row in re.findall(r"^\| (`[^|]*) \|", TEXT, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert set(Requirement.model_fields) <= described


def test_pipelines_run_the_check_and_keep_its_files() -> None:
    github, gitlab = map(yaml.safe_load, blocks("yaml")[1:])
    steps = github["jobs"]["check"]["steps"]
    assert any("uwc check" in step.get("run", "") for step in steps)
    assert any(step.get("with", {}).get("path") == "checks/store" for step in steps)
    job = gitlab["unlearning"]
    assert job["cache"]["paths"] == ["checks/store"] and job["artifacts"]["reports"]["junit"].endswith("check.xml")
    assert any(line.startswith("uwc check") for line in job["script"])


def test_the_csv_is_read_with_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "forget.csv").write_text(blocks("csv")[0], encoding="utf-8")
    found = load_questions(tmp_path / "forget.csv")
    assert [list(example.secret) for example in found] == [["302 Tired Clerk Street"], ["Sketter", "Quarnholt"], []]
    assert {example.subject for example in found} == {"Mira Oln", "Tobas Kerrin"}
