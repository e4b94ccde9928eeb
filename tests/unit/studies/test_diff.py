"""Two results number by number, on numbers set by hand."""

import json
from pathlib import Path

import pytest
from tests.helpers.results_factory import changed, score, study_results

from uwc.errors import UserError
from uwc.results import SCHEMA_VERSION, NumberDiff, StepOrigin, StudyResults, Warning
from uwc.studies.diff import diff
from uwc.workflows.replaying import read_recorded

PATH = "references.original.scores.forget/extraction_strength.mean"
NAN = float("nan")


def results(mean: float = 0.5, *, ranking: tuple[str, ...] = (), threads: str = "4", code: str = "a") -> StudyResults:
    """Results whose original has a score, made by a version of the code on a machine."""
    made = study_results()
    original = changed(made.references[0], scores=(score("forget", "extraction_strength", mean),))
    steps = {
        "score/unlearned/gd": StepOrigin(kind="score", key="k1", settings="s", files={"w.safetensors": "1"}),
    }
    environments = ({"code": code, "threads": threads},)
    return changed(
        made,
        references=(original, *made.references[1:]),
        ranking=ranking or made.ranking,
        warnings=(Warning(code="few_clusters", text="Few clusters."),),
        provenance=changed(made.provenance, environments=environments, steps=steps),
    )


def numbers(first: StudyResults, second: StudyResults, *, rtol: float = 1e-5) -> dict[str, NumberDiff]:
    return {n.path: n for n in diff(first, second, rtol=rtol).numbers}


def test_every_computed_number_is_compared_and_no_setting() -> None:
    found = numbers(results(), results())
    assert {n.verdict for n in found.values()} == {"equal"}
    assert found[PATH].first == 0.5 and found["ranking.gd"].first == results().ranking.index("gd") + 1
    assert "unlearned.gd.calibration.alpha" in found and "unlearned.gd.scores.retain/perplexity.n" in found
    assert not [path for path in found if path.startswith(("study", "provenance", "metrics", "retention"))]
    assert not [path for path in found if ".settings." in path]


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(0.5, "equal"), (0.500004, "within"), (0.499996, "within"), (0.50001, "different"), (NAN, "different")],
)
def test_the_tolerance_is_relative(now: float, verdict: str) -> None:
    """0.000004 / 0.500004 = 0.8e-5 is within 1e-5, 0.00001 / 0.50001 = 2e-5 is not."""
    assert numbers(results(), results(now))[PATH].verdict == verdict


def test_a_tolerance_of_nothing_wants_the_same_bits() -> None:
    assert numbers(results(), results(0.5 + 2**-30), rtol=0.0)[PATH].verdict == "different"


def test_two_missing_numbers_are_no_number() -> None:
    assert PATH not in numbers(results(NAN), results(NAN))


def test_another_order_is_a_difference() -> None:
    order = results().ranking
    turned = results(ranking=(order[1], order[0], *order[2:]))
    assert numbers(results(), turned)[f"ranking.{order[0]}"].verdict == "different"


def test_groups_count_and_name_the_largest_difference() -> None:
    groups = {g.group: g for g in diff(results(), results(0.4)).groups()}
    assert groups["original"].different == 3, "the mean, and the ends of the interval that the factory makes of it"
    assert groups["original"].largest == pytest.approx(0.1 / 0.45), "of the lower end: 0.45 and 0.35"
    assert groups["gd, as delivered"].different == 0 and groups["gd, as delivered"].largest == 0.0
    missing = {g.group: g for g in diff(results(), results(NAN)).groups()}
    assert missing["original"].largest is None


def test_another_machine_and_other_weights_are_named() -> None:
    first = results()
    steps = {name: changed(step, files={"w.safetensors": "9"}) for name, step in first.provenance.steps.items()}
    second = changed(results(threads="2"), provenance=changed(results(threads="2").provenance, steps=steps))
    found = diff(first, second)
    assert [(e.path, e.first, e.second) for e in found.environment] == [("threads", "4", "2")]
    assert found.models == ("score/unlearned/gd",)


def test_a_forged_sentence_or_hash_is_found_where_the_same_code_made_both() -> None:
    """Not the ranking, which counts as numbers, nor weights, which have a list of their own."""
    assert diff(results(), results()).texts == ()
    genuine = results()
    steps = {name: changed(step, key="k2") for name, step in genuine.provenance.steps.items()}
    forged = changed(genuine, warnings=(), provenance=changed(genuine.provenance, steps=steps))
    texts = {t.path: (t.first, t.second) for t in diff(forged, genuine).texts}
    assert texts["provenance.steps.score/unlearned/gd.key"] == ("k2", "k1")
    assert texts["warnings.0.text"] == ("nothing", "Few clusters.")
    assert diff(forged, results(code="b")).texts == ()


def test_another_version_is_a_warning() -> None:
    first = results()
    older = changed(first, provenance=changed(first.provenance, store_version=0))
    assert [w.code for w in diff(older, first).warnings] == ["other_store_version"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x", "invalid JSON"),
        ("[1]", "there is no schema_version"),
        (json.dumps({"schema_version": 1}), "schema_version is 1"),
        (json.dumps({"schema_version": SCHEMA_VERSION}), "study: Field required"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_recorded(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_configuration_that_is_none_names_its_key(tmp_path: Path) -> None:
    made = results()
    path = changed(made, study=changed(made.study, config={"nmae": 1})).save(tmp_path)
    with pytest.raises(UserError, match=r"study\.config: .*'nmae'|the key 'name' is missing"):
        read_recorded(path)
