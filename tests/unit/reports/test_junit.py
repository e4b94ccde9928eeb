"""JUnit XML of a check: what each status becomes, the counts, and any text."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.helpers.check_factory import check_results, requirement, with_change
from tests.unit.reports.test_page_injection import EVIL

from uwc.reports.junit import write_junit
from uwc.results import CheckResults


def read(results: CheckResults, path: Path, **options: Any) -> ElementTree.Element:
    write_junit(results, path / "check.xml", **options)
    return ElementTree.parse(path / "check.xml").getroot()


def outcomes(root: ElementTree.Element) -> dict[str, list[str]]:
    return {case.attrib["name"]: [child.tag for child in case] for case in root.iter("testcase")}


def test_every_status_has_its_outcome_and_counts_agree(tmp_path: Path) -> None:
    root = read(check_results(), tmp_path)
    assert outcomes(root) == {
        "forgotten": ["system-out"],
        "under-jailbreak": ["failure"],
        "retained": ["error"],
        "secrets": ["skipped"],
        "perplexity": ["system-out"],
    }
    (suite,) = root.findall("testsuite")
    counts = {name: suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    assert suite.attrib["name"] == "standard"
    assert {case.attrib["classname"] for case in suite} == {"standard: out/npo"}


def test_the_number_its_interval_and_the_bound_are_said(tmp_path: Path) -> None:
    root = read(check_results(), tmp_path)
    failure, error = root.find(".//failure"), root.find(".//error")
    assert failure is not None and error is not None
    for part in ("0.400", "[0.300, 0.500]", "≤ 0.1"):
        assert part in failure.attrib["message"]
    assert "≥ 0.9" in error.attrib["message"] and "24" in error.attrib["message"]


@pytest.mark.parametrize(("undecided", "tag", "count"), [("pass", "skipped", "2"), ("fail", "failure", "2")])
def test_undecided_as_the_user_says(undecided: str, tag: str, count: str, tmp_path: Path) -> None:
    root = read(check_results(), tmp_path, undecided=undecided)
    assert outcomes(root)["retained"] == [tag]
    suite = root.find("testsuite")
    assert suite is not None and suite.attrib["failures" if tag == "failure" else tag] == count
    assert suite.attrib["errors"] == "0"


def test_a_met_requirement_that_got_worse_is_a_failure(tmp_path: Path) -> None:
    better, worse = requirement("better"), requirement("worse")
    results = check_results(
        with_change(better, worse=False), with_change(worse, worse=True), baseline="check.json", outcome="fail"
    )
    root = read(results, tmp_path)
    assert outcomes(root) == {"better": ["system-out"], "worse": ["failure"]}
    failure = root.find(".//failure")
    assert failure is not None and "+0.200 [+0.100, +0.300]" in failure.attrib["message"]


def test_any_text_is_valid_xml_and_the_same_check_gives_the_same_bytes(tmp_path: Path) -> None:
    evil = EVIL + "\x00\ufffe]]>&\ud800"
    results = check_results(requirement("a" + evil, "violated", text=evil, reason=evil, cluster=evil))
    results = results.model_copy(update={"model": results.model.model_copy(update={"source": evil})})
    root = read(results, tmp_path)
    first = (tmp_path / "check.xml").read_bytes()
    case = root.find(".//testcase")
    assert case is not None and "<script>alert(1)</script>" in case.attrib["name"] and "]]>" in case.attrib["name"]
    assert not [character for character in first.decode() if character < " " and character not in "\n"]
    read(results, tmp_path)
    assert (tmp_path / "check.xml").read_bytes() == first
