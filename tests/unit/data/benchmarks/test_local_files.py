"""The benchmark of the user's own files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.written_files import PLAIN, complaint, write, write_jsonl

from uwc.data.benchmark import DEFAULT_REFUSALS, Benchmark
from uwc.data.benchmarks.local_files import FileSpec, local_files
from uwc.errors import ConfigError
from uwc.registry import Registry


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A file of three rows for every split."""

    def rows(split: str) -> list[dict[str, str]]:
        return [{"question": f"{split} {i}?", "answer": f"{i}", "subject": f"{split}-{i // 2}"} for i in range(3)]

    splits = ("forget", "retain", "retain_eval", "holdout", "general")
    return {split: str(write_jsonl(tmp_path / f"{split}.jsonl", rows(split))) for split in splits}


def test_files_make_a_benchmark(files: dict[str, str]) -> None:
    benchmark = local_files(**files)  # type: ignore[arg-type]
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == dict.fromkeys(files, 3)
    assert all(e.split == split for split in files for e in benchmark[split])
    assert benchmark.trained == ("forget", "retain", "retain_eval")
    assert benchmark.name == "local-files"
    assert benchmark.refusals == DEFAULT_REFUSALS


def test_two_files_are_enough(files: dict[str, str]) -> None:
    benchmark = local_files(forget=files["forget"], retain=files["retain"], name="mine")
    assert (benchmark.name, list(benchmark.splits), benchmark.trained) == (
        "mine",
        ["forget", "retain"],
        ("forget", "retain"),
    )


def test_columns_of_one_file_and_of_every_file_that_has_them(tmp_path: Path) -> None:
    forget = [{"ask": f"f{i}?", "says": "A"} for i in range(2)]
    retain = [{"question": f"r{i}?", "says": "B", "ask": "not this"} for i in range(2)]
    paths = {"forget": write_jsonl(tmp_path / "f.jsonl", forget), "retain": write_jsonl(tmp_path / "r.jsonl", retain)}
    files = {name: str(path) for name, path in paths.items()}
    benchmark = local_files(**files, columns={"forget:question": "ask", "answer": "says"})  # type: ignore[arg-type]
    assert [e.question for e in benchmark["retain"]] == ["r0?", "r1?"]
    assert [(e.question, e.answer) for e in benchmark["forget"]] == [("f0?", "A"), ("f1?", "A")]
    for columns, essentials in (
        ({"question": "q"}, ["has the column 'q'", "f.jsonl: ask, says", "r.jsonl: question, says, ask"]),
        ({"retain:answer": "a"}, ["r.jsonl", "no column 'a'"]),
        ({"holdout:question": "ask"}, ["'holdout', which is not given", "forget, retain"]),
        ({"qestion": "ask"}, ["unknown field 'qestion'", "did you mean 'question'"]),
    ):
        message = complaint(lambda: local_files(**files, columns=columns), ConfigError)  # type: ignore[arg-type]  # noqa: B023
        for essential in essentials:
            assert essential in message


def test_refusals_come_from_a_file(files: dict[str, str], tmp_path: Path) -> None:
    refusals = str(write(tmp_path / "no.txt", "No.\nNever.\n"))
    assert local_files(forget=files["forget"], retain=files["retain"], refusals=refusals).refusals == ("No.", "Never.")


def test_a_part_of_a_file_is_named_by_a_mapping_and_parts_do_not_clash(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "all.jsonl", PLAIN))
    benchmark = local_files(
        forget={"path": path, "limit": 2},  # type: ignore[arg-type]
        retain=FileSpec(path=path, skip=2, limit=3),
        holdout=FileSpec(path=path, skip=5),
        subject_every=2,
    )
    assert [e.id for e in benchmark["forget"]] == ["all-00001", "all-00002"]
    assert [e.id for e in benchmark["retain"]] == ["all-00003", "all-00004", "all-00005"]
    assert [e.subject for e in benchmark["holdout"]] == ["all-subject-003"]


def test_a_row_used_twice_is_refused_as_an_overlap(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "all.jsonl", PLAIN))
    message = complaint(lambda: local_files(forget=FileSpec(path=path, limit=3), retain=FileSpec(path=path, skip=2)))
    for essential in ("the forget and retain sets overlap", "'all-00003'", path, "change their skip or limit"):
        assert essential in message


def test_the_same_text_in_two_files_is_refused_as_an_overlap(tmp_path: Path) -> None:
    paths = [str(write_jsonl(tmp_path / f"{name}.jsonl", PLAIN)) for name in "ab"]
    assert "the forget and retain sets overlap" in complaint(lambda: local_files(forget=paths[0], retain=paths[1]))


def test_files_of_the_same_name_do_not_clash(tmp_path: Path) -> None:
    for folder, rows in (("a", PLAIN[:3]), ("b", PLAIN[3:])):
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "x.jsonl", rows)
    benchmark = local_files(
        forget=str(tmp_path / "a" / "x.jsonl"),
        retain=FileSpec(path=str(tmp_path / "b" / "x.jsonl"), limit=2),
        holdout=FileSpec(path=str(tmp_path / "b" / ".." / "b" / "x.jsonl"), skip=2),
        subject_every=20,
    )
    assert [e.id for split in benchmark.splits for e in benchmark[split]] == [
        *("forget-x-00001", "forget-x-00002", "forget-x-00003"),
        *("retain-x-00001", "retain-x-00002", "retain-x-00003"),
    ]
    assert benchmark["retain"][0].subject != benchmark["forget"][0].subject


