"""A benchmark of one's own as one YAML file, also in a study."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.written_files import complaint, write_jsonl

from uwc.data.benchmarks.described import described
from uwc.data.benchmarks.local_files import local_files
from uwc.errors import ConfigError
from uwc.studies.config_file import load_config
from uwc.studies.plan import make_plan

ASKED = {"forget": 4, "retain": 4, "retain_eval": 2, "novels": 3}


def write(folder: Path, **changes: Any) -> str:
    """The benchmark with its files beside it; a key that is None is left out."""
    for split, count in ASKED.items():
        write_jsonl(folder / f"{split}.jsonl", [{"ask": f"{split} {i}?", "answer": f"A {i}"} for i in range(count)])
    content: dict[str, Any] = {
        "splits": {split: f"{split}.jsonl" for split in ASKED} | {"retain": {"path": "retain.jsonl", "limit": 3}},
        "columns": {"question": "ask"},
        "metrics": ["rouge_1", "probability"],
    } | changes
    path = folder / "contracts.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
    return str(path)


def test_it_is_read_as_local_files_are(tmp_path: Path) -> None:
    benchmark = described(path=write(tmp_path))
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == ASKED | {"retain": 3}
    files: dict[str, Any] = {split: str(tmp_path / f"{split}.jsonl") for split in ("forget", "retain_eval")}
    same = local_files(
        **files,
        retain={"path": str(tmp_path / "retain.jsonl"), "limit": 3},  # type: ignore[arg-type]
        further={"novels": str(tmp_path / "novels.jsonl")},
        columns={"question": "ask"},
        name="contracts",
    )
    assert benchmark.splits == same.splits and benchmark.name == same.name
    assert benchmark.files[0] == str(tmp_path / "contracts.yaml") and set(same.files) < set(benchmark.files)
    assert benchmark.metrics == ("rouge_1", "probability")


@pytest.mark.parametrize(
    ("changes", "essentials"),
    [
        ({"split": {}}, ["unknown key 'split'", "did you mean 'splits'"]),
        ({"splits": {"forget": "forget.jsonl"}}, ["one for retain"]),
        ({"splits": {"forget": "forget.jsonl", "retain": {"file": "x"}}}, ["unknown key 'file'", "path"]),
        ({"metrics": "core"}, ["metrics", "[core, rouge_1]"]),
        ({"subject_every": "many"}, ["subject_every = 'many'"]),
        ({"columns": {"qestion": "ask"}}, ["did you mean 'question'"]),
        ({"name": 3}, ["name = 3"]),
    ],
)
def test_what_is_wrong_is_told_with_the_file(changes: dict[str, Any], essentials: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, **changes)
    message = complaint(lambda: described(path=path), ConfigError)
    for essential in essentials:
        assert essential in message


@pytest.mark.parametrize(("text", "essential"), [("- a\n", "is a mapping"), ("a: [", "not valid YAML"), ("", "empty")])
def test_another_file_is_refused(text: str, essential: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    assert essential in complaint(lambda: described(path=str(path)), Exception)


def test_a_study_names_the_file_which_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    study = {
        "name": "mine",
        "benchmark": {"name": "contracts.yaml"},
        "model": {"build": {"vocabulary": 300, "hidden_size": 8, "layers": 1, "heads": 1}},
        "finetune": {},
        "unlearn": {"runs": [{"method": "ga"}]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    plan = make_plan(load_config(str(path)))
    assert plan.benchmark.name == "contracts"
    assert plan.scoring.of_examples == ("rouge_1", "probability", "extraction_strength"), "and that of the ranking"
    named = make_plan(load_config(str(path), overrides=["score.metrics=[rouge_l]"]))
    assert named.scoring.of_examples == ("rouge_l", "extraction_strength")
    suite = make_plan(load_config(str(path), overrides=["score.suite=core"]))
    assert "perplexity" in suite.scoring.of_examples and "rouge_1" not in suite.scoring.of_examples
