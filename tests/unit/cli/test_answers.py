"""`uwc answers` on a table of two models and two attacks."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from uwc import answers
from uwc.cli.main import app
from uwc.errors import ConfigError, UserError


def part(model: str, values: tuple[float, float], role: str = "unlearned", **changes: Any) -> Any:
    columns: dict[str, Any] = {
        "set": "forget",
        "ids": ["a", "b"],
        "clusters": ["Ann", "Bo"],
        "questions": ["Where was Ann born?", "Where does Bo live?"],
        "secrets": [(), ("259 Rue Vazmi",)],
        "answers": ["In Quarnholt", "259 Rue Vazmi"],
        "values": {"extraction_strength": np.array(values)},
        "role": role,
        "model": model,
        "generated": ["In Vint", "\x1b[31m259 rue Vazmi"],
        "completed_from": [3, 0],
    }
    return answers.rows(**{**columns, **changes})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    attack = {"condition": answers.ATTACK, "generated": ["In Quarnholt", "nowhere"]}
    table = answers.joined(
        [
            part("original", (1.0, 1.0), role="original"),
            part("npo", (0.75, 0.25)),
            part("gd", (0.0, 0.5)),
            part("npo", (0.1, 0.9), attack="jailbreak", variant="sure", **attack),
            part("gd", (0.2, 0.3), attack="prefix", **attack),
            part("gd", (0.4, 0.1), attack="jailbreak", variant="quiz", **attack),
            part("npo", (1.0, 1.0), set="retain"),
        ]
    )
    answers.write(table, tmp_path, of="results.json")
    return tmp_path


def rows(run: Path, *options: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["answers", str(run), "--json", *options])
    assert done.exception is None, done.exception
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "npo/b gd/a gd/b npo/a"),
        (["--sort", "attack", "--limit", "2"], "npo/b gd/a"),
        (["--sort", "ES"], "npo/a gd/b npo/b gd/a"),
        (["--sort", "id"], "npo/a gd/a npo/b gd/b"),
        (["--model", "original", "--sort", "id"], "original/a original/b"),
        (["--cluster", "Bo", "--sort", "extraction_strength"], "gd/b npo/b"),
        (["--set", "retain"], "npo/a npo/b"),
        (["--search", "QUARNHOLT", "--model", "gd"], "gd/a"),
        (["--search", "\uff12\uff15\uff19 rue", "--sort", "id"], "npo/b gd/b"),
        (["--condition", "attack", "--sort", "extraction_strength"], "npo/b gd/a gd/b gd/a npo/a gd/b"),
    ],
)
def test_rows_are_chosen_and_sorted(run: Path, options: list[str], expected: str) -> None:
    assert " ".join(f"{row['model']}/{row['id']}" for row in rows(run, *options)) == expected


def test_each_row_has_the_worst_attack_on_it(run: Path) -> None:
    found = {(row["model"], row["id"]): row for row in rows(run)}
    worst = found["gd", "a"]
    assert (worst["worst_attack"], worst["worst_variant"], worst["worst_value"]) == ("jailbreak", "quiz", 0.4)
    assert worst["worst_generated"] == "In Quarnholt" and worst["prompt"] is None
    assert found["gd", "b"]["worst_attack"] == "prefix"


def test_the_table_shows_the_prefix_and_escapes_control_characters(run: Path) -> None:
    done = CliRunner().invoke(app, ["answers", str(run), "--model", "npo", "--limit", "1", "--sort", "ES"])
    text = "".join(done.stdout.split())
    assert "In\u2016Quarnholt" in text and "1of2rows" in text
    assert "\x1b" not in CliRunner().invoke(app, ["answers", str(run)]).stdout


def test_redacted_rows_have_no_true_answer(run: Path, tmp_path: Path) -> None:
    csv = tmp_path / "rows.csv"
    done = CliRunner().invoke(app, ["answers", str(run), "--redact", "--csv", str(csv), "--limit", "0"])
    for text in (done.stdout, csv.read_text(encoding="utf-8"), json.dumps(rows(run, "--redact"))):
        for word in ("Quarnholt", "Vazmi", "259"):
            assert word not in text
    assert answers.hashed("In Quarnholt") in csv.read_text(encoding="utf-8")
    assert [r["id"] for r in rows(run, "--redact")] == [r["id"] for r in rows(run)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nop"], "unknown model 'nop' .did you mean 'npo'"),
        (["--sort", "nothing"], "unknown metric, attack or id to sort by 'nothing'; valid: extraction_strength"),
        (["--condition", "calibrated"], "unknown condition 'calibrated'"),
        (["--set", "retain", "--sort", "attack"], "no attack to sort by"),
    ],
)
def test_mistakes_name_the_valid_values(run: Path, options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["answers", str(run), *options])
    assert isinstance(done.exception, ConfigError)
    assert re.search(message, str(done.exception)), done.exception


def test_a_folder_without_answers_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["answers", str(tmp_path)])
    assert isinstance(done.exception, UserError) and "answers.parquet" in str(done.exception)


def test_a_text_in_csv_is_no_formula(tmp_path: Path) -> None:
    changes = {"generated": ["=1+1", "@x"], "questions": ["-a", "b"]}
    answers.write(answers.joined([part("npo", (-1.0, 0.0), **changes)]), tmp_path, of="score.json")
    csv = tmp_path / "rows.csv"
    CliRunner().invoke(app, ["answers", str(tmp_path), "--csv", str(csv)])
    found = pd.read_csv(csv).set_index("id")
    assert found["generated"].tolist() == ["'@x", "'=1+1"] and found.loc["a", "question"] == "'-a"
    assert found.loc["a", "extraction_strength"] == -1.0
