"""Which paths are files of questions, and what is told of those that are not, and of files with several problems."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import uwc
from uwc.data.limits import time_limit
from uwc.errors import DataError, UserError
from uwc.results import Scores


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
