"""Bad question files: each is read, or refused in one line that names it."""

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.torture.fuzz import FORGET, RETAIN, Case, Prepare, chunks, damaged, numbered

ROW: Mapping[str, Any] = {
    "id": "a",
    "question": "Where is the town?",
    "answer": "In the north",
    "subject": "town",
    "paraphrased_question": "Where does the town lie?",
    "perturbed_answers": ["In the south", "In the east"],
}
OTHER = {**ROW, "id": "b", "question": "Where is the river?"}
VALUES: Mapping[str, str] = {
    name: value if isinstance(value, str) and value.startswith("=") else json.dumps(value)
    for name, value in {
        "null": None, "empty": "", "blank": " \n", "number": 5, "negative": -1.5, "NaN": math.nan, "infinity": -math.inf,
        "1e400": "=1e400", "true": True, "list": [], "list of numbers": [1, 2], "list of null": [None], "object": {},
        "list of lists": [["a"], ["b"]], "object in object": {"a": {"b": 1}}, "list of empty": ["", ""], "NUL": "a\0b",
        "surrogate": "a\ud800b", "escapes": "\x1b]0;evil\x07", "right to left": "\u202eabc\u2066", "long": "x y " * 250_000,
        "digits": "=" + "9" * 6000, "deep": "=" + "[" * 50_000 + "]" * 50_000, "text of a list": '["a", "b"]',
        "private characters": "\ue000\uffff\U0010ffff", "combining": "e" + "\u0301" * 5000, "line ends": "a\r\n\u2028\x85b",
    }.items()
}  # fmt: skip
"""Name -> value in JSON, after an equals sign as it stands."""
FIELDS = ("question", "answer", "subject", "id", "paraphrased_question", "perturbed_answers")


def scoring(name: str, file: str, prepare: Prepare) -> Case:
    """Scores a file."""
    arguments = ("score", "model", "--data", file, "--metric", "ES", "--set", "score.max_new_tokens=0", "--json")
    return Case(name, arguments, prepare, names=(file[:150], "example"), as_json=True)


def holding(file: str, content: bytes | str | Callable[[], bytes]) -> Prepare:
    """Writes a file."""

    def write(folder: Path) -> None:
        made = content() if callable(content) else content
        (folder / file).write_bytes(made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made)

    return write


def of_values() -> Iterator[Case]:
    """Each field with each value, in JSON Lines; in the second row every other time."""
    for number, (field, (name, value)) in enumerate((f, v) for f in FIELDS for v in VALUES.items()):
        fields = [
            f"{json.dumps(key)}: {value.removeprefix('=') if key == field else json.dumps(ROW[key])}" for key in ROW
        ]
        rows = [f"{{{', '.join(fields)}}}", json.dumps(OTHER)]
        yield scoring(f"{field} is {name}", "bad.jsonl", holding("bad.jsonl", "\n".join(rows[:: (-1) ** number])))


GOOD = json.dumps(ROW) + "\n" + json.dumps(OTHER) + "\n"
LIST = json.dumps([ROW, OTHER])


