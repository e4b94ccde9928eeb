"""WMDP, read from small copies in the hub's layout."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hub_copies import serve, write_copy
from tests.helpers.written_files import complaint, write_jsonl

from uwc.data.benchmarks.wmdp import wmdp


def questions(domain: str) -> list[dict[str, Any]]:
    return [{"question": f"{domain} {i}?", "choices": ["w", "x", "y", "z"], "answer": i} for i in range(4)]


def splits() -> dict[tuple[str | None, str], Any]:
    found: dict[tuple[str | None, str], Any] = {
        (f"wmdp-{domain}", "test"): questions(domain) for domain in ("bio", "cyber", "chem")
    }
    for name in ("cyber-forget-corpus", "cyber-retain-corpus", "bio-retain-corpus"):
        found[name, "train"] = [{"text": f"{name} text {i}. " * 30} for i in range(5)]
    return found


@pytest.fixture
def copy(tmp_path: Path) -> str:
    return str(write_copy(tmp_path, splits()))


def test_corpora_are_forgotten_and_questions_are_scored(copy: str) -> None:
    benchmark = wmdp(path=copy, corpora=copy, texts=3)
    assert [len({e.subject for e in benchmark[split]}) for split in ("forget", "retain")] == [3, 3]
    assert all(e.raw for e in (*benchmark["forget"], *benchmark["retain"]))
    third = benchmark["wmdp_chem"][2]
    assert third.question == "chem 2?\nA. w\nB. x\nC. y\nD. z"
    assert (third.answer, third.perturbed_answers) == ("C", ("A", "B", "D"))
    assert benchmark.trained == () and not third.raw


def test_options_may_be_the_answers(copy: str) -> None:
    third = wmdp(path=copy, corpora=copy, layout="texts")["wmdp_bio"][2]
    assert (third.question, third.answer, third.perturbed_answers) == ("bio 2?", "y", ("w", "x", "z"))


def test_the_corpus_of_biology_comes_from_a_place_of_its_own(copy: str, tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    write_jsonl(apart / "bio-forget-corpus.jsonl", [{"title": "t", "text": "Of viruses. " * 9}])
    benchmark = wmdp(domain="bio", path=copy, corpora=copy, bio_forget=str(apart))
    assert benchmark["forget"][0].id == "bio-forget-corpus-00001/1" and benchmark.name == "wmdp-bio"
    message = complaint(lambda: wmdp(domain="bio", path=copy, corpora=copy, bio_forget=copy))
    assert "bio-forget-corpus" in message and "cais/wmdp-bio-forget-corpus" in message


def test_the_hub_gives_the_same_as_copies(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, splits())
    assert wmdp() == wmdp(path=copy, corpora=copy)
    assert set(asked) == {"cais/wmdp", "cais/wmdp-corpora"}


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    wrong = splits()
    wrong["wmdp-bio", "test"][1]["answer"] = 4
    copy = str(write_copy(tmp_path, wrong))
    assert "wmdp-bio-00002" in complaint(lambda: wmdp(path=copy, corpora=copy))
