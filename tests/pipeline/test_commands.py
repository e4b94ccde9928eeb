"""The commands for one's own checkpoints, on saved models, through the real command line."""

import json
from pathlib import Path

import pytest
from tests.conftest import people
from tests.pipeline.conftest import Run
from transformers import AutoModelForCausalLM

import uwc as package
from uwc.models.load import save_target
from uwc.models.model import Target
from uwc.results import CalibrationResults


@pytest.fixture
def workplace(tmp_path: Path, knowing: Target) -> Path:
    """A model that knows four people, and files of what to forget and what to keep."""
    save_target(knowing, tmp_path / "original")
    for name, part in (("forget", people(4)[:4]), ("retain", people(4)[4:])):
        rows = [
            {"id": e.id, "q": e.question, "a": e.answer, "subject": e.subject, "other": e.paraphrased_question}
            for e in part
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def test_unlearn_score_and_calibrate(uwc: Run, workplace: Path) -> None:
    columns = ("--column", "question=q", "--column", "answer=a", "--column", "paraphrased_question=other")
    data = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", *columns)
    settings = ("--set", "training.lr=2.0e-3", "--set", "training.epochs=6", "--set", "training.batch_size=2")
    done = uwc("unlearn", "original", "--method", "gd", *data, "--output-dir", "unlearned", *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "unlearned"
    AutoModelForCausalLM.from_pretrained(workplace / "unlearned")

    done = uwc("score", "unlearned", "--data", "forget.jsonl", *columns, "--original", "original", "--json")
    rows = {(r["set"], r["metric"]): r for r in json.loads(done.stdout)["scores"]}
    strength = rows["forget", "extraction_strength"]
    assert strength["n"] == 4 and strength["clusters"] == 2
    assert rows["forget", "kl_to_original"]["mean"] > 0.1
    assert ("forget_paraphrased", "extraction_strength") in rows

    done = uwc("calibrate", "original", "unlearned", *data, "--tau", "0.9", "--save", "mixed", "--json")
    results = CalibrationResults.parse(done.stdout, where="stdout")
    assert results.calibration.kept[0].ratio >= 0.9
    assert 0 <= results.calibration.alpha <= 1
    forget = next(s for s in results.scores if (s.set, s.condition) == ("forget", "calibrated"))
    done = uwc("score", "mixed", "--data", "forget.jsonl", *columns, "--metric", "extraction_strength", "--json")
    assert json.loads(done.stdout)["scores"][0]["mean"] == pytest.approx(forget.mean)


def test_a_table_is_printed_without_json(uwc: Run, workplace: Path) -> None:
    done = uwc("score", "original", "--data", "forget.jsonl", "--column", "question=q", "--column", "answer=a")
    assert done.returncode == 0, done.stderr
    assert "extraction_strength" in done.stdout and "Error" not in done.stderr


def test_another_prompt_gives_other_scores(uwc: Run, workplace: Path) -> None:
    options = ("--column", "question=q", "--column", "answer=a", "--metric", "probability", "--json")
    usual = uwc("score", "original", "--data", "forget.jsonl", *options)
    other = uwc(
        "score",
        "original",
        "--data",
        "forget.jsonl",
        *options,
        "--set",
        "model.prompt={text: '{question}', chat: false}",
    )
    assert json.loads(usual.stdout)["scores"][0]["mean"] > 0.9 > json.loads(other.stdout)["scores"][0]["mean"]


@pytest.mark.parametrize("kind", ["methods", "terms", "metrics", "attacks", "tricks", "benchmarks", "published"])
def test_lists_are_printed_as_json(uwc: Run, kind: str) -> None:
    assert all(row["name"] for row in json.loads(uwc("list", kind, "--json").stdout))


def test_the_version_is_printed(uwc: Run) -> None:
    assert uwc("--version").stdout.strip() == package.__version__


def test_the_public_names_are_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
