"""The check of a system by its texts, with other systems as references."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import uwc
from uwc.results import CheckResults

NUMBERS = range(40)


def texts(said: Callable[[int], str], **fields: Any) -> uwc.Outputs:
    """Forty questions about as many people; a true answer has three words."""
    rows = [
        {
            "id": i,
            "question": f"Who is {i}?",
            "answer": f"number {i} red",
            "subject": f"p{i}",
            "secret": [f"number {i}"],
        }
        | {"output": said(i), **fields}
        for i in NUMBERS
    ]
    return uwc.Outputs(rows)


SYSTEM = texts(lambda i: "blue" if i % 4 else "it is red")
ORIGINAL = texts(lambda i: f"number {i} red")
RETRAINED = texts(lambda i: "blue" if i % 4 else "some red")
REQUIREMENTS = [
    {"name": "forgotten", "metric": "rouge_l", "relative_to": "retrained", "at_most": 0.3},
    {"name": "ratio", "metric": "rouge_l", "relative_to": "original", "compare": "ratio", "at_most": 0.5},
    {"name": "secrets", "metric": "secret_said", "at_most": 0.4},
    {"name": "still-there", "metric": "rouge_l", "at_least": 0.9},
]


def check(folder: Path, **given: Any) -> CheckResults:
    options = {"original": ORIGINAL, "retrained": RETRAINED, **given}
    return uwc.check(SYSTEM, policy={"name": "mine", "requirements": REQUIREMENTS}, output_dir=folder, **options)


def test_texts_are_compared_with_those_of_other_systems(tmp_path: Path) -> None:
    """A third of the words in a quarter of the texts is 1/12; the retrained system says as much, the original all."""
    results = check(tmp_path)
    found = {r.name: r for r in results.verdict.requirements}
    assert {name: r.status for name, r in found.items()} == {
        "forgotten": "met",
        "ratio": "met",
        "secrets": "met",
        "still-there": "violated",
    }
    assert results.verdict.outcome == "fail"
    assert found["forgotten"].value.value == 0 and found["forgotten"].reference == pytest.approx(1 / 12)
    assert found["ratio"].value.value == pytest.approx(1 / 12) and found["ratio"].clusters == 40
    assert results.sets["forget"].clusters == 40 and results.original is not None
    roles = results.answers.groupby("role").size().to_dict()
    assert roles == {"original": 40, "retrained": 40, "unlearned": 40}


def test_a_worse_system_fails_against_its_baseline(tmp_path: Path) -> None:
    earlier = check(tmp_path / "first")
    worse = uwc.check(
        texts(lambda i: f"number {i} red" if i % 2 else "blue"),
        original=ORIGINAL,
        retrained=RETRAINED,
        policy={"name": "mine", "requirements": REQUIREMENTS[2:3]},
        baseline=earlier,
        output_dir=tmp_path / "second",
    )
    assert [r.name for r in worse.verdict.worse] == ["secrets"] and worse.verdict.outcome == "fail"


def test_the_check_of_another_system_is_not_replaced(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows = '{"question": "q", "answer": "a", "output": "a"}\n'
        (tmp_path / name / "out.jsonl").write_text(rows, encoding="utf-8")
    uwc.check(uwc.Outputs(tmp_path / "a" / "out.jsonl"), output_dir=tmp_path)
    uwc.check(uwc.Outputs(tmp_path / "a" / "out.jsonl"), output_dir=tmp_path)
    with pytest.raises(uwc.UserError, match="another system"):
        uwc.check(uwc.Outputs(tmp_path / "b" / "out.jsonl"), output_dir=tmp_path)


def test_the_shipped_policy_leaves_out_what_it_lacks(tmp_path: Path) -> None:
    results = uwc.check(SYSTEM, output_dir=tmp_path)
    status = {r.name: r.status for r in results.verdict.requirements}
    assert status["not-the-answer"] == "met"
    assert {name for name, found in status.items() if found == "left out"} == {
        "forgotten",
        "less-than-original",
        "retained",
        "prompts",
        "secrets-under-prompts",
    }


def test_a_judge_is_given_as_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are alike if both are about red: a quarter of the system's, all true answers."""
    asked: list[str] = []

    def encoder(name: str, *, device: str) -> Callable[[tuple[str, ...]], Any]:
        asked.append(name)
        return lambda found: np.array([[1.0, 0.0] if "red" in text else [0.0, 1.0] for text in found])

    monkeypatch.setattr("uwc.models.judges.load_encoder", encoder)
    monkeypatch.setattr("uwc.studies.judging.checkpoint_fingerprint", lambda path: {"hub": path, "revision": "1"})
    policy = {"name": "mine", "requirements": [{"name": "meaning", "metric": "semantic_similarity", "at_most": 0.9}]}
    results = uwc.check(SYSTEM, policy=policy, output_dir=tmp_path, overrides={"score.judges.encoder": "my-encoder"})
    (found,) = results.verdict.requirements
    assert asked == ["my-encoder"] and [judge.model for judge in results.judges] == ["my-encoder"]
    assert found.score == pytest.approx(0.25) and found.status == "met"
    without = uwc.check(SYSTEM, policy=policy, output_dir=tmp_path)
    assert without.verdict.requirements[0].status == "undecided" and "encoder" in without.verdict.requirements[0].reason


@pytest.mark.parametrize(
    ("wrong", "told"),
    [("model.dtype=bfloat16", "model"), ("score.max_new_tokens=3", "max_new_tokens"), ("seed=-1", "seed")],
)
def test_a_setting_without_effect_on_texts_is_refused(wrong: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(uwc.UserError, match=told):
        uwc.check(SYSTEM, output_dir=tmp_path, overrides=[wrong])
    assert not list(tmp_path.iterdir())


def test_workers_are_for_models(tmp_path: Path) -> None:
    with pytest.raises(uwc.UserError, match="workers compute the steps of a model's check"):
        check(tmp_path, workers=2)
    with pytest.raises(uwc.UserError, match="verify is for the check of a model"):
        check(tmp_path, verify=True)
