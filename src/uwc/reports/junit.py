"""The check of a model as JUnit XML, which services of continuous integration show as tests."""

import re
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from uwc.errors import printable
from uwc.io import write_bytes
from uwc.reports.tables_check import bound_words, change_words, number_words
from uwc.results import CheckResults, RequirementResult

_NOT_XML = re.compile("[\ufffe\uffff]")
"""Characters besides those that `printable` escapes that XML 1.0 does not have."""


def write_junit(results: CheckResults, path: Path, *, undecided: Literal["pass", "fail"] | None = None) -> None:
    """Write a test suite with one test a requirement.

    A violated requirement, and one whose number is significantly worse than in the baseline, is a failure; one that is
    left out is skipped. An undecided one is an error, which GitLab and GitHub's reporters show as not passed but apart
    from failures. The same results give the same bytes; times are 0.

    Args:
        results: the check.
        path: the file to write.
        undecided: as ``uwc check --undecided``: with ``"pass"`` an undecided requirement is skipped, with ``"fail"``
            it is a failure.

    Raises:
        OSError: the file cannot be written.
    """
    verdict = results.verdict
    cases = [_case(results, requirement, undecided) for requirement in verdict.requirements]
    counts = {f"{tag}s": sum(case.find(tag) is not None for case in cases) for tag in ("failure", "error")}
    counts["skipped"] = sum(case.find("skipped") is not None for case in cases)
    numbers = {"tests": str(len(cases)), **{name: str(count) for name, count in counts.items()}, "time": "0"}
    root = ElementTree.Element("testsuites", {"name": "uwc check", **numbers})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(verdict.policy), **numbers})
    suite.extend(cases)
    ElementTree.indent(root)
    write_bytes(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _case(
    results: CheckResults, requirement: RequirementResult, undecided: Literal["pass", "fail"] | None
) -> ElementTree.Element:
    group = f"{results.verdict.policy}: {results.model.source}"
    case = ElementTree.Element("testcase", {"classname": _text(group), "name": _text(requirement.name), "time": "0"})
    said = _found(results, requirement)
    worse = requirement.change is not None and requirement.change.worse
    message = _text(f"{requirement.status}{' (worse than the baseline)' if worse else ''}: {said}")
    if requirement.status == "violated" or worse or (requirement.status == "undecided" and undecided == "fail"):
        tag = "failure"
    elif requirement.status == "undecided":
        tag = "skipped" if undecided == "pass" else "error"
    else:
        tag = "skipped" if requirement.status == "left out" else "system-out"
    if tag == "system-out":
        ElementTree.SubElement(case, tag).text = _text(f"{requirement.text}\n{message}")
        return case
    found = ElementTree.SubElement(case, tag, {"message": message})
    if tag != "skipped":
        found.set("type", requirement.status)
        found.text = _text(f"{requirement.text}\n{message}")
    return case


def _found(results: CheckResults, requirement: RequirementResult) -> str:
    """The number with its interval, the bound, and what else decides."""
    if requirement.status == "left out":
        return requirement.reason
    parts = [
        f"{number_words(results, requirement)}, bound {bound_words(requirement)}",
        f"{requirement.clusters} clusters",
    ]
    if requirement.clusters_needed is not None:
        parts.append(f"about {requirement.clusters_needed} would probably decide it")
    if requirement.cluster:
        parts.append(f"the number of the cluster {requirement.cluster}, which decides")
    if requirement.change is not None:
        parts.append(f"worse than the baseline by {change_words(results, requirement)}")
    return "; ".join([*parts, *filter(None, [requirement.reason])])


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", printable(text))