def as_csv(*rows: Mapping[str, Any], delimiter: str = ",") -> str:
    """Rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows([v if isinstance(v, str) else json.dumps(v) for v in row.values()] for row in rows)
    return text.getvalue()


CSV = as_csv(ROW, OTHER)
CONTENTS: Mapping[str, Mapping[str, bytes | str | Callable[[], bytes]]] = {
    ".jsonl": {
        "good": GOOD, "nothing": "", "blank": "\n \n", "BOM": "\ufeff" + GOOD, "UTF-16": GOOD.encode("utf-16"),
        "UTF-32": GOOD.encode("utf-32"), "Latin-1": '{"question": "é", "answer": "ü"}'.encode("latin-1"),
        "gzip": b"\x1f\x8b\x08\0\0\0\0\0" * 9, "NUL bytes": b"\0" * 5000, "raw NUL": GOOD.replace("town", "to\0wn"),
        "raw surrogate": GOOD.replace("town", "to\ud800wn"), "half a line": GOOD[:-30], "no braces": '"question": 1\n',
        "repeated key": '{"question": "a", "question": "b", "answer": "c"}\n', "two in a line": GOOD.replace("\n", " "),
        "carriage returns": GOOD.replace("\n", "\r"), "a list": LIST, "lists": "[1]\n[2]\n", "null": "null\n", "5": "5\n",
        "two columns of a field": '{"question": "a", "prompt": "b", "answer": "c", "completion": "d"}\n',
        "unknown columns": '{"quest": "a", "answ": "b"}\n', "long key": json.dumps({"x" * 5000: 1, "answer": "a"}),
        "keys of escapes": json.dumps({"\x1b[31m": 1, "\u202e": 2}), "empty key": '{"": 1}\n', "no fields": "{}\n{}\n",
        "long line": lambda: json.dumps({**ROW, "other": "x" * 30_000_000}).encode(), "same ids": (json.dumps(ROW) + "\n") * 3,
        "many columns": json.dumps({f"c{i}": i for i in range(20_000)} | dict(ROW)),
        "many problems": '{"question": ""}\n{bad\n[]\n' * 5000, "deep": '{"a":' * 50_000, "deep lists": "[" * 100_000,
        "same questions": "".join(json.dumps({**ROW, "id": str(i)}) + "\n" for i in range(5)),
        "one": json.dumps(ROW), "messages": '{"messages": [{"role": "user", "content": "a"}]}\n',
        "messages of null": '{"messages": null}\n', "messages of numbers": '{"messages": [1, 2]}\n',
        "messages of roles": '{"messages": [{"role": 5, "content": {}}, {"role": null}]}\n',
        "choices": '{"question": "a", "choices": ["b", "c"], "answer": 7}\n',
        "negative choice": '{"question": "a", "choices": ["b", "c"], "answer": -1}\n',
        "fractional choice": '{"question": "a", "choices": ["b", "c"], "answer": 0.5}\n',
        "no choices": '{"question": "a", "choices": [], "answer": 0}\n', "choice of null": '{"question": "a", "choices": [null], "answer": 0}\n',
        "instruction": '{"instruction": "a", "input": ["b"], "output": "c"}\n',
    },
    ".json": {
        "good": LIST, "an object": json.dumps(ROW), "null": "null", "5": "5", "text": '"question"', "numbers": "[1, 2]",
        "empty list": "[]", "cut": LIST[:-40], "trailing comma": LIST[:-1] + ",]", "two documents": LIST + LIST, "NaN": "[NaN]",
        "list in list": f"[{LIST}]", "deep": "[" * 100_000, "deep and closed": "[" * 60_000 + "]" * 60_000, "UTF-16": LIST.encode("utf-16"),
        "columns": json.dumps({"question": ["a"], "answer": ["b"]}), "repeated key": '[{"question": "a", "question": "b"}]',
        "a bare bracket": "[", "digits": "[" + "9" * 6000 + "]", "comments": "// hello\n" + LIST, "single quotes": "[{'question': 'a'}]",
    },
    ".csv": {
        "good": CSV, "nothing": "", "header only": CSV.split("\n")[0], "semicolons": as_csv(ROW, OTHER, delimiter=";"),
        "tabs": as_csv(ROW, OTHER, delimiter="\t"), "bars": as_csv(ROW, OTHER, delimiter="|"), "NUL": CSV.replace("town", "to\0wn"),
        "ragged": "question,answer\na,b,c\nd\n", "open quote": 'question,answer\n"a,b\nc,d\n', "quote in cell": 'question,answer\na"b,c\n',
        "repeated column": "question,question,answer\na,b,c\n", "no header": "a,b\nc,d\n", "empty cells": "question,answer\n,\n,b\n",
        "UTF-16": CSV.encode("utf-16"), "Latin-1": "question,answer\né,ü\n".encode("latin-1"), "carriage returns": CSV.replace("\r\n", "\r"),
        "long cell": lambda: f"question,answer\na,{'x ' * 200_000}\n".encode(), "empty column": "question,,answer\na,b,c\n",
        "list not JSON": 'question,answer,perturbed_answers\na,b,"[c"\n', "list of digits": f"question,answer,perturbed_answers\na,b,[{'9' * 6000}]\n",
        "deep list": f"question,answer,perturbed_answers\na,b,{'[' * 50_000}\n", "many columns": ",".join(f"c{i}" for i in range(20_000)) + "\n",
        "escapes": "\x1b]0;evil\x07,answer\na,b\n", "only commas": ",,,\n,,,\n", "BOM": "\ufeff" + CSV,
    },
    ".tsv": {"commas": CSV, "good": as_csv(ROW, OTHER, delimiter="\t"), "NUL": b"\0"},
    ".txt": {"good": GOOD}, "": {"good": GOOD}, ".JSONL": {"good": GOOD}, ".ndjson": {"list": LIST}, ".xlsx": {"zip": b"PK\x03\x04" * 9},
}  # fmt: skip


def of_contents() -> Iterator[Case]:
    """Files of every suffix."""
    for suffix, contents in CONTENTS.items():
        for name, content in contents.items():
            yield scoring(f"{suffix}: {name}", f"bad{suffix}", holding(f"bad{suffix}", content))


def parquet(**columns: Any) -> bytes:
    """A Parquet file; an underscore after a name stands for a repeated one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    table = pa.table([pa.array(cells) for cells in columns.values()], names=[name.rstrip("_") for name in columns])
    pq.write_table(table, sink)
    return sink.getvalue()


def dates() -> bytes:
    """Cells of other types."""
    import datetime
    import decimal

    return parquet(
        question=[datetime.datetime(2020, 1, 1)], answer=[decimal.Decimal("NaN") if False else decimal.Decimal("1.5")]
    )


