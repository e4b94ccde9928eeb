"""RWKU, read from small copies in the layouts of the hub."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import json_file, serve
from tests.helpers.written_files import complaint

from uwc.data.benchmarks.rwku import rwku
from uwc.errors import ConfigError

PEOPLE = ("Ann Aa", "Bob Bb", "Cy Cc")
FILES = {
    "forget_target": "intro",
    "train_original_passage": "passage",
    "utility_general": "retain_mmlu",
    "utility_reason": "retain_bbh",
    "utility_truthfulness": "truthful",
    "utility_factuality": "triviaqa",
}


def configurations() -> dict[str, list[dict[str, Any]]]:
    def each(**row: Any) -> list[dict[str, Any]]:
        return [{"subject": p, **{k: v.replace("@", p) if k == "query" else v for k, v in row.items()}} for p in PEOPLE]

    found = {
        "forget_target": [{"target": p, "intro": f"{p} is a painter."} for p in PEOPLE],
        "train_original_passage": [{"subject": p, "text": f"{p} painted fish. " * 9} for p in PEOPLE],
        "utility_general": each(
            task="law", question="Which?", choices=["a", "b", "c", "d"], answer=1, examples=[{"question": "x"}]
        ),
        "utility_reason": each(task="sums", cot="Think.", question="1 + 1?", answer="2"),
        "utility_truthfulness": each(
            question="Is it so?", mc1_targets={"choices": ["no", "yes"], "labels": [0, 1]}, mc2_targets={}
        ),
        "utility_factuality": each(question="Who?", answers=["Dan", "Daniel"]),
    }
    for level in ("forget_level1", "forget_level2", "forget_level3", "neighbor_level1", "neighbor_level2"):
        found[level] = each(query=f"{level} @ ___?", answer="fish", level=level[-1], type="simple question")
    for rows in found.values():
        for row in rows:
            row.pop("mc2_targets", None)
    return found


@pytest.fixture
def copy(tmp_path: Path) -> str:
    for config, rows in configurations().items():
        json_file(tmp_path / "All" / f"{FILES.get(config, config)}.json", rows)
    return str(tmp_path)


def test_the_first_targets_are_forgotten(copy: str) -> None:
    benchmark = rwku(path=copy, targets=2)
    assert {split: len(examples) for split, examples in benchmark.splits.items()} == {
        "forget": 2,
        "fill_in": 2,
        "questions": 2,
        "adversarial": 2,
        "retain": 4,
        "general": 2,
        "reason": 2,
        "truthfulness": 2,
        "factuality": 2,
    }
    assert {e.subject for e in benchmark["fill_in"]} == {"Ann Aa", "Bob Bb"}
    assert benchmark["forget"][0].raw and benchmark.trained == ()
    fill_in = benchmark["fill_in"][0]
    assert fill_in.question.startswith("Please complete the blank") and fill_in.question.endswith("Ann Aa ___?")
    assert (benchmark["general"][0].answer, benchmark["general"][0].perturbed_answers) == ("B", ("A", "C", "D"))
    assert benchmark["truthfulness"][0].answer == "B" and benchmark["factuality"][0].answer == "Dan"


def test_targets_may_be_named_and_utility_left_out(copy: str) -> None:
    benchmark = rwku(path=copy, targets=("Cy Cc",), utility=False, layout="texts")
    assert list(benchmark.splits) == ["forget", "fill_in", "questions", "adversarial", "retain"]
    assert {e.subject for e in benchmark["questions"]} == {"Cy Cc"}
    assert "did you mean 'Cy Cc'" in complaint(lambda: rwku(path=copy, targets=("Cy Cx",)), ConfigError)
    assert "from 1 to 3" in complaint(lambda: rwku(path=copy, targets=4), ConfigError)


def test_the_hub_gives_the_same_as_a_copy(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub: dict[tuple[str | None, str], Any] = {
        (config, "train" if config.startswith(("forget_target", "train")) else "test"): rows
        for config, rows in configurations().items()
    }
    serve(monkeypatch, hub)
    assert rwku() == rwku(path=copy)


def test_a_row_of_another_form_is_told_with_its_place(copy: str) -> None:
    rows = configurations()["utility_truthfulness"]
    rows[0]["mc1_targets"] = {"choices": ["a", "b"], "labels": [0, 0]}
    json_file(Path(copy) / "All/truthful.json", rows)
    message = complaint(lambda: rwku(path=copy))
    assert "truthful.json, item 1" in message and "of another form" in message
