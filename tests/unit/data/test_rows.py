"""Rows as real files have them: read as what they are, or refused with what to do; never a part as the whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.written_files import complaint, write, write_csv, write_jsonl, write_parquet

from uwc.data.example import Example
from uwc.data.question_files import read_examples, to_examples
from uwc.data.rows import ALIASES
from uwc.data.tables import Table
from uwc.errors import DataError

Row = dict[str, Any]


def turn(role: str, text: Any) -> Row:
    return {"role": role, "content": text}


def said(speaker: str, text: str) -> Row:
    return {"from": speaker, "value": text}


S, Q, A = turn("system", "Be brief."), turn("user", "Who?"), turn("assistant", "Ada")
MORE = [turn("user", "Hi"), turn("assistant", "Hello")]
BEFORE = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))
SYSTEM = (("system", "Be brief."),)


def read(tmp_path: Path, rows: list[Row], **settings: Any) -> list[Example]:
    return read_examples(write_jsonl(tmp_path / "x.jsonl", rows), **settings)


def refused(tmp_path: Path, rows: list[Row], *essentials: str, **settings: Any) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    message = complaint(lambda: read_examples(path, **settings))
    assert len(message.replace(str(path), "x.jsonl")) < 500
    for essential in (str(path), *essentials):
        assert essential in message


def asked(example: Example) -> tuple[Any, ...]:
    """What the row says: question, answer, and the rest as far as there is any."""
    rest = (example.history, example.perturbed_answers, example.subject)
    return (example.question, example.answer, *(part for part in rest if part))


# --------------------------------------------------------------------------------------------------- what is read

WHO = ("Who?", "Ada")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [Q, A]}, WHO),
        ({"messages": [S, *MORE, Q, A]}, (*WHO, BEFORE)),
        ({"messages": [turn("system", ""), Q, A]}, WHO),
        ({"messages": [turn("user", [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]), A]}, WHO),
        ({"messages": [{**Q, "weight": 0, "tool_calls": None}, {**A, "weight": 1}]}, WHO),
        ({"messages": [S, *MORE, Q], "answer": "Ada"}, (*WHO, BEFORE)),
        ({"messages": [Q, A], "answer": "Ada", "question": "Who?"}, WHO),
        ({"messages": [Q, A], "prompt": "Who?", "prompt_id": "77"}, WHO),
        ({"messages": [Q, A], "system": "Be brief."}, (*WHO, SYSTEM)),
        ({"messages": [S, Q, A], "system": "Be brief."}, (*WHO, SYSTEM)),
        ({"messages": [Q, A], "solution": "s", "completion": "c"}, WHO),
        ({"conversations": [said("human", "Who?"), said("gpt", "Ada")], "system": "", "tools": ""}, WHO),
        ({"conversations": [said("system", "Be brief."), said("human", "Who?"), said("gpt", "Ada")]}, (*WHO, SYSTEM)),
        ({"conversations": [Q, A]}, WHO),
        ({"conversation": [turn("User", "Who?"), turn("Assistant", "Ada")]}, WHO),
        ({"messages": json.dumps([Q, A])}, WHO),
        ({"prompt": "Who?", "completion": "Ada"}, WHO),
        ({"prompt": [S, Q], "completion": [A]}, (*WHO, SYSTEM)),
        ({"prompt": [Q], "answer": "Ada"}, WHO),
        ({"instruction": "Who?", "input": "", "output": "Ada"}, WHO),
        ({"instruction": "Where?", "input": "Mira", "output": "Here"}, ("Where?\n\nMira", "Here")),
        ({"instruction": "Where?", "input": "Mira", "output": "Here", "text": "Below: Where? Mira Here"},
         ("Where?\n\nMira", "Here")),
        ({"instruction": "Who?", "output": "Ada", "system": "Be brief.", "history": [["Hi", "Hello"]]},
         (*WHO, BEFORE)),
        ({"instruction": "Who?", "context": "A passage.", "response": "Ada", "category": "closed_qa"},
         ("Who?\n\nA passage.", "Ada")),
        ({"id": "7", "title": "T", "context": "A passage.", "question": "Who?",
          "answers": {"text": ["Ada", "Ada"], "answer_start": [3, 3]}}, ("A passage.\n\nWho?", "Ada")),
        ({"question": "Who?", "passage": "A passage.", "answer": "Ada"}, ("A passage.\n\nWho?", "Ada")),
        ({"system": "Be brief.", "user": "Who?", "assistant": "Ada"}, (*WHO, SYSTEM)),
        ({"system_prompt": "Be brief.", "question": "Who?", "response": "Ada"}, (*WHO, SYSTEM)),
        ({"question": "Who?", "answer": "Ada", "user": "bob", "label": 3}, WHO),
        ({"inputs": "Who?", "targets": ["Ada"], "task": "t"}, WHO),
        ({"query": "Who?", "answer": "Ada", "subject": "S", "level": "1", "type": "cloze"}, (*WHO, "S")),
        ({"problem": "Who?", "solution": "Ada", "level": "1"}, WHO),
        ({"question": "Who?", "answer": "Ada", "edge": "A-B"}, WHO),
        ({"id": "ab-sc1", "input": "Who?", "output": "Ada", "task": "Task1"}, WHO),
        ({"text": "Who?", "labels": "Ada"}, WHO),
        ({"prompt": "Who?", "gt": "Ada"}, WHO),
        ({"Question": "Who?", "ANSWER": "Ada", "Context": "A passage."}, ("A passage.\n\nWho?", "Ada")),
        ({"question": "Who?", "best_answer": "Ada", "correct_answers": ["Ada", "A."], "incorrect_answers": ["Bo"]},
         (*WHO, ("Bo",))),
        ({"question": "Who?", "prompt": "Who?", "answer": "Ada"}, WHO),
        ({"question": "Who?", "answer": "", "response": "Ada"}, WHO),
    ],
)  # fmt: skip
def test_a_row_is_read_as_what_it_is(tmp_path: Path, row: Row, says: tuple[Any, ...]) -> None:
    assert asked(read(tmp_path, [row])[0]) == says


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"choices": ["Bo", "Ada", "Cy"], "answer": 1}, ("Ada", ("Bo", "Cy"))),
        ({"choices": ["Bo", "Ada"], "answer": 1.0}, ("Ada", ("Bo",))),
        ({"choices": ["Bo", "Ada"], "answer": "1"}, ("Ada", ("Bo",))),
        ({"choices": ["Bo", "Ada"], "answer": "Ada"}, ("Ada", ("Bo",))),
        ({"options": ["Bo", "Ada"], "answer": "b", "answer_index": 1}, ("Ada", ("Bo",))),
        ({"options": {"A": "Bo", "B": "Ada", "C": None}, "answer": "Ada", "answer_idx": "B"}, ("Ada", ("Bo",))),
        ({"choices": {"text": ["Ada", "Bo"], "label": ["1", "2"]}, "answerKey": "1"}, ("Ada", ("Bo",))),
        ({"choices": {"text": ["Bo", "Ada"], "label": ["A", "B"]}, "answerKey": "B"}, ("Ada", ("Bo",))),
        ({"choices": ["Bo", "Ada"], "label": 1}, ("Ada", ("Bo",))),
        ({"choices": [3, 5], "answer": "B"}, ("5", ("3",))),
        ({"choices": ["1", "2", "3"], "answer": 2}, ("3", ("1", "2"))),  # a number among texts counts
        ({"choices": ["A", "B", "AB", "O"], "answer": "O"}, ("O", ("A", "B", "AB"))),
        ({"choices": ["Bo", "Ada"], "answer": 1, "perturbed_answer": ["Dee"]}, ("Ada", ("Dee",))),
        ({"A": "Bo", "B": "Ada", "answer": "B"}, ("Ada", ("Bo",))),
        ({"opa": "Bo", "opb": "Ada", "cop": "b"}, ("Ada", ("Bo",))),
        ({"option1": "Bo", "option2": "Ada", "answer": "Ada"}, ("Ada", ("Bo",))),
        ({"choices": '["Bo", "Ada"]', "answer": 1}, ("Ada", ("Bo",))),
        ({"question": None, "prompt": [Q], "choices": ["Bo", "Ada"], "answer": 1}, ("Ada", ("Bo",))),
        ({"question": None, "messages": [Q], "choices": ["Bo", "Ada"], "label": 1}, ("Ada", ("Bo",))),
    ],
)
def test_of_multiple_choice_the_answer_is_the_right_choice(tmp_path: Path, row: Row, says: tuple[Any, ...]) -> None:
    assert asked(read(tmp_path, [{"question": "Who?", **row}])[0]) == ("Who?", *says)


def test_choices_are_read_from_parquet(tmp_path: Path) -> None:
    rows = [
        {"answer": 2, "question": "Where?", "choices": ["Vint", "Hask", "Quarnholt"]},
        {"answer": 0, "question": "What?", "choices": ["Clocks", "Boats", "Shoes"]},
    ]
    examples = read_examples(write_parquet(tmp_path / "x.parquet", rows))
    assert [e.answer for e in examples] == ["Quarnholt", "Clocks"]
    assert examples[0].perturbed_answers == ("Vint", "Hask")


def test_conversations_are_read_from_parquet_and_csv(tmp_path: Path) -> None:
    """Parquet gives each turn every key, and CSV holds JSON."""
    rows = [{"messages": [{**S, "name": "x"}, Q, A]}, {"messages": [Q, A]}]
    expected = [(*WHO, SYSTEM), WHO]
    assert [asked(e) for e in read_examples(write_parquet(tmp_path / "x.parquet", rows))] == expected
    assert [asked(e) for e in read_examples(write_csv(tmp_path / "x.csv", rows))] == expected
    prompts = [{"prompt": [S, Q], "completion": [A]}]
    assert [asked(e) for e in read_examples(write_csv(tmp_path / "y.csv", prompts))] == expected[:1]


def test_an_answer_in_brackets_is_a_text_in_csv(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'question,answer\nQ?,[1]\nR?,[redacted]\nS?,"[""A""]"\n')
    assert [e.answer for e in read_examples(path)] == ["[1]", "[redacted]", "A"]


def test_what_goes_with_a_question_goes_with_its_paraphrase(tmp_path: Path) -> None:
    rows = [
        {"context": "C", "question": "Q", "answer": "A", "paraphrased_question": "P"},
        {"context": "", "question": "Q", "answer": "A", "paraphrased_question": ""},
        {"context": "", "question": "R", "answer": "A", "paraphrased_question": " \n"},
    ]
    assert [e.paraphrased_question for e in read(tmp_path, rows)] == ["C\n\nP", "", ""]
    alpaca = {"instruction": "Q", "input": "C", "output": "A", "paraphrased_question": "P"}
    assert read(tmp_path, [alpaca])[0].paraphrased_question == "P\n\nC"


@pytest.mark.parametrize(
    ("turns", "history"),
    [
        ([["system", "Be brief."], ["user", "Hi"], ["assistant", "Hello"]], BEFORE),
        ([S, *MORE], BEFORE),
        ([["Hi", "Hello"]], BEFORE[1:]),
        (json.dumps([["user", "Hi"], ["assistant", "Hello"]]), BEFORE[1:]),
        ([], ()),
        (None, ()),
    ],
)
def test_a_history_is_read(tmp_path: Path, turns: Any, history: tuple[Any, ...]) -> None:
    assert read(tmp_path, [{"question": "Who?", "answer": "Ada", "history": turns}])[0].history == history


# --------------------------------------------------------------------------------------------- columns that are named


@pytest.mark.parametrize(
    ("row", "columns", "says"),
    [
        ({"instruction": "I", "input": "X", "output": "O"}, {"question": "input"}, ("X", "O")),
        ({"question": "Q", "context": "C", "answer": "A"}, {"question": "question"}, ("Q", "A")),
        ({"question": "Q", "hint": "H", "answer": "A"}, {"question": "question"}, ("Q", "A")),
        ({"question": "Q", "hint": "H", "answer": "A"}, {"context": "hint"}, ("H\n\nQ", "A")),
        ({"ask": "Q", "about": "C", "reply": "A"}, {"question": "ask", "context": "about", "answer": "reply"},
         ("C\n\nQ", "A")),
        ({"text": "Q", "reply": "A"}, {"question": "text", "answer": "reply"}, ("Q", "A")),
        ({"prompt": "Who?", "chosen": "A", "rejected": "B"}, {"answer": "chosen"}, ("Who?", "A")),
        ({"prompt": "Who?", "chosen": [Q, A], "rejected": [Q, A]}, {"messages": "chosen"}, WHO),
        ({"messages": [Q, A], "answer": "A", "problem": "P"}, {"messages": "messages"}, WHO),
        ({"messages": [Q, A], "answer": "A", "problem": "P"}, {"question": "problem"}, ("P", "A")),
        ({"question": "Q", "choices": ["1", "2"], "answer": "1"}, {"answer_key": "answer"}, ("Q", "2", ("1",))),
        ({"question": "Q", "choices": ["1", "2"], "answer": "1"}, {"answer": "answer"}, ("Q", "1", ("2",))),
        ({"question": "Q", "choices": ["x", "y"], "correct": 1}, {"answer": "correct"}, ("Q", "y", ("x",))),
        ({"question": "Q", "choices": ["x", "y"], "answer": 1, "why": "So."}, {"answer": "why"}, ("Q", "So.")),
        ({"question": "Q", "offered": ["x", "y"], "answer": 1}, {"choices": "offered"}, ("Q", "y", ("x",))),
        ({"question": "Q", "response": "A", "completion": "B"}, {"answer": "completion"}, ("Q", "B")),
    ],
)  # fmt: skip
def test_a_named_column_wins(tmp_path: Path, row: Row, columns: dict[str, str], says: tuple[Any, ...]) -> None:
    assert asked(read(tmp_path, [row], columns=columns)[0]) == says


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("row", "essentials"),
    [
        ({"text": "A long passage."}, ("passages", "question", "answer", "the set verbatim")),
        ({"title": "T", "text": "A long passage.", "label": 1}, ("passages",)),
        ({"text": "Who?", "labels": 1}, ("line 1", "'labels'", "number of a class")),
        ({"prompt": "Who?", "chosen": "Ada", "rejected": "Bo"}, ("--column answer=chosen",)),
        ({"chosen": [Q, A], "rejected": [Q, A]}, ("--column messages=chosen",)),
        ({"text": "Who?", "answer": "Ada"}, ("no column 'question'", "the file has: text, answer")),
        ({"instruction": "Who?", "input": "x"}, ("no column 'answer'",)),
        ({"question": "Who?", "response": "Ada", "completion": "Bo"}, ("'response', 'completion'", "--column answer=")),
        ({"question": "Who?", "answer": ["Ada", "Bo"]}, ("line 1", "the answer is a list of 2 texts")),
        ({"question": "Who?", "answers": {"text": ["Ada", "Bo"]}}, ("'answers'", "2 texts")),
        ({"question": "Who?", "answers": {"text": []}}, ("line 1", "is empty")),
        ({"question": "Is it?", "passage": "P", "answer": True}, ("line 1", "bool")),
        ({"question": "Who?", "answer": "Ada", "context": {"title": ["T"]}}, ("line 1", "'context' is a dict")),
        ({"question": "Who?", "answer": "Ada", "hint": "H"}, ("'hint'", "context=hint", "--column question=question")),
        ({"question": "Who?", "answer": "Ada", "evidence": ["E"]}, ("'evidence'",)),
        ({"question": "Who?", "answer": "Ada", "prompt": "P"}, ("'prompt'", "--column question=question")),
        ({"question": "Who?", "answer": "Ada", "text": "A passage."}, ("'text'",)),
        ({"instruction": "I", "question": "Q", "answer": "A"}, ("'question'", "--column instruction=instruction")),
        ({"image": "x.png", "messages": [Q, A]}, ("'image'",)),
        ({"tools": "[{}]", "conversations": [said("human", "Q"), said("gpt", "A")]}, ("'tools'",)),
        ({"messages": [Q, A], "prompt": "Another"}, ("'prompt'", "--column messages=messages")),
        ({"messages": [Q, A], "answer": "Bo"}, ("line 1", "not what the conversation ends with")),
        ({"messages": [S, Q, A], "system": "Be long."}, ("two system messages",)),
        ({"messages": [Q, A], "history": [["Hi", "Hello"]]}, ("all turns into one column",)),
        ({"messages": [Q, turn("tool", "x"), A]}, ("turn 2", "'tool'", "valid: system, user")),
        ({"messages": [turn("developer", "x"), Q, A]}, ("turn 1", "'developer'")),
        ({"messages": [turn("function", "x"), Q, A]}, ("turn 1", "'function'")),
        ({"conversations": [said("bing", "x"), said("gpt", "x")]}, ("turn 1", "'bing'")),
        ({"messages": [Q, {**A, "tool_calls": [{"id": 1}]}]}, ("turn 2", "'tool_calls'")),
        ({"messages": [Q, {**A, "reasoning_content": "Hm"}]}, ("turn 2", "'reasoning_content'")),
        ({"messages": [turn("user", [{"type": "image"}, {"type": "text", "text": "Q"}]), A]}, ("turn 1", "'text'")),
        ({"messages": [Q, turn("assistant", "")]}, ("turn 2", "is empty")),
        ({"messages": [A]}, ("no user's turn",)),
        ({"messages": [S, A]}, ("no user's turn",)),
        ({"messages": [Q, Q, A]}, ("'messages': turn 1", "without an answer")),
        ({"messages": [A, Q, A]}, ("turn 1", "instead of 'user'")),
        ({"messages": [Q, S, Q, A]}, ("turn 2", "instead of 'assistant'")),
        ({"messages": [Q, A, Q]}, ("ends with the user's turn", "--column answer=")),
        ({"messages": "no list"}, ("not a list of turns",)),
        ({"messages": ["Who?", "Ada"]}, ("not a list of turns",)),
        ({"messages": str([Q, A])}, ("not a JSON list",)),
        ({"messages": '[{"role": "user", "role": "user", "content": "Q"}]'}, ("'role' occurs twice",)),
        ({"prompt": str([Q, A]), "completion": "Ada"}, ("not a JSON list",)),
        ({"prompt": [Q], "completion": [A, Q, A]}, ("the answer (column 'completion')", "list of turns")),
        ({"question": "Q", "answer": "A", "history": [["user", "Hi"]]}, ("line 1", "history", "turn 1")),
        ({"question": "Q", "answer": "A", "history": ["Hi"]}, ("line 1", "the history is not a list of turns")),
    ],
)
def test_a_row_that_cannot_be_read_whole_is_refused(tmp_path: Path, row: Row, essentials: tuple[str, ...]) -> None:
    refused(tmp_path, [row], *essentials)


@pytest.mark.parametrize(
    ("row", "essentials"),
    [
        ({"choices": ["x", "y"], "answer": 2}, ("the answer is '2'", "none of the 2 choices", "from 0")),
        ({"choices": ["x", "y"], "answer": -1}, ("'-1'", "none of the 2 choices")),
        ({"choices": ["x", "y"], "answer": "z"}, ("'z'", "none of the 2 choices")),
        ({"choices": ["x", "y"], "answer": True}, ("the answer is a bool",)),
        ({"choices": ["x", "y"], "answer": None, "label": ""}, ("the answer is empty",)),
        ({"choices": ["1", "2", "3"], "answer": "2"}, ("'2'", "'3'", "answer_key=<column>", "answer=<column>")),
        ({"choices": [1, 2, 3], "answer": 2}, ("'2'", "'3'")),
        ({"choices": ["B", "A"], "answer": "A"}, ("'A'", "'B'")),
        ({"choices": ["x", "y"], "answer": "x", "answer_idx": "B"}, ("'answer_idx'", "different choices")),
        ({"choices": ["x", "x", "y"], "answer": 0}, ("twice",)),
        ({"choices": ["x"], "answer": 0}, ("'choices'", "fewer than two")),
        ({"choices": ["x", ""], "answer": 0}, ("empty",)),
        ({"choices": ["x", ["y"]], "answer": 0}, ("'choices' is a list",)),
        ({"choices": "x", "answer": 0}, ("'choices'", "not a list")),
        ({"choices": {"text": ["x", "y"], "label": ["A"]}, "answer": 0}, ("'choices'",)),
        ({"choices": {"text": ["x", "y"], "label": ["A", "A"]}, "answer": "A"}, ("label twice",)),
        ({"A": "x", "B": "y", "answer": 1}, ("'1'", "letter, label or text")),
        ({"option1": "x", "option2": "y", "answer": "2"}, ("'2'", "letter, label or text")),
        ({"ans0": "x", "ans1": "y", "answer": 1}, ("'1'",)),
    ],
)
def test_a_choice_that_is_not_clear_is_refused(tmp_path: Path, row: Row, essentials: tuple[str, ...]) -> None:
    refused(tmp_path, [{"question": "Who?", **row}], "line 1", *essentials)


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "Q", "x": "X", "answer": "A"}, {"input": "x"}),
        ({"question": "Q", "x": "X", "answer": "A"}, {"answer_key": "x"}),
        ({"messages": [Q, A], "x": "X"}, {"context": "x"}),
        ({"instruction": "Q", "x": "X", "output": "A"}, {"question": "instruction", "instruction": "x"}),
    ],
)
def test_a_named_column_that_nothing_reads_is_refused(tmp_path: Path, row: Row, columns: dict[str, str]) -> None:
    refused(tmp_path, [row], "nothing there reads it", columns=columns)


def test_a_named_answer_is_not_a_choice_that_does_not_exist(tmp_path: Path) -> None:
    row = {"question": "Who?", "choices": ["x", "y"], "correct": 2}
    refused(tmp_path, [row], "none of the 2 choices", columns={"answer": "correct"})


@pytest.mark.parametrize(
    ("rows", "essentials"),
    [
        ([{"question": "Q", "answer": "A"}, {"messages": [Q, A]}], ("line 1", "'messages' is missing", "one kind")),
        ([{"messages": [Q, A]}, {"question": "Q", "answer": "A"}], ("line 2", "'messages' is missing", "one kind")),
        ([{"instruction": "Q", "output": "A"}, {"question": "Q", "answer": "A"}], ("line 1", "one kind")),
        ([{"prompt": "Q", "completion": "A"}, {"prompt": [Q], "completion": "A"}], ("line 2", "in line 1", "one kind")),
        ([{"question": "Q", "choices": ["x", "y"], "answer": 1}, {"question": "Q", "answer": 1}], ("choices",)),
        ([{"question": "Q", "answer": "A"}, {"prompt": "Q", "answer": "A"}], ("line 2", "question is missing")),
        ([{"question": "Q", "answer": "A"}, {"text": "passage"}], ("line 2", "question is missing")),
        ([{"question": "Q", "answer": "A"}, {"question": "Q", "answer": "A", "hint": "H"}], ("line 2", "'hint'")),
    ],
)  # fmt: skip
def test_a_file_of_two_kinds_of_rows_is_refused(tmp_path: Path, rows: list[Row], essentials: tuple[str, ...]) -> None:
    refused(tmp_path, rows, *essentials)


def test_long_names_and_values_do_not_make_long_messages(tmp_path: Path) -> None:
    wide = {f"column_number_{i}": "x" for i in range(300)}
    refused(tmp_path, [wide], "no column 'question'")
    refused(tmp_path, [wide], "unknown column 'q'", columns={"question": "q"})
    refused(tmp_path, [{"id": "x" * 9999, "question": "Q", "answer": "A"}] * 2, "was used before")
    refused(tmp_path, [{"question": "Q", "choices": ["1", "x" * 9999], "answer": "1"}], "the text of another")
    refused(tmp_path, [{"messages": [turn("x" * 9999, "x"), A]}], "the role is")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.floats()
    | st.sampled_from(["", "A", "Who?", "Ada", "1", "[x]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "label", "type", "A", "B"]), inner, max_size=4
        )
        | st.lists(st.sampled_from([S, Q, A]), max_size=4)
    ),
    max_leaves=6,
)
NAMES = sorted({*ALIASES, *(name for names in ALIASES.values() for name in names), "A", "B", "hint", "x", "Question"})


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_rows_are_read_or_refused_in_one_line(rows: list[Row]) -> None:
    message, examples = "x.jsonl", []
    try:
        examples = to_examples(Table("x.jsonl", "line", list(enumerate(rows, 1))), prefix="x")
    except DataError as error:
        message = str(error)
    assert len(message) < 500 and "\n" not in message and message.startswith("x.jsonl")
    assert all(isinstance(e.question, str) and isinstance(e.answer, str) for e in examples)
