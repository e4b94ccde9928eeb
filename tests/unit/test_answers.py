"""The table of answers: its file, its redaction, and the worst attack on each question."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from uwc import answers
from uwc.errors import UserError
from uwc.results import AttackResults, Scores

ANSWERS = ("In Quarnholt", "259 Rue Vazmi")


def plain(model: str = "npo", values: tuple[float, ...] = (0.5, 0.0), **changes: Any) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "set": "forget",
        "ids": ["a", "b"],
        "clusters": ["Ann", ""],
        "questions": ["Where was Ann born?", "Where does Bo live?"],
        "secrets": [(), ("259 Rue Vazmi",)],
        "answers": ANSWERS,
        "values": {"extraction_strength": np.array(values)},
        "role": "unlearned",
        "model": model,
        "prompts": ["Q: Where was Ann born?", "Q: Where does Bo live? In 259"],
        "generated": ["In  quarnholt, Ann said.", "At \uff12\uff15\uff19 rue vazmi\u2028or nowhere"],
        "completed_from": [3, None],
    }
    return answers.rows(**{**columns, **changes})


def attacked(attack: str, values: tuple[float, ...], **changes: Any) -> pd.DataFrame:
    return plain(values=values, condition=answers.ATTACK, attack=attack, variant="v", **changes)


def test_the_file_gives_back_the_table(tmp_path: Path) -> None:
    table = answers.joined([plain(), plain("gd")])
    table.loc[3, "generated"] = None
    answers.write(table, tmp_path, of="results.json")
    again = answers.read(tmp_path, of="results.json")
    assert list(again.columns) == [*answers.COLUMNS, "extraction_strength"] == list(table.columns)
    pd.testing.assert_frame_equal(again, table, check_dtype=False)
    assert again["secret"].tolist() == [[], ["259 Rue Vazmi"]] * 2
    assert again["generated"][1] == "At \uff12\uff15\uff19 rue vazmi\u2028or nowhere" and pd.isna(again["generated"][3])
    assert again["completed_from"].tolist() == [3, pd.NA, 3, pd.NA]


def test_a_metric_that_some_rows_lack_is_missing_there() -> None:
    table = answers.joined([plain(), plain("gd").rename(columns={"extraction_strength": "rouge_l"})])
    assert answers.metrics_of(table) == ["extraction_strength", "rouge_l"]
    assert table["rouge_l"].isna().tolist() == [True, True, False, False]


def test_a_table_may_have_no_row(tmp_path: Path) -> None:
    answers.write(answers.joined([]), tmp_path, of="attack.json")
    assert list(answers.read(tmp_path).columns) == list(answers.COLUMNS)


def test_what_is_no_table_of_this_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"answers\.parquet: there is no such file"):
        answers.read(tmp_path)
    answers.write(plain(), tmp_path, of="score.json")
    with pytest.raises(UserError, match=r"another result \(score\.json\), not of attack\.json"):
        answers.read(tmp_path, of="attack.json")
    assert answers.written_of(tmp_path) == "score.json"
    (tmp_path / answers.FILE).write_bytes(b"PAR1 damaged")
    with pytest.raises(UserError, match="not a table of answers"):
        answers.read(tmp_path)
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="there is no column 'set'"):
        answers.read(tmp_path / "other.parquet")


def test_redaction_leaves_no_word_of_an_answer_and_no_secret() -> None:
    table = plain()
    found = answers.redacted(table)
    assert found["answer"].tolist() == [answers.hashed(a) for a in ANSWERS] and found["answer"].is_unique
    mark = answers.MARK
    assert found["generated"].tolist() == [f"{mark}  {mark}, Ann said.", f"At {mark} {mark} {mark}\u2028or nowhere"]
    assert found["prompt"].tolist() == ["Q: Where was Ann born?", f"Q: Where does Bo live? In {mark}"]
    assert found["secret"].tolist() == [[], [mark]]
    assert found["question"].tolist() == table["question"].tolist()
    assert table["answer"].tolist() == list(ANSWERS), "the table itself is unchanged"


def test_a_secret_within_a_longer_word_is_hidden_with_it_or_with_the_whole_text() -> None:
    found = answers.redacted(plain(secrets=[("Quarn",), ("7",)], generated=["near xQuarnholts", "K7X"]))
    assert found["generated"].tolist() == [f"near {answers.MARK}", answers.MARK]


def test_the_worst_attack_on_each_question_by_hand() -> None:
    """Question a is remembered most under the second attack, b under the first; equal ones: the first."""
    table = answers.joined([plain(), attacked("one", (0.1, 0.7)), attacked("two", (0.9, 0.7))])
    worst = answers.worst(table, "extraction_strength")
    assert dict(zip(worst["id"], worst["attack"], strict=True)) == {"a": "two", "b": "one"}
    lowest = answers.worst(table, "extraction_strength", higher=False)
    assert dict(zip(lowest["id"], lowest["attack"], strict=True)) == {"a": "one", "b": "one"}
    rows = answers.overview(table, "extraction_strength")
    assert rows["worst_attack"].tolist() == ["two", "one"] and rows["worst_value"].tolist() == [0.9, 0.7]
    assert rows["extraction_strength"].tolist() == [0.5, 0.0]


def test_a_question_without_an_attack_has_none() -> None:
    rows = answers.overview(plain(), "extraction_strength")
    assert rows["worst_attack"].isna().all() and len(rows) == 2


def test_the_answers_of_another_result_are_replaced_on_demand_only(tmp_path: Path) -> None:
    answers.write(plain(), tmp_path, of=Scores.FILE)
    Scores.prepare(tmp_path)
    with pytest.raises(UserError, match=r"answers\.parquet belongs to score\.json.*--overwrite"):
        AttackResults.prepare(tmp_path)
    AttackResults.prepare(tmp_path, overwrite=True)
    (tmp_path / answers.FILE).write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="belongs to no result of uwc"):
        Scores.prepare(tmp_path)
