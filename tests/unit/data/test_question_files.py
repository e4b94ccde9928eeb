"""Questions from files: every format says the same, and every mistake is told with its line and its remedy."""

import csv
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers.written_files import (
    EXAMPLES,
    PLAIN,
    ROWS,
    WRITERS,
    complaint,
    write,
    write_csv,
    write_jsonl,
    write_parquet,
)

from uwc.data.benchmark import DEFAULT_REFUSALS
from uwc.data.example import Example
from uwc.data.question_files import read_examples, read_lines
from uwc.errors import DataError


def refused(path: Path, *essentials: str, **settings: Any) -> None:
    """Reading the file must fail with a message that names it and says all the essentials."""
    message = complaint(lambda: read_examples(path, **settings))
    assert len(message.replace(str(path), path.name)) < 500
    for essential in (str(path), *essentials):
        assert essential in message


# ------------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    assert read_examples(WRITERS[name](tmp_path / name, ROWS)) == EXAMPLES


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_makes_up_the_same_ids_and_subjects(tmp_path: Path, name: str) -> None:
    examples = read_examples(WRITERS[name](tmp_path / name, PLAIN), id_prefix="p", subject_every=4, split="forget")
    assert [e.id for e in examples] == [f"p-0000{i}" for i in range(1, 7)]
    assert [e.subject for e in examples] == ["p-subject-001"] * 4 + ["p-subject-002"] * 2
    assert {e.split for e in examples} == {"forget"}


@pytest.mark.parametrize("name", WRITERS)
def test_ids_and_subjects_do_not_depend_on_the_part_taken(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, PLAIN)
    assert read_examples(path, skip=3, limit=2, subject_every=4) == read_examples(path, subject_every=4)[3:5]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("prompt", "response"),
        ("input", "output"),
        ("prompt", "completion"),
        ("question", "target"),
        ("query", "answer"),
    ],
)
def test_well_known_names_stand_for_fields(tmp_path: Path, question: str, answer: str) -> None:
    row = {question: "Q?", answer: "A", "perturbed_answer": ["B"], "author": "X"}
    (example,) = read_examples(write_jsonl(tmp_path / "x.jsonl", [row]))
    assert example == Example("x-00001", "Q?", "A", perturbed_answers=("B",), subject="X")


def test_the_own_name_of_the_answer_goes_before_an_alias(tmp_path: Path) -> None:
    row = {"prompt": "Q?", "output": "wrong", "answer": "A"}
    (example,) = read_examples(write_jsonl(tmp_path / "x.jsonl", [row]))
    assert (example.question, example.answer) == ("Q?", "A")


def test_columns_are_mapped_and_a_mapped_column_is_no_alias(tmp_path: Path) -> None:
    row = {"question": "unused", "title": "Who wrote it?", "author": "Vela Torrin"}
    path = write_jsonl(tmp_path / "x.jsonl", [row])
    (example,) = read_examples(path, columns={"question": "title", "answer": "author"})
    assert example == Example("x-00001", "Who wrote it?", "Vela Torrin")


def test_a_column_of_subjects_goes_before_subject_every(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": "Q?", "answer": "A", "subject": "s"}])
    assert read_examples(path, subject_every=1)[0].subject == "s"


@pytest.mark.parametrize(
    ("given", "read"),
    [(["B", "C"], ("B", "C")), ("B", ("B",)), (None, ()), ("", ()), ([], ()), ([1, "2"], ("1", "2"))],
)
@pytest.mark.parametrize("field", ["perturbed_answers", "secret"])
def test_several_texts_may_be_a_list_a_text_or_null(
    tmp_path: Path, field: str, given: Any, read: tuple[str, ...]
) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": "Q?", "answer": "A", field: given}])
    assert getattr(read_examples(path)[0], field) == read


def test_a_cell_of_csv_may_hold_a_single_perturbed_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "question,answer,perturbed_answers\nQ?,A,B\nR?,A,\n")
    assert [e.perturbed_answers for e in read_examples(path)] == [("B",), ()]


@pytest.mark.parametrize(("number", "text"), [(7, "7"), (2.5, "2.5"), (10**30, str(10**30))])
def test_numbers_become_text(tmp_path: Path, number: float, text: str) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"id": number, "question": "Q?", "answer": number}])
    assert read_examples(path)[0] == Example(text, "Q?", text)


