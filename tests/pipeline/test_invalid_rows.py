"""Invalid rows of question files: `uwc data` lists them, and --skip-invalid leaves them out of every command."""

import json
from pathlib import Path

import pytest
from tests.conftest import copied, people
from tests.pipeline.conftest import Run, validate_result

import uwc as package
from uwc.errors import DataError
from uwc.models.load import save_model
from uwc.models.model import Model
from uwc.results import InvalidRows

SKIP = "--skip-invalid"
KEY = ("--set", "benchmark.settings.skip_invalid=true")


@pytest.fixture
def place(tmp_path: Path, knowing: Model) -> Path:
    """Two models, and files of which the first one has two invalid lines."""
    save_model(knowing, tmp_path / "original")
    save_model(copied(knowing), tmp_path / "unlearned")
    for name, part, broken in (("forget", people(4)[:4], ["{", '{"question": "Q?"}']), ("retain", people(4)[4:], [])):
        rows = [json.dumps({"id": e.id, "question": e.question, "answer": e.answer}) for e in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([rows[0], *broken, *rows[1:]]), encoding="utf-8")
    return tmp_path


FILES = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
ES = ("--metric", "ES", "--set", "score.max_new_tokens=0")
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "score": (("score", "unlearned", "--forget", "forget.jsonl", *ES, "-o", "out"), "score"),
    "attack": (("attack", "unlearned", "--forget", "forget.jsonl", "--attack", "prefix", "-o", "out"), "attack"),
    "calibrate": (("calibrate", "original", "unlearned", *FILES, "--search-only", "-o", "out"), "calibration"),
    "unlearn": (
        ("unlearn", "original", "--method", "ga", *FILES, "--set", "training.warmup_ratio=0", "-o", "out"),
        "unlearn",
    ),
    "compare": (
        (
            *("compare", "--original", "original", "--unlearned", "unlearned", *FILES, *ES),
            *("--attack", "none", "-o", "out", "--set", "calibrate.scan=1", "--set", "calibrate.resolution=0.5"),
        ),
        "results",
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_leaves_invalid_rows_out_on_demand_and_names_them(command: str, uwc: Run, place: Path) -> None:
    arguments, schema = COMMANDS[command]
    done = uwc(*arguments)
    assert done.returncode == 1 and "2 of 6 lines cannot be used" in done.stderr
    assert not list((place / "out").glob("*.json"))
    done = uwc(*arguments, *(KEY if command in ("calibrate", "compare") else (SKIP,)))
    assert done.returncode == 0, done.stderr
    (file,) = [*(place / "out").glob({"unlearn": "training_log.json"}.get(command, f"{schema}.json"))]
    if command != "unlearn":
        validate_result(file)
    content = json.loads(file.read_text(encoding="utf-8"))
    (found,) = (InvalidRows.model_validate(part) for part in content["invalid_rows"])
    assert (found.rows, found.invalid, [row.row for row in found.first]) == (6, 2, [2, 3])
    assert "2 of 6 lines" in done.stderr + done.stdout
    if command != "unlearn":
        assert "invalid_rows" in {warning["code"] for warning in content["warnings"]}
    if command == "compare":
        assert "2 of 6 lines" in (place / "out" / "results.md").read_text(encoding="utf-8")
        assert "2 of 6 lines" in (place / "out" / "report.html").read_text(encoding="utf-8")
        assert content["sets"]["forget"]["examples"] == 4
        assert uwc(*arguments, SKIP, "-o", "again").returncode == 0


def test_data_lists_all_problems_and_says_by_its_status_whether_there_are_any(uwc: Run, place: Path) -> None:
    done = uwc("data", "forget.jsonl", "retain.jsonl", "--json", "-o", "out")
    assert done.returncode == 1 and "2 of 6 lines" in done.stderr
    assert done.stdout == (place / "out" / "data.json").read_text(encoding="utf-8")
    validate_result(place / "out" / "data.json")
    assert json.loads(done.stdout)["sets"]["retain"]["valid"] == 4
    done = uwc("data", "forget.jsonl", "--model", "original", SKIP)
    assert done.returncode == 0 and "answer, tokens" in done.stdout and "line" in done.stdout
    (place / "worse.jsonl").write_text('{"question": "Q?", "answer": "A"}\n{\n{\n', encoding="utf-8")
    assert uwc("data", "worse.jsonl", SKIP).returncode == 1
    with pytest.raises(DataError, match="more than half"):
        package.score("a model", place / "worse.jsonl", skip_invalid=True)
