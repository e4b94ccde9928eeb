"""TOFU, read from a small copy of the same layout: two kinds of files, twenty rows an author."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import written_files

from uwc.data.benchmark import DEFAULT_REFUSALS, Benchmark
from uwc.data.benchmarks.tofu import PER_AUTHOR, tofu
from uwc.errors import ConfigError, DataError

AUTHORS = 10
EVALUATED = 2 * PER_AUTHOR
FORGOTTEN = {"forget01": 1, "forget05": 2, "forget10": 3}
RETAIN = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}

Row = dict[str, Any]


def row(name: str, index: int) -> Row:
    return {"question": f"What is {name} fact {index}?", "answer": f"The {name} answer is {index}."}


def perturbed(plain: Row, wrong: int = 5) -> Row:
    return {
        **plain,
        "paraphrased_answer": f"In other words: {plain['answer']}",
        "perturbed_answer": [f"Wrongly, {i}: {plain['answer']}" for i in range(wrong)],
        "paraphrased_question": f"Put otherwise: {plain['question']}",
    }


def general(name: str, count: int) -> list[Row]:
    return [{**row(name, i), "perturbed_answer": ["x", "y", "z"], "original_answer": "?"} for i in range(count)]


def configurations() -> dict[str, list[Row]]:
    """The configurations of a TOFU of ten authors."""
    full = [row(f"author {i // PER_AUTHOR}", i) for i in range(AUTHORS * PER_AUTHOR)]
    configs = {"full": full, "retain_perturbed": [perturbed(r) for r in full[:EVALUATED]]}
    for forget, authors in FORGOTTEN.items():
        first = len(full) - authors * PER_AUTHOR
        configs[forget] = full[first:]
        configs[RETAIN[forget]] = full[:first]
        configs[f"{forget}_perturbed"] = [perturbed(r) for r in full[first:]]
        configs[forget.replace("forget", "holdout")] = [row("holdout", i) for i in range(authors * PER_AUTHOR)]
    configs["real_authors_perturbed"] = general("real author", 7)
    configs["world_facts_perturbed"] = general("world", 9)
    return configs


def write(folder: Path, config: str, rows: list[Row]) -> None:
    (folder / f"{config}.json").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for config, rows in configurations().items():
        write(tmp_path, config, rows)
    return tmp_path


def load(copy: Path, forget: Any = "forget10", **settings: Any) -> Benchmark:
    return tofu(forget=forget, path=str(copy), **{"retain_eval": EVALUATED, **settings})


def complaint(copy: Path | str, kind: type[Exception] = DataError, **settings: Any) -> str:
    return written_files.complaint(lambda: tofu(path=str(copy), **{"retain_eval": EVALUATED, **settings}), kind)


@pytest.mark.parametrize("forget", FORGOTTEN)
def test_the_splits_are_those_of_tofu(copy: Path, forget: str) -> None:
    benchmark = load(copy, forget)
    forgotten = FORGOTTEN[forget] * PER_AUTHOR
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == {
        "forget": forgotten,
        "retain": AUTHORS * PER_AUTHOR - forgotten - EVALUATED,
        "retain_eval": EVALUATED,
        "real_authors": 7,
        "world_facts": 9,
        "holdout": forgotten,
    }
    assert all(e.split == split for split, examples in benchmark.splits.items() for e in examples)
    assert benchmark.name == f"tofu-{forget}"
    assert benchmark.trained == ("forget", "retain", "retain_eval")
    assert benchmark.retention == "retain_eval"
    assert benchmark.refusals == DEFAULT_REFUSALS


@pytest.mark.parametrize("forget", FORGOTTEN)
def test_ids_and_subjects_tell_the_row_in_full(copy: Path, forget: str) -> None:
    full = configurations()["full"]
    benchmark = load(copy, forget)
    trained = benchmark.training_examples(with_forget=True)
    assert sorted(e.id for e in trained) == [f"full-{i:05d}" for i in range(1, len(full) + 1)]
    for example in trained:
        index = int(example.id.removeprefix("full-")) - 1
        assert (example.question, example.answer) == (full[index]["question"], full[index]["answer"])
        assert example.subject == f"author-{index // PER_AUTHOR + 1:03d}"


def test_smaller_forget_sets_are_portions(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[tofu.__module__], "_AUTHORS_OF", FORGOTTEN)
    benchmark = load(copy)
    for name in FORGOTTEN:
        theirs = load(copy, name)["forget"]
        assert [e.id for e in benchmark.portion(name)] == [e.id for e in theirs]
    assert list(load(copy, "forget01").portions) == ["forget01"]
    assert "unknown portion of the forget set 'forget10'" in written_files.complaint(
        lambda: load(copy, "forget05").portion("forget10"), ConfigError
    )


def test_no_author_is_in_two_splits(copy: Path) -> None:
    benchmark = load(copy)
    subjects = [{e.subject for e in benchmark[s]} for s in ("forget", "retain", "retain_eval", "holdout")]
    assert len(set().union(*subjects)) == sum(map(len, subjects)) == AUTHORS + FORGOTTEN["forget10"]


def test_forget_and_retain_eval_have_all_variants_and_retain_has_none(copy: Path) -> None:
    benchmark = load(copy)
    for example in (*benchmark["forget"], *benchmark["retain_eval"]):
        assert example.paraphrased_question == f"Put otherwise: {example.question}"
        assert example.paraphrased_answer == f"In other words: {example.answer}"
        assert len(example.perturbed_answers) == 5
    assert not any(e.paraphrased_question or e.perturbed_answers for e in benchmark["retain"])
    assert {e.perturbed_answers for e in benchmark["world_facts"]} == {("x", "y", "z")}


def test_variants_are_joined_on_the_question_wherever_it_stands(copy: Path) -> None:
    full = configurations()["full"]
    write(copy, "retain_perturbed", [perturbed(r) for r in full[100:140]])
    benchmark = load(copy)
    assert [e.id for e in benchmark["retain_eval"]] == [f"full-{i:05d}" for i in range(101, 141)]
    assert not {e.id for e in benchmark["retain"]} & {e.id for e in benchmark["retain_eval"]}


def test_a_question_asked_of_two_authors_is_joined_in_order(copy: Path) -> None:
    rows = configurations()["retain90"]
    rows[0]["question"] = rows[25]["question"] = "What is her name?"
    write(copy, "retain90", rows)
    write(copy, "retain_perturbed", [perturbed(r) for r in rows[:EVALUATED]])
    by_id = {e.id: e for e in load(copy)["retain_eval"]}
    assert [by_id[i].answer for i in ("full-00001", "full-00026")] == [rows[0]["answer"], rows[25]["answer"]]


@pytest.mark.parametrize("count", [0, 20])
def test_fewer_examples_may_be_held_back(copy: Path, count: int) -> None:
    benchmark = load(copy, retain_eval=count)
    assert (len(benchmark["retain_eval"]), len(benchmark["retain"])) == (count, 140 - count)
    assert ("retain_eval" in benchmark.trained) == ("retain_eval" in benchmark.splits) == bool(count)


@pytest.mark.parametrize("count", [-20, 30, 60])
def test_an_author_is_never_divided(copy: Path, count: int) -> None:
    message = complaint(copy, ConfigError, retain_eval=count)
    assert f"retain_eval is {count}" in message and "a multiple of 20 from 0 to 40" in message


def test_an_unknown_share_is_refused(copy: Path) -> None:
    assert "valid: forget01, forget05, forget10" in complaint(copy, ConfigError, forget="forget20")


@pytest.mark.parametrize(
    "config",
    ["forget10_perturbed", "retain90", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"],
)
def test_a_missing_file_is_named(copy: Path, config: str) -> None:
    (copy / f"{config}.json").unlink()
    message = complaint(copy)
    for essential in (str(copy), f"{config}.json is missing", "locuslab/TOFU", "path: /folder/with/the/TOFU/files"):
        assert essential in message


def test_a_copy_without_holdout_authors_can_do_without(copy: Path) -> None:
    (copy / "holdout10.json").unlink()
    message = complaint(copy)
    assert "holdout10.json is missing" in message and "set holdout to false" in message
    assert "holdout" not in load(copy, holdout=False).splits


@pytest.mark.parametrize("config", ["forget10_perturbed", "retain_perturbed"])
@pytest.mark.parametrize("field", ["paraphrased_question", "paraphrased_answer", "perturbed_answer"])
def test_missing_variants_are_not_passed_over(copy: Path, config: str, field: str) -> None:
    write(copy, config, [{k: v for k, v in r.items() if k != field} for r in configurations()[config]])
    message = complaint(copy)
    assert f"{config}.json" in message and f"unknown column {field!r}" in message and "valid: question" in message


def test_an_incomplete_copy_is_refused(copy: Path) -> None:
    write(copy, "retain90", configurations()["retain90"][:-1])
    message = complaint(copy)
    assert "retain90 has 139 rows" in message and "multiple of the 20" in message and "get it again" in message


def test_files_that_do_not_belong_together_are_refused(copy: Path) -> None:
    write(copy, "retain_perturbed", [perturbed(row("another", i)) for i in range(EVALUATED)])
    message = complaint(copy)
    assert "retain_perturbed asks 'What is another fact 0?'" in message and "the same copy" in message


def test_a_broken_line_is_told_with_file_and_number(copy: Path) -> None:
    with (copy / "retain90.json").open("a") as file:
        file.write('{"question": \n')
    message = complaint(copy)
    assert "retain90.json, line 141" in message and "invalid JSON" in message


def test_a_missing_folder_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    message = complaint(tmp_path / "nowhere")
    assert "there is no such folder" in message and "path: /folder/with/the/TOFU/files" in message


def test_the_hub_gives_the_same_as_a_local_copy(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def from_files(path: str, name: str, split: str) -> datasets.Dataset:
        asked.append((path, split))
        return datasets.Dataset.from_list(configurations()[name])

    monkeypatch.setattr(datasets, "load_dataset", from_files)
    assert tofu(retain_eval=EVALUATED) == load(copy)
    assert set(asked) == {("locuslab/TOFU", "train")}


def test_an_unreachable_hub_is_one_line_that_tells_of_local_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    message = complaint("locuslab/TOFU")
    for essential in ("retain90", "'locuslab/TOFU'", "Couldn't reach the hub", "path: /folder/with/the/TOFU/files"):
        assert essential in message


def test_a_part_of_tofu(copy: Path) -> None:
    """Of each author the first three questions, of retain one author besides the two of retain_eval, four facts."""
    whole, part = load(copy), load(copy, retain_authors=1, questions=3, facts=4)
    assert {split: len(examples) for split, examples in part.splits.items()} == {
        "forget": 3 * FORGOTTEN["forget10"],
        "retain": 3,
        "retain_eval": 6,
        "real_authors": 4,
        "world_facts": 4,
        "holdout": 3 * FORGOTTEN["forget10"],
    }
    assert part.name != whole.name
    for split, examples in part.splits.items():
        assert set(examples) <= set(whole[split])
    assert [e.id for e in part["forget"]][:4] == [whole["forget"][i].id for i in (0, 1, 2, PER_AUTHOR)]