PARQUETS: Mapping[str, Callable[[], bytes]] = {
    "good": lambda: parquet(question=["a", "b"], answer=["c", "d"]),
    "repeated column": lambda: parquet(question=["a"], question_=["b"], answer=["c"]),
    "nested": lambda: parquet(question=[{"a": {"b": "c"}}], answer=["d"]),
    "lists": lambda: parquet(question=[["a"]], answer=[[["d"]]]),
    "bytes": lambda: parquet(question=[b"\xff\xfe"], answer=[b"a"]),
    "numbers": lambda: parquet(question=[1.5, math.nan], answer=[math.inf, 2.0]),
    "nulls": lambda: parquet(question=[None, "a"], answer=["b", None]),
    "all null": lambda: parquet(question=[None], answer=[None]),
    "no rows": lambda: parquet(question=[], answer=[]),
    "no columns": lambda: parquet(),
    "dates": dates,
    "half": lambda: PARQUETS["good"]()[:200],
    "without its head": lambda: PARQUETS["good"]()[4:],
    "magic only": lambda: b"PAR1" * 30,
    "no Parquet": lambda: b"hello",
    "huge footer": lambda: PARQUETS["good"]()[:-8] + b"\xff\xff\xff\x7fPAR1",
    "negative footer": lambda: PARQUETS["good"]()[:-8] + b"\xff\xff\xff\xffPAR1",
    "perturbed answers": lambda: parquet(question=["a"], answer=["b"], perturbed_answers=[[None, "c"]]),
}


def of_parquet() -> Iterator[Case]:
    """Parquet files."""
    for name, content in PARQUETS.items():
        yield scoring(f"parquet: {name}", "bad.parquet", holding("bad.parquet", content))
    for name, seed in numbered("damaged parquet", 20):
        data = lambda seed=seed: damaged(PARQUETS["good"](), seed)  # noqa: E731
        yield scoring(name, "bad.parquet", holding("bad.parquet", data))


def of_bytes() -> Iterator[Case]:
    """Good files, damaged."""
    for suffix, good in ((".jsonl", GOOD), (".json", LIST), (".csv", CSV)):
        for name, seed in numbered(f"damaged {suffix}", 15):
            content = damaged(good.encode(), seed)
            yield scoring(name, f"bad{suffix}", holding(f"bad{suffix}", content))


def of_paths() -> Iterator[Case]:
    """Things that are no files."""
    things: Mapping[str, Prepare] = {
        "a folder": lambda f: (f / "bad.jsonl").mkdir(),
        "a pipe": lambda f: os.mkfifo(f / "bad.jsonl"),
        "a dangling link": lambda f: (f / "bad.jsonl").symlink_to("nowhere"),
        "a link to itself": lambda f: (f / "bad.jsonl").symlink_to("bad.jsonl"),
        "a link to a device": lambda f: (f / "bad.jsonl").symlink_to("/dev/zero"),
        "missing": lambda f: None,
        "a link to a file": lambda f: (f / "bad.jsonl").symlink_to(FORGET),
    }
    for name, prepare in things.items():
        yield scoring(name, "bad.jsonl", prepare)
    for path in (
        "/dev/zero", "/dev/null", "/dev/stdin", "/proc/self/mem", "/proc/self/environ", "x" * 300 + ".jsonl", "y/" * 3000,
        f"{FORGET}/inside.jsonl", "\x1b]0;evil\x07.jsonl", "~nobody-of-that-name/a.jsonl", "https://example.org/a.jsonl", ".",
    ):  # fmt: skip
        case = scoring(f"the path {path[:20]!r}", path, lambda f: None)
        yield Case(case.name, case.arguments)
    yield Case("an empty path", ("score", "model", "--data", ""))


def of_commands() -> Iterator[Case]:
    """Bad files in the other commands."""
    bad = holding("bad.jsonl", '{"question": "a", "answer": ""}\n{bad\n')
    for name, arguments in {
        "retain": ("calibrate", "model", "model", "--forget", FORGET, "--retain", "bad.jsonl"),
        "attacker's": ("attack", "model", "--data", FORGET, "--attack", "relearn", "--attacker-data", "bad.jsonl"),
        "unlearn": ("unlearn", "model", "--method", "ga", "--forget", "bad.jsonl", "-o", "out"),
        "compare": ("compare", "model", "--original", "model", "--forget", FORGET, "--retain", "bad.jsonl", "-o", "out"),
        "further": ("score", "model", "--data", FORGET, "--set", "benchmark.settings.further={world_facts: bad.jsonl}"),
        "shots": ("score", "model", "--data", FORGET, "--set", "score.shots=bad.jsonl"),
        "points": ("robustness", "bad.jsonl"), "logs": ("score", "--outputs", "bad.jsonl"), "replay": ("replay", "bad.jsonl"),
        "faithfulness": ("robustness", RETAIN, "--faithfulness", "bad.jsonl"),
        "columns": ("score", "model", "--data", FORGET, "--column", "question=bad.jsonl"),
    }.items():  # fmt: skip
        yield Case(f"the {name} file", arguments, bad, names=("bad.jsonl", RETAIN))


CASES = [*of_values(), *of_contents(), *of_parquet(), *of_bytes(), *of_paths(), *of_commands()]


@pytest.mark.parametrize("cases", chunks(CASES, every=34))
def test_question_files(cases: list[Case], try_all: Callable[..., None]) -> None:
    try_all("bad question file", cases)
