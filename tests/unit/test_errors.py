"""Texts of messages: nothing in them changes a terminal."""

import io

import pytest
from rich.console import Console

from uwc import progress
from uwc.errors import LONGEST, ConfigError, brief, listed, printable
from uwc.reports.format import Table, print_table

OSC = "\x1b]0;title\x07\x1b[31mred\x9b2J \u202etxt\ud800\r"


def test_control_characters_are_written_as_escapes() -> None:
    assert printable(OSC) == "\\x1b]0;title\\x07\\x1b[31mred\\x9b2J \\u202etxt\\ud800\\r"
    for text in ("Zoë 作者 🙂", "two\nlines\tand a tab", ""):
        assert printable(text) == text


def test_notes_and_tables_hold_none(capsys: pytest.CaptureFixture[str]) -> None:
    progress.note(f"the file {OSC}")
    to = Console(file=io.StringIO(), width=100)
    print_table(Table(title=OSC, columns=("name", OSC), rows=((OSC, "1"),), caption=OSC), to)
    shown = capsys.readouterr().err + to.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count("x1b]0;title") >= 4
    assert not set(shown) & set("\x1b\x07\x9b\u202e\r")


def test_long_texts_are_cut() -> None:
    assert brief("a" * 100, 10) == repr("a" * 7 + "...")
    assert listed(["one", "two", "three"], 10) == "one, two, ..."


def test_of_a_long_message_the_beginning_and_the_end_are_kept() -> None:
    message = str(ConfigError(f"study.yaml: name = {'x' * 5000}: give another"))
    assert len(message) <= LONGEST
    assert message.startswith("study.yaml: name = ") and message.endswith(": give another")
    assert str(ConfigError("x" * LONGEST)) == "x" * LONGEST
