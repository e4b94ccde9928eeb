"""The file of a study: the shipped ones, what is documented, and what is refused."""

import re
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from uwc.data.rows import ALIASES, FIELDS, UNREAD
from uwc.errors import ConfigError
from uwc.objectives.methods import METHODS
from uwc.objectives.rules import rules
from uwc.studies import config, sections
from uwc.studies.config_file import load_config, shipped_configs
from uwc.studies.sections import Section
from uwc.training.settings import LoraSettings, SampleSettings, TrainingSettings

TRAINING = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
DOCUMENTED = (Path(__file__).parents[3] / "docs" / "studies.md").read_text(encoding="utf-8")
SECTIONS = {s for module in (config, sections) for s in vars(module).values() if isinstance(s, type)}


@pytest.mark.parametrize("section", sorted((s for s in SECTIONS if issubclass(s, Section)), key=lambda s: s.__name__))
def test_every_key_of_a_study_is_documented(section: type[Section]) -> None:
    prose = "".join(DOCUMENTED.split("```")[::2])
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", prose))))
    assert set(section.model_fields) <= words


def test_every_training_setting_is_documented_with_its_default() -> None:
    settings = TRAINING.split("## All settings")[1].split("## Rules")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*?)\|(.*)$", settings, flags=re.MULTILINE)
    defaults = asdict(TrainingSettings())
    assert [name for name, _, _ in rows] == list(defaults)
    parts = {"samples": SampleSettings(), "lora": LoraSettings()}
    for name, default, words in rows:
        assert name == "samples" or default.strip() == in_yaml(defaults[name]), name
        for key, value in asdict(parts[name]).items() if name in parts else ():
            assert f"`{key}` {in_yaml(value)}" in words


def test_every_rule_is_documented_with_its_defaults() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|(.*?)\|", TRAINING.split("## Rules")[1], flags=re.MULTILINE)
    assert [name for name, _ in rows] == rules.names()
    for name, words in rows:
        settings = {key: value for key, value in asdict(rules.get(name).function()).items() if key != "name"}
        assert words.strip() == ", ".join(f"`{key}` {in_yaml(value)}" for key, value in settings.items())


