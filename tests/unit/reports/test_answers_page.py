"""The data of the answers page: every text once, rows by question, and a page that asks for nothing."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.helpers.answers_frame import QUESTIONS, answers_frame
from tests.helpers.results_factory import METRICS, run_record, study_results

from uwc.reports import answers_page
from uwc.reports.answers_page import SIBLING, packed, write_answers_page
from uwc.reports.page import write_page
from uwc.results import ES


def unpacked(frame: pd.DataFrame, first: str = ES) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed(frame, METRICS, first))))
    return content


def test_the_data_are_the_table() -> None:
    frame = answers_frame()
    found = unpacked(frame.sample(frac=1, random_state=0))
    texts, questions, rows = found["texts"], found["questions"], found["rows"]
    assert len(texts) == len(set(texts))
    assert [metric["name"] for metric in found["metrics"]] == [ES, "perplexity"]
    owner = [i for i, count in enumerate(questions["rows"]) for _ in range(count)]
    keys = ["role", "model", "condition", "attack", "variant"]
    made = pd.DataFrame([found["sources"][source] for source in rows["source"]], columns=keys)
    made["id"] = [questions["id"][i] for i in owner]
    for name, codes in (("prompt", rows["prompt"]), ("generated", rows["generated"])):
        made[name] = [texts[code] for code in codes]
    for name in ("question", "answer"):
        made[name] = [texts[questions[name][i]] for i in owner]
    made["secret"] = [[texts[code] for code in questions["secret"][i]] for i in owner]
    made["completed_from"], made[ES] = rows["completed"], rows["values"][0]
    order = ["id", *keys]
    columns = list(made.columns)
    pd.testing.assert_frame_equal(
        made.sort_values(order, ignore_index=True), frame[columns].sort_values(order, ignore_index=True)
    )
    assert [source[0] for source in found["sources"]][:1] == ["original"]
    assert found["sources"][-1][0] == "retrained" and found["sources"][1][:2] == ["unlearned", "npo"]


def test_missing_texts_and_numbers() -> None:
    frame = (
        answers_frame().head(3).assign(generated=None, prompt=None, completed_from=None, cluster=None, kl=float("nan"))
    )
    frame["perplexity"] = [float("inf"), 123456.789, 0.000123456]
    found = unpacked(frame, "perplexity")
    assert found["rows"]["generated"] == found["rows"]["prompt"] == [-1] * 3
    assert found["rows"]["completed"] == [None] * 3
    assert [metric["name"] for metric in found["metrics"]] == ["perplexity", ES], "the first is the one asked for"
    assert sorted(found["rows"]["values"][0], key=str) == [0.0001235, 123500, None]


def test_large_data_are_beside_the_page_and_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_answers_page(answers_frame(), METRICS, tmp_path / "answers.html", title="t")
    first = (tmp_path / "answers.html").read_bytes()
    assert not (tmp_path / SIBLING).exists() and packed(answers_frame(), METRICS).encode() in first
    monkeypatch.setattr(answers_page, "LARGEST", 100)
    write_answers_page(answers_frame(), METRICS, tmp_path / "answers.html", title="t")
    assert len((tmp_path / "answers.html").read_bytes()) < len(first)
    parts = (tmp_path / SIBLING).read_text(encoding="utf-8")
    assert packed(answers_frame(), METRICS) in parts


def test_the_report_has_the_answers_if_there_are_any(tmp_path: Path) -> None:
    write_page(study_results(), run_record(), tmp_path / "report.html")
    without = (tmp_path / "report.html").read_text(encoding="utf-8")
    write_page(study_results(), run_record(), tmp_path / "report.html", answers=answers_frame())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="answers-table"' in page and 'id="answers-table"' not in without
    assert "answers.parquet" in page.partition("<noscript>")[2]
    assert QUESTIONS[0][3] not in page, "texts are compressed"
