"""The description of question files: numbers worked out by hand."""

import unicodedata
from pathlib import Path

import pytest
from tests.helpers.written_files import write_jsonl

import uwc
from uwc.data.example import Example
from uwc.errors import DataError
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import DataSummary, Distribution
from uwc.workflows.questions import scripts

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Où est CAFÉ ?") for form in ("NFC", "NFD"))
ROWS = [
    {"question": COMPOSED, "answer": "Ici", "subject": "a"},
    {"question": DECOMPOSED.lower(), "answer": "ICI ", "subject": "a", "refusal": "Non"},
    {"question": COMPOSED, "answer": "Là", "subject": "b"},
    {"question": "", "answer": "x", "subject": "b"},
    {"question": "Who?", "answer": "Anna Oln", "subject": "c"},
]


def test_a_file_is_described(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    described = uwc.describe_questions({"a": path, "list": [Example("1", "Q?", "A")]})
    found = described.sets["a"]
    assert (found.valid, found.invalid_rows.rows, found.invalid_rows.invalid) == (4, 5, 1)
    assert [row["row"] for row in described.rows()] == [4]
    assert (found.repeated_questions, found.repeated_pairs) == (2, 1)
    assert (found.clusters, found.cluster_sizes) == (3, Distribution(min=1, median=1, max=2))
    assert found.answer_characters == Distribution(min=2, median=3.5, max=8)
    assert found.fields == {"question": 4, "answer": 4, "refusal": 1, "subject": 4}
    assert found.scripts == {"Latin": 1.0} and found.tokens is None
    assert described.sets["list"].invalid_rows.rows == 1
    codes = {warning.code for warning in described.warnings}
    assert codes == {"few_clusters", "one_cluster", "no_subjects", "repeated_questions"}
    described.save(tmp_path)
    assert DataSummary.load(tmp_path / "data.json") == described


def test_shares_of_scripts_are_of_letters_alone() -> None:
    assert scripts(["ab, 12 \u0661", "дe!", "京"]) == {"Latin": 0.6, "Cyrillic": 0.2, "Han": 0.2}
    assert scripts(["\uff21\uff22"]) == {"Latin": 1.0} and scripts(["12"]) == {}


def test_lengths_are_counted_in_tokens_of_a_model(untrained: Model, tmp_path: Path) -> None:
    save_model(untrained, tmp_path / "model")
    path = write_jsonl(tmp_path / "a.jsonl", [*ROWS, {"question": "Who?", "answer": "word " * 500, "subject": "c"}])
    loaded = uwc.load_model(tmp_path / "model", device="cpu")
    short = uwc.load_questions(write_jsonl(tmp_path / "b.jsonl", ROWS[:3]))
    encoded = loaded.encode(short)
    for model in (tmp_path / "model", loaded):
        described = uwc.describe_questions({"a": path, "b": tmp_path / "b.jsonl"}, model=model)
        tokens = [found.tokens for found in described.sets.values()]
        assert tokens[0] is not None and tokens[1] is not None
        assert (tokens[0].context, tokens[0].over, tokens[1].over) == (128, 1, 0)
        assert tokens[1].all is not None and tokens[1].prompt is not None
        assert tokens[1].all.max == max(len(e.tokens) for e in encoded)
        assert tokens[1].prompt.min == min(e.start for e in encoded)


def test_a_file_without_a_column_for_the_question_is_an_error(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"Customer question": "Q?", "answer": "A"}])
    with pytest.raises(DataError, match="--column question='Customer question'"):
        uwc.describe_questions(path)
    assert uwc.describe_questions(path, columns={"question": "Customer question"}).sets["data"].valid == 1
