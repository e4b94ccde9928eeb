"""The files around the code agree with it: version, extras, workflows, container, citation, and the wheel's content."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import uwc

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT
    assert f"## {uwc.__version__}" in read("CHANGELOG.md")


def test_every_extra_for_users_is_documented() -> None:
    told = set(re.findall(r"`uwc\[(\w+)\]`", read("docs/install.md")))
    assert told == set(PROJECT["optional-dependencies"]) - {"dev", "docs"}


def test_the_tested_pythons_are_those_of_the_package() -> None:
    pythons = set(re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"])))
    assert set(re.findall(r'"(3\.\d+)"', read("noxfile.py"))) == pythons
    assert (
        set(yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["test"]["strategy"]["matrix"]["python"]) == pythons
    )
    assert PROJECT["requires-python"] == f">={min(pythons, key=lambda v: int(v.split('.')[1]))}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {word for run in runs for word in re.findall(r"^make(?: PYTHON=\S+)? ([a-z-]+)$", run, re.MULTILINE)}
    assert called <= TARGETS
    sessions = {name for run in runs for name in re.findall(r"nox -s (\w+)", run)}
    assert all(f"def {name}(" in read("noxfile.py") for name in sessions)


def test_releases_are_published_without_a_stored_token() -> None:
    release = yaml.safe_load(read(".github/workflows/release.yml"))
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in read(".github/workflows/release.yml")


def test_reports_of_bugs_ask_for_the_doctor() -> None:
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug.yml"))
    [doctor] = [field for field in form["body"] if "uwc doctor" in field["attributes"]["label"]]
    assert doctor["validations"]["required"]


def test_the_citation_has_what_the_format_requires() -> None:
    cited = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["license"] == PROJECT["license"]
    [number] = cited["preferred-citation"]["identifiers"]
    assert number["value"].removeprefix("arXiv:") in PROJECT["urls"]["Paper"]


def test_the_container_copies_files_that_exist_and_are_not_ignored() -> None:
    allowed = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    copied = {
        name for line in re.findall(r"^COPY (.*) \S+$", read("Dockerfile"), re.MULTILINE) for name in line.split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    extras = re.findall(r"\.\[([\w,]+)\]", read("Dockerfile"))[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


@pytest.mark.slow
def test_the_wheel_has_all_data_and_runs_from_an_empty_folder(tmp_path: Path) -> None:
    """Installed without its dependencies, which are those of this environment; `nox -s wheel` has an empty one."""
    built = tmp_path / "dist"
    source = tmp_path / "source"
    source.mkdir()
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "src", "pyproject.toml", "README.md", "LICENSE"], cwd=ROOT, capture_output=True
    )
    if tracked.returncode:
        pytest.skip("not a clone of the repository")
    names = [name for name in tracked.stdout.decode().split("\0") if name]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(built), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = built.glob(f"uwc-{uwc.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = set(file.namelist())
        file.extractall(tmp_path / "installed")
    assert {name.removeprefix("src/") for name in names if name.startswith("src/uwc/")} <= inside
    (tmp_path / "empty").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    code = "import uwc; print(uwc.__file__); from uwc.__main__ import main; main()"
    command = [sys.executable, "-P", "-c", code, "study", "plan", "quickstart"]
    ran = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path / "installed") in ran.stdout and "fine-tune original" in ran.stdout
