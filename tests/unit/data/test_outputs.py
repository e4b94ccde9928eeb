"""Texts of a system that is not a checkpoint: their columns, and how they are matched with questions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from uwc import answers
from uwc.data.example import Example
from uwc.data.outputs import Outputs, SystemTexts, open_outputs, read_attack, read_outputs
from uwc.errors import ConfigError, DataError

FORGET = [Example(id=f"f{i}", question=f"Who is {i}?", answer=f"number {i}", subject=f"s{i}") for i in range(4)]
RETAIN = [Example(id=f"r{i}", question=f"What is {i}?", answer=f"thing {i}") for i in range(3)]


def read(
    data: Any,
    questions: Mapping[str, Sequence[Example]] | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> SystemTexts:
    opened, _ = open_outputs({"outputs": Outputs(data, columns or {})})
    return read_outputs(opened["outputs"], questions, **options)


def own_rows() -> list[dict[str, Any]]:
    return [{"question": e.question, "answer": e.answer, "output": f"it is {e.answer}"} for e in FORGET]


def test_rows_have_their_own_questions(tmp_path: Path) -> None:
    """The fields of a question file are read beside the text; without a column of sets all are the forget set."""
    rows = [{**row, "subject": "a", "secret": [row["answer"]]} for row in own_rows()]
    found = read(rows)
    assert list(found.examples) == ["forget"]
    assert found.texts["forget"] == tuple(f"it is number {i}" for i in range(4))
    assert [e.secret for e in found.examples["forget"]] == [(f"number {i}",) for i in range(4)]
    assert {e.subject for e in found.examples["forget"]} == {"a"}
    assert read(pd.DataFrame(rows)).texts == found.texts


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_all_formats_of_question_files_are_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    table = pd.DataFrame([{**row, "set": "forget" if i < 2 else "retain"} for i, row in enumerate(own_rows())])
    if suffix == "csv":
        table.to_csv(path, index=False)
    elif suffix == "parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=suffix == "jsonl")
    found = read(path)
    assert found.texts == {
        "forget": ("it is number 0", "it is number 1"),
        "retain": ("it is number 2", "it is number 3"),
    }
    assert list(found.files) == [path.name] and len(found.files[path.name]) == 64


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"question": "q", "answer": "a", "model_output": "text"}, {}),
        ({"question": "q", "ground_truth": "a", "generation": "text"}, {}),
        ({"question": "q", "answer": "a", "response": "text"}, {}),
        ({"prompt": "q", "target": "a", "completion": "text"}, {}),
        ({"question": "q", "answer": "a", "x": "text", "output": "another"}, {"output": "x"}),
        ({"ask": "q", "gold": "a", "said": "text"}, {"question": "ask", "answer": "gold", "output": "said"}),
        ({"messages": [{"role": "user", "content": "q"}], "answer": "a", "output": "text"}, {}),
        ({"question": "q", "answer": "a", "output": [{"role": "assistant", "content": "text"}]}, {}),
    ],
)
def test_columns_are_found_by_name_or_given(row: dict[str, Any], columns: dict[str, str]) -> None:
    found = read([row], columns=columns)
    (example,) = found.examples["forget"]
    assert (example.question, example.answer, found.texts["forget"]) == ("q", "a", ("text",))


def test_the_prompt_as_sent_is_kept_beside_the_question() -> None:
    found = read([{**row, "prompt": f"Q: {row['question']} A:"} for row in own_rows()])
    assert found.prompts["forget"][1] == "Q: Who is 1? A:" and found.examples["forget"][1].question == "Who is 1?"


@pytest.mark.parametrize(("said", "text"), [("", ""), (5, "5"), (10**400, "1" + "0" * 400)])
def test_an_empty_text_and_a_number_are_texts(said: Any, text: str) -> None:
    assert read([{"question": "q", "answer": "a", "output": said}]).texts["forget"] == (text,)


def test_texts_are_matched_by_id_in_any_order() -> None:
    """The questions' own answers and subjects count, whatever the rows say."""
    rows = [{"id": e.id, "output": f"of {e.id}", "answer": "wrong"} for e in reversed([*FORGET, *RETAIN])]
    found = read(rows, {"forget": FORGET, "retain": RETAIN})
    assert found.examples == {"forget": FORGET, "retain": RETAIN}
    assert found.texts["forget"] == ("of f0", "of f1", "of f2", "of f3")