def in_yaml(value: object) -> str:
    """A default as the table has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, int | float) else str(value)


def test_the_documented_runs_are_valid() -> None:
    runs = config.UnlearnConfig(**yaml.safe_load(DOCUMENTED.split("```yaml")[1].split("```")[0])).runs
    assert [run.label for run in runs] == ["npo", "npo on policy", "bounded", "theirs@0"]


def test_every_column_name_of_a_question_file_is_documented() -> None:
    names = {*FIELDS, *ALIASES, *UNREAD, *(alias for aliases in ALIASES.values() for alias in aliases)}
    assert all(f"`{name}`" in DOCUMENTED for name in names)


@pytest.mark.parametrize("name", shipped_configs())
def test_a_shipped_study_is_valid_and_bears_its_files_name(name: str) -> None:
    assert load_config(name).name == name


def test_the_study_of_all_methods_has_every_one_that_can_be_calibrated() -> None:
    config = load_config("all-methods")
    assert {run.label for run in config.unlearn.runs} == set(METHODS) - {"whp"}


def test_the_study_of_all_methods_starts_from_the_models_of_the_quick_start() -> None:
    everything, quick = load_config("all-methods"), load_config("quickstart")
    for part in ("benchmark", "model", "finetune", "retrained", "seed"):
        assert getattr(everything, part) == getattr(quick, part)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("calibrate: {tau: 0.9, tau: 0.5}", r"line 2: not valid YAML: the key 'tau' occurs twice"),
        (f"title: {['x'] * 900}", r"title = \['x', .*\.\.\.: Input should be a valid string"),
    ],
)
def test_a_study_names_the_file_and_the_key(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: x\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 500


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"finetune\.seed = -1: .* 0"):
        load_config("quickstart", overrides=["finetune.seed=-1"])


def test_a_folder_of_tasks_that_a_study_names_must_lie_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As plug-ins must, since tasks may run code; a folder beside the file is found; one that the user gives is not
    asked about."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "tasks").mkdir(parents=True)
        study = f"name: x\n{STUDY}score: {{tasks: [mine]}}\nharness: {{include_path: tasks}}\n"
        (folder / "study.yaml").write_text(study, encoding="utf-8")
    monkeypatch.chdir(here)
    assert load_config("study.yaml").harness.include_path == "tasks"
    with pytest.raises(
        ConfigError, match=r"harness\.include_path names a folder outside of the current one.*--allow-plug"
    ):
        load_config(there / "study.yaml")
    assert load_config(there / "study.yaml", allow_plugins=True).harness.include_path == str(there / "tasks")
    given = load_config("study.yaml", overrides=[f"harness.include_path={there / 'tasks'}"])
    assert given.harness.include_path == str(there / "tasks")


def test_settings_of_tasks_without_a_task_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"harness\.limit, harness\.num_fewshot: there is no task"):
        load_config("quickstart", overrides=["harness.limit=3", "harness.num_fewshot=2"])


STUDY = "benchmark: {name: fictional-authors}\nmodel: {path: there}\nunlearn: {runs: [{method: ga}]}\n"
LONG = "x" * 5000
UNREADABLE = {
    "a key twice": "name: a\nname: b\n",
    "deep lists": f"name: a\ntitle: {'[' * 3000}{']' * 3000}\n",
    "deep mappings": f"name: a\nattack: {'{a: ' * 2000}1{'}' * 2000}\n",
    "a cycle": "name: a\ncalibrate: &c {sets: *c}\n",
    "digits": f"name: a\nseed: {'9' * 5000}\n",
    "hexadecimal digits": f"name: a\nseed: 0x{'f' * 5000}\n",
    "an octal number": "name: a\nseed: 010\n",
    "half a character": 'name: a\ntitle: "\\ud800"\n',
    "a NUL": 'name: a\ntitle: "a\\0b"\n',
    "a raw NUL": "name: a\ntitle: a\0b\n",
    "a long name": f"name: {LONG}\n",
    "a long key": f"name: a\n{LONG}: 1\n",
    "a long metric": f"name: a\ncalibrate: {{metric: {LONG}}}\n",
    "a long attack": f"name: a\nattack: {{chains: [{{chain: relearn, settings: {{relearn: {{{LONG}: 1}}}}}}]}}\n",
    "a long plug-in": f"name: a\nplugins: [{LONG}]\n",
    "a prompt": f"name: a\nscore: {{metrics: [{LONG}]}}\n",
    "an infinity": "name: a\ncalibrate: {tau: .inf}\n",
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_refused_in_one_short_line_that_names_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(UNREADABLE[kind] + STUDY, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(path, allow_plugins=True)
    message = str(raised.value)
    assert "\n" not in message and len(message.replace(str(tmp_path), "")) <= 500
    assert "study.yaml" in message or "plug-in" in message


@pytest.mark.parametrize(
    "override",
    [
        f"seed={'9' * 5000}", f"title={'[' * 3000}{']' * 3000}", "title=a\0b", f"{LONG}=1", f"seed={LONG}", f"{LONG}",
        f"unlearn.runs.{'9' * 5000}.x=1", "unlearn.runs.\u00b2=1", f"calibrate.sets=[{'a,' * 60_000}]", "title=*x",
    ],
    ids=lambda override: override[:12],
)  # fmt: skip
def test_an_override_that_cannot_be_read_is_refused_in_one_short_line(override: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("quickstart", overrides=[override])
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 500


@pytest.mark.parametrize("number", ["²", "99999999999999999999", "-1"])
def test_an_item_of_a_list_that_is_not_there_is_refused(number: str) -> None:
    with pytest.raises(ConfigError, match="no entry"):
        load_config("quickstart", overrides=[f"unlearn.runs.{number}=1"])


@pytest.mark.parametrize(
    ("metrics", "said"), [("[1]", "1 is not a metric"), ("[ES, nosuch]", "unknown metric 'nosuch'")]
)
def test_what_is_no_metric_is_refused_with_its_key(metrics: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"score\.metrics\.\d.*{said}"):
        load_config("quickstart", overrides=[f"score.metrics={metrics}"])