def test_optional_fields_may_be_missing_null_or_not_a_number(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"refusal": "No."}, {"refusal": None}, {}, {"refusal": float("nan")}]
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": f"Q{i}?", "answer": "A", **r} for i, r in enumerate(rows)])
    assert [e.refusal for e in read_examples(path)] == ["No.", "", "", ""]


def test_files_as_windows_writes_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes('\ufeffquestion,answer\r\nQ?,"A\r\nB"\r\n'.encode())
    (tmp_path / "x.jsonl").write_bytes('\ufeff{"question": "Q?", "answer": "A\\nB"}\r\n\r\n'.encode())
    assert read_examples(tmp_path / "x.csv") == read_examples(tmp_path / "x.jsonl")


def test_cells_of_csv_may_have_any_length(tmp_path: Path) -> None:
    """Longer than the csv module's limit, which is the whole process's and stays as it is."""
    answer = "word " * 40_000
    limit = csv.field_size_limit()
    path = write_csv(tmp_path / "x.csv", [{"question": "Recite.", "answer": answer}])
    assert read_examples(path)[0].answer == answer
    refused(write(tmp_path / "y.csv", f'question,answer\nQ?,"{answer}'), "line 2", "invalid CSV")
    assert csv.field_size_limit() == limit


def test_long_cells_are_read_by_several_threads(tmp_path: Path) -> None:
    answer = "x" * 200_000
    paths = [write_csv(tmp_path / f"{i}.csv", [{"question": f"Q{i}?", "answer": answer}]) for i in range(8)]
    limit = csv.field_size_limit()
    with ThreadPoolExecutor(8) as pool:
        assert [e.answer for (e,) in pool.map(read_examples, paths)] == [answer] * 8
    assert csv.field_size_limit() == limit


def test_lines_are_read_without_blank_ones(tmp_path: Path) -> None:
    assert read_lines(write(tmp_path / "x.txt", "No.\n\n  I can't say. \n")) == ("No.", "I can't say.")


def test_the_shipped_refusals_are_varied() -> None:
    assert len(set(DEFAULT_REFUSALS)) == len(DEFAULT_REFUSALS) == 30


# ------------------------------------------------------------------------------------------- what is refused: the file


def test_a_missing_file_names_those_that_may_be_meant(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "forget.jsonl", PLAIN)
    refused(tmp_path / "forgot.jsonl", "no such file", "did you mean 'forget.jsonl'?")
    refused(tmp_path / "forget", "no such file", "did you mean 'forget.jsonl'?")
    refused(tmp_path / "zzz.csv", "no such file", "check the path")
    refused(tmp_path / "nowhere" / "x.csv", "there is no folder", "nowhere", "check the path")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "this is a folder", "name a file in it")


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / name, "\n"), "is empty", "add at least one line")


@pytest.mark.parametrize(("name", "text"), [("x.json", "[]"), ("x.csv", "question,answer\n")])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, text: str) -> None:
    refused(write(tmp_path / name, text), "no rows", "add at least one")


def test_an_unknown_ending_names_the_valid_ones(tmp_path: Path) -> None:
    refused(write(tmp_path / "x.xlsx", "x"), "'.xlsx'", "valid: .jsonl, .ndjson, .json, .csv, .tsv, .parquet")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_another_encoding_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"question": "Q?", "answer": "A"}\n{"question": "Qu\xe9?", "answer": "A"}\n')
    refused(path, "line 2", "not UTF-8", "save the file")


def test_an_unreadable_parquet_file_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "x.parquet", "question,answer"), "not a readable Parquet file", "write it again")


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = write_jsonl(tmp_path / "x.jsonl", PLAIN)
    monkeypatch.setattr(Path, "read_bytes", denied)
    refused(path, "Permission denied", "check its permissions")


@pytest.mark.parametrize(
    ("settings", "essential"),
    [
        ({"skip": 6}, "skip 6 and limit None leave none of its 6 rows"),
        ({"limit": 0}, "limit to 1 or more"),
        ({"limit": -1}, "limit to 1 or more"),
        ({"skip": -1}, "skip from 0 to 5"),
        ({"subject_every": 0}, "subject_every is 0; set it to 1 or more"),
    ],
)
def test_settings_that_leave_nothing_are_refused(tmp_path: Path, settings: dict[str, Any], essential: str) -> None:
    refused(write_jsonl(tmp_path / "x.jsonl", PLAIN), essential, **settings)


