"""Two results number by number, on numbers set by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from uwc.studies.replay import compare_results, environment_changes, group_counts, model_changes, record_changes

from uwc.errors import UserError
from uwc.studies.summary import read_summary


def results(mean: float | None = 0.5, ranking: tuple[str, ...] = ("gd", "npo")) -> dict[str, Any]:
    return {
        "schema": 1,
        "study": {"config": {"seed": 3}},
        "models": [{"name": "original", "scores": {"forget": {"es": {"mean": mean, "n": 4, "why": {}}}}}],
        "unlearned": [
            {"name": "gd", "settings": {"lr": 0.1}, "after": {"forget": {"es": {"mean": 0.25}}},
             "frontier": {"forget": {"curve": [{"tau": 0.9, "forget": 0.125}]}}},
        ],
        "ranking": list(ranking),
        "provenance": {"schema": 9},
    }  # fmt: skip


def verdicts(first: dict[str, Any], second: dict[str, Any], **settings: Any) -> dict[str, str]:
    return {c.path: c.verdict for c in compare_results(first, second, **settings)}


def test_every_computed_number_is_compared_and_no_setting() -> None:
    assert verdicts(results(), results()) == {
        "models.original.scores.forget.es.mean": "equal",
        "models.original.scores.forget.es.n": "equal",
        "unlearned.gd.after.forget.es.mean": "equal",
        "unlearned.gd.frontier.forget.curve.0.tau": "equal",
        "unlearned.gd.frontier.forget.curve.0.forget": "equal",
        "ranking.gd": "equal",
        "ranking.npo": "equal",
    }


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(0.5, "equal"), (0.500004, "within"), (0.499996, "within"), (0.50001, "different"), (None, "different")],
)
def test_the_tolerance_is_relative(now: float | None, verdict: str) -> None:
    """0.000004 / 0.500004 = 0.8e-5 is within 1e-5, 0.00001 / 0.50001 = 2e-5 is not."""
    assert verdicts(results(), results(now))["models.original.scores.forget.es.mean"] == verdict


def test_a_tolerance_of_nothing_wants_the_same_bits() -> None:
    found = verdicts(results(), results(0.5 + 2**-30), tolerance=0.0)
    assert found["models.original.scores.forget.es.mean"] == "different"


def test_two_missing_numbers_are_no_number() -> None:
    assert "models.original.scores.forget.es.mean" not in verdicts(results(None), results(None))


def test_another_order_is_a_difference() -> None:
    assert verdicts(results(), results(ranking=("npo", "gd")))["ranking.gd"] == "different"


def test_groups_count_and_name_the_largest_difference() -> None:
    rows = {row["group"]: row for row in group_counts(compare_results(results(), results(0.4)))}
    assert (rows["original"]["equal"], rows["original"]["different"]) == (1, 1)
    assert rows["original"]["largest difference"] == pytest.approx(0.1 / 0.5)
    assert rows["gd, tau curve"] == {
        "group": "gd, tau curve", "equal": 2, "within": 0, "different": 0, "largest difference": 0.0,
    }  # fmt: skip
    missing = group_counts(compare_results(results(), results(None)))
    assert next(row for row in missing if row["group"] == "original")["largest difference"] is None


def test_only_what_differs_of_the_environment_is_told() -> None:
    then, now = {"torch": "2.8", "threads": "4", "device": "cpu"}, {"torch": "2.9", "threads": "4", "gpu": "x"}
    assert environment_changes([then, {**then, "device": "cuda"}], [now]) == [
        {"what": "torch", "recorded": "2.8", "now": "2.9"},
        {"what": "device", "recorded": "cpu, cuda", "now": "not recorded"},
        {"what": "gpu", "recorded": "not recorded", "now": "x"},
    ]


def test_a_step_with_other_weights_is_named() -> None:
    then = {"a": {"files": {"m.safetensors": "1"}}, "b": {"files": {"m.safetensors": "2", "config.json": "3"}}}
    now = {"a": {"files": {"m.safetensors": "9"}}, "b": {"files": {"m.safetensors": "2", "config.json": "4"}}}
    assert model_changes(then, now) == ["a"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "not JSON"),
        ("[1]", "not the summary of a study"),
        (json.dumps({"study": {"config": {}}, "schema": 1}), "older layout"),
        (json.dumps({"study": {"config": {"nmae": 1}}, "schema": 1, "provenance": {}}), "the key 'name' is missing"),
    ],
)
def test_what_is_no_summary_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_summary(path)
    assert "\n" not in str(caught.value)


def recorded(code: str = "a", **provenance: Any) -> dict[str, Any]:
    steps = {"score gd": {"key": "k1", "data": {"sets": {"forget": "d1"}}, "files": {"w": "1"}}}
    kept = {"schema": 5, "environments": [{"code": code}], "steps": steps, **provenance}
    return {**results(), "notes": ["Few subjects."], "provenance": kept}


def test_a_forged_sentence_or_hash_is_found_where_the_same_code_speaks() -> None:
    """Not the ranking, which counts as numbers, nor weights, which have a list of their own."""
    assert record_changes(recorded(), recorded()) == []
    forged = recorded()
    forged["notes"] = []
    forged["ranking"].reverse()
    forged["provenance"]["steps"]["score gd"] |= {"key": "k2", "files": {"w": "2"}}
    assert record_changes(forged, recorded()) == [
        {"what": "provenance.steps.score gd.key", "recorded": "k2", "now": "k1"},
        {"what": "notes.0", "recorded": "nothing", "now": "Few subjects."},
    ]
    assert record_changes(forged, recorded(code="b")) == []
    assert record_changes(forged, recorded(schema=6)) == []
