"""Question files in every format, for tests of what reads them."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from uwc.data.example import Example
from uwc.errors import DataError

ROWS: list[dict[str, Any]] = [
    {
        "id": "a",
        "question": "Who wrote 'Ash, and Ember'?",
        "answer": 'Vela "V." Torrin',
        "paraphrased_question": "'Ash, and Ember' is by whom?",
        "paraphrased_answer": "It is by\nVela Torrin.",
        "perturbed_answers": ["Ada Brel", "Ödön [Jr.]"],
        "refusal": "I don't know.",
        "subject": "Torrin",
    },
    {
        "id": "b",
        "question": "In what year\u2028was she born?",
        "answer": "1931",
        "paraphrased_question": "",
        "paraphrased_answer": "",
        "perturbed_answers": [],
        "refusal": "",
        "subject": "Torrin",
    },
]
EXAMPLES = [Example(**{**row, "perturbed_answers": tuple(row["perturbed_answers"])}) for row in ROWS]
PLAIN = [{"question": f"Question {i}?", "answer": f"Answer {i}"} for i in range(1, 7)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_json(path: Path, rows: Sequence[Any]) -> Path:
    return write(path, json.dumps(rows, indent=2))


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], dialect="excel-tab" if path.suffix == ".tsv" else "excel")
        writer.writeheader()
        writer.writerows({k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]]], Path]] = {
    "x.jsonl": write_jsonl,
    "x.ndjson": write_jsonl,
    "x.json": write_json,
    "lines.json": write_jsonl,
    "x.csv": write_csv,
    "x.tsv": write_csv,
    "x.parquet": write_parquet,
    "X.JSONL": write_jsonl,
}


def complaint(call: Callable[[], object], kind: type[Exception] = DataError) -> str:
    """The message of the error that the call must raise: one line."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