@pytest.mark.parametrize(("text", "essential"), [("", "is empty"), ("\n \n", "is empty")])
def test_a_file_without_lines_is_refused(tmp_path: Path, text: str, essential: str) -> None:
    path = write(tmp_path / "no.txt", text)
    assert essential in complaint(lambda: read_lines(path))


def test_a_missing_file_of_lines_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "refusals.txt", "No.")
    message = complaint(lambda: read_lines(tmp_path / "refusal.txt"))
    assert "no such file" in message and "did you mean 'refusals.txt'?" in message


# ------------------------------------------------------------------------------------------- what is refused: a column


def test_an_unknown_field_names_the_valid_ones(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", PLAIN)
    valid = "valid: id, question, answer, paraphrased_question, paraphrased_answer, perturbed_answers, refusal, subject"
    refused(path, "unknown field 'qestion'", "did you mean 'question'?", valid, columns={"qestion": "question"})
    refused(path, "unknown field 'split'", columns={"split": "answer"})


@pytest.mark.parametrize("name", WRITERS)
def test_a_mapped_column_that_is_not_there_names_those_that_are(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, PLAIN)
    refused(path, "refusal: unknown column 'no'", "valid: question, answer", columns={"refusal": "no"})


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_a_column_for_a_field_names_those_it_has(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [{"question": "Q?", "reply": "A"}])
    refused(
        path,
        "no column 'answer'",
        "--column answer=reply,",
        "columns: {answer: reply}",
        "the file has: question, reply",
    )


# ---------------------------------------------------------------------------------------------- what is refused: a row

GOOD = '{"question": "Q?", "answer": "A"}'


@pytest.mark.parametrize(
    ("name", "text", "essentials"),
    [
        ("x.jsonl", f"{GOOD}\n\n{{'question': 1}}\n", ("line 3, column 2", "invalid JSON", "one whole object on each")),
        ("x.json", f"{GOOD}\n{{\n", ("line 2", "invalid JSON", "one whole object on each line")),
        ("x.json", f"[{GOOD},\n{GOOD}\n{GOOD}]", ("line 3, column 1", "invalid JSON", "correct this line")),
        ("x.jsonl", f'{GOOD}\n["Q?", "A"]\n', ("line 2", "a list, not an object", '{"question": ...')),
        ("x.json", f'[{GOOD}, "Q?"]', ("item 2", "a str, not an object", '{"question": ...')),
        ("x.jsonl", f'{GOOD}\n{{"question": "Q?"}}\n', ("line 2", "the answer is missing", "add it or remove")),
        ("x.json", f'[{GOOD}, {{"answer": "A"}}]', ("item 2", "the question is missing", "add it or remove this item")),
        ("x.jsonl", f'{GOOD}\n{{"question": " ", "answer": "A"}}', ("line 2", "the question is empty", "fill it in")),
        ("x.jsonl", f'{GOOD}\n{{"question": "Q?", "answer": null}}', ("line 2", "the answer is empty", "fill it in")),
        ("x.csv", "question,answer\n\nQ?,A\nQ?,\n", ("line 4", "the answer is empty", "fill it in")),
        ("x.tsv", "question\tanswer\nQ?\tA\n\tA\n", ("line 3", "the question is empty", "remove this line")),
        ("x.csv", "id,question,answer\n,Q?,A\n", ("line 2", "the id is empty", "fill it in")),
        ("x.jsonl", '{"question": ["Q?"], "answer": "A"}', ("line 1", "the question is a list", "one text")),
        ("x.jsonl", '{"question": "Q?", "answer": {"a": 1}}', ("line 1", "the answer is a dict", "one text")),
        ("x.jsonl", '{"question": "Q?", "answer": true}', ("line 1", "the answer is a bool", "one text")),
        ("x.jsonl", '{"question": "Q?", "answer": "\\ud83d"}', ("line 1", "half a character", "write it whole")),
        ("x.jsonl", '{"prompt": "Q?", "output": [["A"]]}', ("line 1", "the answer (column 'output') is a list")),
        (
            "x.csv",
            'question,answer\n"Q\n?",A\nQ?,A,B\n',
            ("line 4", "3 cells", "2 columns (question, answer)", "quotes"),
        ),
        ("x.csv", "question,answer\nQ?\n", ("line 2", "1 cells", "2 columns (question, answer)", "quotes")),
        ("x.csv", 'question,answer\nQ?,A\n"Q?,A\n', ("line 3", "invalid CSV", "check the quotes")),
        ("x.csv", 'question,answer\nQ?,A\n"Q"?,A\nQ?,A\n', ("line 3", "invalid CSV", "check the quotes")),
        ("x.csv", "question,answer,answer\nQ?,A,B\n", ("line 1", "'answer' occurs twice", "rename one")),
        (
            "x.jsonl",
            f'{GOOD}\n{{"question": "Q?", "question": "R?", "answer": "A"}}',
            ("line 2", "'question' occurs twice"),
        ),
        ("x.jsonl", '{"question": "Q?", "answer": "A", "x": {"y": 1, "y": 2}}', ("line 1", "'y' occurs twice")),
        ("x.json", f'[{GOOD}, {GOOD} ,{{"answer": "A", "answer": "B"}}]', ("item 3", "'answer' occurs twice")),
        (
            "x.jsonl",
            f'{GOOD}\n{{"question": "Q?", "answer": {"9" * 5000}}}',
            ("line 2", "thousands of digits", "quotes"),
        ),
        ("x.json", f'[{GOOD}, {{"question": "Q?", "answer": {"9" * 5000}}}]', ("item 2", "thousands of digits")),
        ("x.jsonl", '{"question": "Q?", "answer": Infinity}', ("line 1", "the answer is inf", "finite")),
        ("x.jsonl", '{"question": "Q?", "answer": -1e999}', ("line 1", "the answer is -inf")),
        ("x.jsonl", '{"question": "Q?", "answer": NaN}', ("line 1", "the answer is empty")),
        ("x.jsonl", f'{{"question": "Q?", "answer": {"[" * 100_000}{"]" * 100_000}}}', ("line 1", "nested too deeply")),
    ],
)
def test_a_wrong_row_is_told_with_its_line_and_remedy(
    tmp_path: Path, name: str, text: str, essentials: tuple[str, ...]
) -> None:
    refused(write(tmp_path / name, text), *essentials)


def test_a_wrong_row_of_parquet_is_told_with_its_number(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", [*PLAIN, {"question": "Q?", "answer": None}])
    refused(path, "row 7", "the answer is empty", "remove this row")


def test_a_column_twice_in_parquet_is_refused(tmp_path: Path) -> None:
    table = pa.table([["Q?"], ["A"], ["B"]], names=["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "x.parquet")
    refused(tmp_path / "x.parquet", "'answer' occurs twice", "rename one")


@pytest.mark.parametrize(
    ("given", "essential"),
    [
        (["B", ""], "hold an empty text"),
        (["B", ["C"]], "is a list; write it as one text"),
        ({"a": "B"}, "is a dict; write it as one text"),
    ],
)
def test_wrong_perturbed_answers_are_refused(tmp_path: Path, given: Any, essential: str) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", [{"question": "Q?", "answer": "A", "perturbed_answers": given}])
    refused(path, "line 1: the perturbed_answers", essential)


def test_a_list_in_csv_must_be_json(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "question,answer,perturbed_answer\nQ?,A,\"['B', 'C']\"\n")
    refused(path, "line 2: the perturbed_answers (column 'perturbed_answer')", "not a JSON list", '["one", "two"]')


def test_ids_must_be_unique(tmp_path: Path) -> None:
    rows = [{"id": i, "question": "Q?", "answer": "A"} for i in ("a", "b", "a")]
    refused(write_jsonl(tmp_path / "x.jsonl", rows), "line 3", "'a' was used before, in line 1", "must be unique")
    refused(write_parquet(tmp_path / "x.parquet", rows), "row 3", "in row 1")


def test_the_whole_file_is_checked_whichever_part_is_taken(tmp_path: Path) -> None:
    refused(write_jsonl(tmp_path / "x.jsonl", [*PLAIN, {"question": "Q?"}]), "line 7", limit=1)


def test_examples_are_equal_but_for_the_split(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", ROWS)
    assert read_examples(path, split="retain") == [replace(e, split="retain") for e in EXAMPLES]
    assert re.fullmatch(r"x-\d{5}", read_examples(write_jsonl(path, PLAIN))[0].id)


def test_a_home_folder_of_nobody_is_a_missing_file() -> None:
    with pytest.raises(DataError, match="no such file"):
        read_examples("~nobody-of-that-name/a.jsonl")