def test_texts_are_matched_by_the_text_of_the_question_without_ids() -> None:
    """Case and white space do not count; a question may stand within a prompt."""
    rows = [{"question": f"  WHO is {i}? ", "output": str(i)} for i in (2, 0)]
    rows += [{"question": f"<|user|>\nWho is {i}?\n<|assistant|>", "output": str(i)} for i in (3, 1)]
    assert read(rows, {"forget": FORGET}).texts["forget"] == ("0", "1", "2", "3")


def test_ids_that_are_none_of_the_questions_are_not_compared() -> None:
    rows = [{"id": i, "question": e.question, "output": e.id} for i, e in enumerate(FORGET)]
    assert read(rows, {"forget": FORGET}).texts["forget"] == ("f0", "f1", "f2", "f3")


def test_a_repeated_question_is_matched_by_its_answer() -> None:
    twice = [Example(id=f"x{i}", question="Who?", answer=f"number {i}") for i in range(2)]
    rows = [{"question": "Who?", "answer": f"number {i}", "output": f"text {i}"} for i in (1, 0)]
    assert read(rows, {"forget": twice}).texts["forget"] == ("text 0", "text 1")


def test_a_set_of_which_no_questions_are_given_has_its_own() -> None:
    rows = [{"id": e.id, "set": "forget", "output": "x"} for e in FORGET]
    rows += [{"id": "o1", "set": "other", "question": "q", "answer": "a", "output": "y"}]
    found = read([{"question": "", "answer": "", **row} for row in rows], {"forget": FORGET})
    assert list(found.examples) == ["forget", "other"] and found.texts["other"] == ("y",)


def test_paraphrased_questions_need_no_text() -> None:
    wordings = {"forget": FORGET, "forget_paraphrased": [Example(id=e.id, question="?", answer="x") for e in FORGET]}
    rows = [{"id": e.id, "output": "x"} for e in FORGET]
    assert list(read(rows, wordings, optional=["forget_paraphrased"]).examples) == ["forget"]


def lines(folder: Path, *rows: Mapping[str, Any]) -> Path:
    (folder / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "out.jsonl"


FULL = [{"id": e.id, "output": "x"} for e in FORGET]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*FULL, {"id": "f9", "output": "x"}], "line 5: no question of 'forget' has the id 'f9'"),
        ([*FULL, {"id": "f1", "output": "y"}], r"line 5.*'f1'.*line 2; keep one of the two"),
        (FULL[:2], "2 of the 4 questions of 'forget'.*the first is 'f2'"),
        ([*FULL[:3], {"id": "f3"}], "line 4.*output.*missing"),
        ([*FULL[:3], {"id": "f3", "output": 5.5}, {"id": "f3", "output": ["a", "b"]}], "line 5.*list"),
        ([{"id": e.id, "text": "x"} for e in FORGET], "no column 'output'.*--column output="),
        ([{"question": "Who else?", "output": "x"}], "line 1.*'Who else\\?'"),
    ],
)
def test_what_does_not_match_is_named_with_its_line(rows: list[dict[str, Any]], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read(lines(tmp_path, *rows), {"forget": FORGET})


def test_rows_without_answers_need_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"answer.*--forget"):
        read(lines(tmp_path, {"question": "q", "output": "x"}))


def test_two_texts_of_one_id_are_refused_without_questions_too(tmp_path: Path) -> None:
    row = {"id": "a", "question": "q", "answer": "a", "output": "x"}
    with pytest.raises(DataError, match=r"line 2.*keep one text"):
        read(lines(tmp_path, row, row))