def test_ids_of_two_files_that_clash_are_refused(tmp_path: Path) -> None:
    a, b = (
        str(write_jsonl(tmp_path / f"{name}.jsonl", [{"id": 1, "question": f"{name}?", "answer": "A"}]))
        for name in "ab"
    )
    message = complaint(lambda: local_files(forget=a, retain=b))
    for essential in (a, b, "both have the id '1'", "columns: {id: <column>}"):
        assert essential in message


def held_back(tmp_path: Path, share: float, subjects: Sequence[str]) -> Benchmark:
    rows = [{"question": f"r{i}?", "answer": "A", "subject": s} for i, s in enumerate(subjects)]
    retain = str(write_jsonl(tmp_path / "retain.jsonl", rows))
    return local_files(
        forget=str(write_jsonl(tmp_path / "forget.jsonl", PLAIN)), retain=retain, retain_eval_share=share
    )


@pytest.mark.parametrize(
    ("share", "subjects", "kept", "evaluated"),
    [
        (0.5, "aabbccdd", "aabb", "ccdd"),
        (0.01, "aabbccdd", "aabbcc", "dd"),
        (0.99, "aabbccdd", "aa", "bbccdd"),
        (0.5, "abab", "aa", "bb"),
        (0.25, ["", "", "", ""], ["", "", ""], [""]),
    ],
)
def test_whole_subjects_are_held_back(
    tmp_path: Path, share: float, subjects: Sequence[str], kept: Sequence[str], evaluated: Sequence[str]
) -> None:
    benchmark = held_back(tmp_path, share, subjects)
    assert [e.subject for e in benchmark["retain"]] == list(kept)
    assert [e.subject for e in benchmark["retain_eval"]] == list(evaluated)
    assert {e.split for e in benchmark["retain_eval"]} == {"retain_eval"}
    assert benchmark.trained == ("forget", "retain", "retain_eval")


def test_a_single_subject_cannot_be_held_back(tmp_path: Path) -> None:
    message = complaint(lambda: held_back(tmp_path, 0.5, "aaa"))
    assert "retain.jsonl" in message and "one subject" in message and "retain_eval_share to 0" in message


@pytest.mark.parametrize("share", [1.0, -0.1, 7])
def test_a_share_out_of_range_is_refused(tmp_path: Path, share: float) -> None:
    message = complaint(lambda: held_back(tmp_path, share, "ab"), ConfigError)
    assert f"retain_eval_share is {share!r}" in message and "from 0 to less than 1" in message


def test_a_share_and_a_file_exclude_each_other(files: dict[str, str]) -> None:
    message = complaint(lambda: local_files(**files, retain_eval_share=0.1), ConfigError)  # type: ignore[arg-type]
    assert "either retain_eval or retain_eval_share" in message


WRONG_SPECS: list[tuple[Any, str]] = [
    ({"pth": "x.jsonl"}, "unknown key 'pth' (did you mean 'path'?); valid: path, limit, skip"),
    ({"limit": 3}, "the key 'path' must be given; valid: path, limit, skip"),
    ({"path": "x.jsonl", "limit": 0}, "limit = 0: Input should be greater than 0"),
    ({"path": "x.jsonl", "skip": -1}, "skip = -1: Input should be greater than or equal to 0"),
    ({"path": 3}, "path = 3: Input should be a valid string"),
    (3, "give a path, or a mapping with the keys path, limit, skip"),
]


@pytest.mark.parametrize(("spec", "essential"), WRONG_SPECS)
def test_a_wrong_file_spec_is_told_with_the_valid_keys(spec: Any, essential: str) -> None:
    message = complaint(lambda: local_files(forget="x.jsonl", retain=spec), ConfigError)
    assert "retain: " in message and essential in message


@pytest.mark.parametrize(("spec", "essential"), WRONG_SPECS)
def test_a_registry_refuses_a_wrong_file_spec(spec: Any, essential: str) -> None:
    message = complaint(lambda: registry().check("files", {"forget": "x.jsonl", "retain": spec}), ConfigError)
    assert "retain" in message and essential in message


def test_a_registry_takes_paths_and_mappings(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "all.jsonl", PLAIN))
    given = {"forget": {"path": path, "limit": 2}, "retain": {"path": path, "skip": 2}, "columns": {"id": "question"}}
    settings = registry().check("files", given)
    assert [e.id for e in local_files(**settings)["forget"]] == ["Question 1?", "Question 2?"]


def registry() -> Registry[Any]:
    benchmarks: Registry[Any] = Registry("test-benchmark")
    benchmarks.register("files", source="here")(local_files)
    return benchmarks


def test_texts_are_read_as_passages_beside_questions(tmp_path: Path) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "One two three four five. " * 4}, {"text": "Six seven."}])
    asked = write_jsonl(tmp_path / "asked.jsonl", [{"ask": "Who?", "answer": "Ann"}])
    files: dict[str, Any] = {
        "forget": {"path": str(texts), "passages": 30, "limit": 1},
        "retain": {"path": str(texts), "passages": 500, "skip": 1},
        "general": str(asked),
    }
    benchmark = local_files(**files, columns={"question": "ask"})
    assert len(benchmark["forget"]) == 4 and len({e.subject for e in benchmark["forget"]}) == 1
    assert [e.question + e.answer for e in benchmark["retain"]] == ["Six seven."]
    assert all(e.raw for split in ("forget", "retain") for e in benchmark[split]) and not benchmark["general"][0].raw
    for essential in ("are passages", "passages: 2000"):
        assert essential in complaint(lambda: local_files(forget=str(texts), retain=str(asked)))
