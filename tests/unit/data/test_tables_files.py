"""Which paths are files of questions, and what is told of those that are not, and of files with several problems."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import uwc
from uwc.cli.options import file_columns
from uwc.data.limits import time_limit
from uwc.data.question_files import read_examples, sets_of
from uwc.errors import DataError, UserError
from uwc.results import InvalidRows, Scores


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if name.startswith("pipe"):
        os.mkfifo(path)
    elif name.startswith("dangling"):
        path.symlink_to(folder / "nowhere")
    elif name.startswith("circle"):
        path.symlink_to(path)
    elif name.startswith("folder"):
        path.mkdir()
    return path


NOT_FILES = {
    "pipe": ("pipe.{}", "pipe or a device"),
    "device": ("/dev/zero", "pipe or a device"),
    "dangling link": ("dangling.{}", "which does not exist"),
    "links in a circle": ("circle.{}", "cannot be read"),
    "folder": ("folder.{}", "a folder"),
    "missing": ("missing.{}", "there is no such file"),
    "too long": ("x" * 5000, "cannot be read"),
    "NUL": ("a\0b.{}", "cannot be read"),
}
READERS: dict[str, Callable[[Path], object]] = {
    "jsonl": uwc.load_questions,
    "yaml": uwc.load_config,
    "json": Scores.load,
    "py": lambda path: uwc.load_plugins([path]),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("kind", NOT_FILES)
def test_what_is_no_file_is_refused_before_it_is_read(kind: str, suffix: str, tmp_path: Path) -> None:
    name, message = NOT_FILES[kind]
    with pytest.raises(UserError, match=message) as raised:
        READERS[suffix](made(tmp_path, name.format(suffix)))
    assert len(str(raised.value)) <= 500 and "\n" not in str(raised.value)


GOOD = {"question": "Where is the town?", "answer": "In the north"}


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_all_rows_that_are_wrong_are_told_at_once(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", GOOD, {**GOOD, "answer": ""}, GOOD, {**GOOD, "question": "\ud800"}, GOOD)
    with pytest.raises(DataError, match=r"a\.jsonl: 2 of 5 lines cannot be used\. line 2: .*\. line 4: "):
        uwc.load_questions(path)
    path = lines(tmp_path / "b.jsonl", GOOD, "{half", GOOD, "7")
    with pytest.raises(DataError, match=r"b\.jsonl: 2 of 4 lines cannot be used\. line 2, column 2: .*line 4: "):
        uwc.load_questions(path)
    path = lines(tmp_path / "c.jsonl", *[{**GOOD, "answer": f"{'x' * 100}\0"}] * 1000)
    with pytest.raises(DataError, match=r"1000 of 1000 lines .*; and 99\d more") as raised:
        uwc.load_questions(path)
    assert len(str(raised.value)) <= 500
    path = lines(tmp_path / "e.jsonl", *[{**GOOD, "answer": ""}] * 30_000)
    with pytest.raises(DataError, match=r"30000 of 30000 lines"), time_limit(60):
        uwc.load_questions(path)
    path = lines(tmp_path / "d.jsonl", GOOD, {**GOOD, "answer": ""})
    with pytest.raises(DataError, match=r"d\.jsonl, line 2: the answer is empty"):
        uwc.load_questions(path)


def test_one_column_is_not_two_fields(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "Where?", "place": "Besk"})
    with pytest.raises(DataError, match="'text' is named for both question and answer"):
        uwc.load_questions(path, columns={"question": "text", "answer": "text"})
    (example,) = uwc.load_questions(path, columns={"question": "text", "answer": "place", "subject": "place"})
    assert (example.answer, example.subject) == ("Besk", "Besk")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_the_delimiter_of_a_csv_file_is_found(delimiter: str, suffix: str, tmp_path: Path) -> None:
    rows = [("question", "answer"), ("Where, and when?", "here; now")]
    text = "".join(delimiter.join(f'"{cell}"' for cell in row) + "\n" for row in rows)
    path = tmp_path / f"a.{suffix}"
    path.write_text(text, encoding="utf-8")
    (example,) = uwc.load_questions(path)
    assert (example.question, example.answer) == ("Where, and when?", "here; now")


BROKEN = {
    "csv": b'question,answer\nWhere?,Here\nWhen?,Now,Then\n"Who"?,You\nWhy?,\xff\nHow?,\nWhat?,This\nWhich?,That\n',
    "jsonl": b'{"question":"Where?","answer":"Here"}\n{"question":"When?"\n7\n{"question":"Why?","answer":"\xff"}\n'
    b'{"question":"How?","answer":""}\n{"question":"What?","answer":"This"}\n{"question":"Which?","answer":"That"}\n',
    "json": b'[{"question":"Where?","answer":"Here"}, {"question":"When?","question":"x"}, 7, '
    b'{"question":"Why?","answer":'
    + b"9"
    * 5000
    + b'},{"question":"How?","answer":""} , {"question":"What?","answer":"This"},'
    b'{"question":"Which?","answer":"That"}]',
}
"""Four of seven rows are wrong, the second to the fifth."""
FIRST = {"csv": 3, "jsonl": 2, "json": 2}
VALID = {
    "csv": b"A?,a\nB?,b\nC?,c\n",
    "jsonl": b"".join(b'{"question":"%s?","answer":"a"}\n' % q for q in (b"A", b"B", b"C")),
    "json": b"," + b",".join(b'{"question":"%s?","answer":"a"}' % q for q in (b"A", b"B", b"C")) + b"]",
}


@pytest.mark.parametrize("suffix", BROKEN)
def test_every_format_tells_all_wrong_rows_or_leaves_them_out(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(BROKEN[suffix])
    first = FIRST[suffix]
    left_out: list[InvalidRows] = []
    for given in (None, left_out):
        with pytest.raises(DataError, match=rf"4 of 7 .* {first}[:,] .* {first + 1}: .* {first + 2}: ") as raised:
            read_examples(path, left_out=given)
        assert len(str(raised.value)) <= 500
    path.write_bytes(BROKEN[suffix].removesuffix(b"]") + VALID[suffix])
    examples = read_examples(path, left_out=left_out)
    assert [e.question for e in examples] == ["Where?", "What?", "Which?", "A?", "B?", "C?"]
    assert [e.id for e in examples] == [f"a-{n:05d}" for n in (1, 6, 7, 8, 9, 10)]
    (found,) = left_out
    assert (found.rows, found.invalid) == (10, 4)
    assert [row.row for row in found.first] == list(range(first, first + 4))
    assert all(row.reason and str(path) not in row.reason for row in found.first)
    assert "4 of 10" in found.warning.text and found.warning.code == "invalid_rows"


def test_clusters_of_consecutive_rows_stay_when_a_row_is_left_out(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": "" if i == 1 else "a"} for i in range(6)]
    path = lines(tmp_path / "a.jsonl", *rows[:3], "{", *rows[3:])
    examples = read_examples(path, subject_every=2, left_out=[])
    assert [e.subject[-3:] for e in examples] == ["001", "002", "003", "003", "004"]


def test_a_quote_that_is_never_closed_hides_the_rows_below_and_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,answer\nA?,a\nB?,"b\nC?,c\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 3: invalid CSV"):
        read_examples(path, left_out=[])


def test_the_message_has_the_options_that_name_the_columns(tmp_path: Path) -> None:
    a, b = tmp_path / "a.csv", tmp_path / "b.csv"
    a.write_text("id,Customer Question,Reply,reply_id\n1,A?,a,7\n", encoding="utf-8")
    b.write_text("question,answer,Customer Question\nB?,b,B!\n", encoding="utf-8")
    with pytest.raises(DataError) as raised:
        sets_of({"forget": a})
    assert file_columns(options_in(str(raised.value))) == {"question": "Customer Question", "answer": "Reply"}
    with pytest.raises(DataError) as raised:
        sets_of({"forget": a, "retain": b})
    columns = file_columns(options_in(str(raised.value)))
    assert columns == {"forget:question": "Customer Question", "answer": "Reply"}
    found = sets_of({"forget": a, "retain": b}, columns)
    assert [(e.question, e.answer) for part in found.values() for e in part] == [("A?", "a"), ("B?", "b")]


def options_in(message: str) -> list[str]:
    """The values of --column in a message, as a shell would pass them."""
    words = shlex.split(message.partition(" with ")[2].partition(", in a study")[0])
    assert words[::2] == ["--column"] * (len(words) // 2)
    return words[1::2]


def test_lists_in_lists_and_texts_that_are_not_utf8_are_wrong_values(tmp_path: Path) -> None:
    nested = json.loads("[" * 600 + "1" + "]" * 600)
    with pytest.raises(DataError, match=r"nested\.jsonl, line 1"):
        read_examples(lines(tmp_path / "nested.jsonl", {"question": "Q?", "answer": nested}))
    brackets = tmp_path / "brackets.csv"
    brackets.write_text(f'question,answer\nQ?,"{"[" * 100_000}"\n', encoding="utf-8")
    assert read_examples(brackets)[0].answer == "[" * 100_000
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 2))
    text = pa.StringArray.from_buffers(1, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"question": ["Q?"], "answer": text}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: this is not a readable Parquet file"):
        read_examples(tmp_path / "a.parquet")