def test_invalid_rows_are_left_out_on_demand(tmp_path: Path) -> None:
    """A row without a text, and with it its question; more than half of the rows are an error."""
    path, left_out = lines(tmp_path, *FULL[:3], {"id": "f3", "output": None}), []
    found = read(path, {"forget": FORGET}, left_out=left_out)
    assert [e.id for e in found.examples["forget"]] == ["f0", "f1", "f2"]
    assert [(of.invalid, of.first[0].row) for of in left_out] == [(1, 4)]
    with pytest.raises(DataError, match="3 of 4"):
        read(
            lines(tmp_path, FULL[0], *({"id": f"f{i}", "output": None} for i in (1, 2, 3))),
            {"forget": FORGET},
            left_out=[],
        )


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"out\.jsonl.*empty"):
        read(tmp_path / "out.jsonl")


def test_columns_by_file_and_for_the_questions(tmp_path: Path) -> None:
    """A column of one file by its name, one of all files that have it, and those of the questions are handed on."""
    first, second = [{"id": "a", "said": "x"}], [{"id": "a", "text": "y"}]
    questions = {"forget": [{"ask": "q", "answer": "a"}]}
    asked = {"output": "said", "before:output": "text", "question": "ask"}
    opened, theirs = open_outputs({"outputs": Outputs(first), "before": Outputs(second)}, asked, questions=questions)
    assert [found.asked for found in opened.values()] == [{"output": "said"}, {"output": "text"}]
    assert theirs == {"question": "ask"}
    for wrong in ({"output": "nosuch"}, {"nosuch": "said"}, {"after:output": "said"}):
        with pytest.raises(ConfigError):
            open_outputs({"outputs": Outputs(first)}, wrong)


def test_an_attack_may_have_variants_and_a_part_of_the_sets() -> None:
    rows = [
        {"id": e.id, "variant": v, "output": f"{v} {e.id}", "prompt": f"{v}! {e.question}"}
        for v in ("a", "b")
        for e in FORGET
    ]
    opened, _ = open_outputs({"jail": Outputs(rows)})
    examples, variants = read_attack(opened["jail"], {"forget": FORGET, "retain": RETAIN})
    assert examples == {"forget": FORGET}
    assert [v.label for v in variants["forget"]] == ["a", "b"]
    assert variants["forget"][1].texts[2] == "b f2" and variants["forget"][1].prompts[2] == "b! Who is 2?"
    opened, _ = open_outputs({"jail": Outputs(rows[:-1])})
    with pytest.raises(DataError, match=r"1 of the 4 questions.*each of the variants"):
        read_attack(opened["jail"], {"forget": FORGET})


def test_variants_without_an_attack_are_refused() -> None:
    rows = [{"id": e.id, "variant": v, "output": "x"} for v in ("a", "b") for e in FORGET]
    with pytest.raises(DataError, match="2 variants"):
        read(rows, {"forget": FORGET})


def test_a_table_of_answers_gives_the_texts_of_its_model(tmp_path: Path) -> None:
    def rows(**of_model: Any) -> pd.DataFrame:
        asked = {"questions": ["q1", "q2"], "secrets": [("s",), ()], "answers": ["a1", "a2"], "clusters": ["c", ""]}
        return answers.rows(
            set="forget", ids=["1", "2"], **asked, role="unlearned", values={"rouge_l": [1.0, 0.0]}, **of_model
        )

    own = rows(model="m", generated=["t1", "t2"], prompts=["p1", "p2"])
    attacked = rows(model="m", condition=answers.ATTACK, attack="x", generated=["u1", None])
    path = answers.write(answers.joined([own, attacked]), tmp_path, of="score.json")
    found = read(path)
    assert found.texts == {"forget": ("t1", "t2")} and found.prompts == {"forget": ("p1", "p2")}
    assert [(e.id, e.subject, e.secret) for e in found.examples["forget"]] == [("1", "c", ("s",)), ("2", "", ())]
    answers.write(answers.joined([own, rows(model="n", generated=["v1", "v2"])]), tmp_path, of="score.json")
    with pytest.raises(DataError, match="2 models"):
        read(path)


def test_positions_select_all_parts() -> None:
    found = read([{**row, "prompt": row["question"]} for row in own_rows()]).select({"forget": [2, 0]})
    assert [e.answer for e in found.examples["forget"]] == ["number 2", "number 0"]
    assert found.texts["forget"] == ("it is number 2", "it is number 0")
    assert found.prompts["forget"] == ("Who is 2?", "Who is 0?")
