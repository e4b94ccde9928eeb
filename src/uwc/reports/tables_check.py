"""The check of a model against a policy as tables and in words."""

import math

from uwc.io import digest
from uwc.reports.format import MISSING, Table, known, significant, with_interval
from uwc.results import CheckedSystem, CheckResults, RequirementResult

DIGITS = 12
"""Digits of a hash that are shown; check.json has all."""
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
"""Endings of files of weights."""
OUTCOMES = {"pass": "Pass", "fail": "Fail", "undecided": "Undecided"}


def bound_words(requirement: RequirementResult) -> str:
    """The bound, ``≤ 0.1``."""
    return f"{'≤' if requirement.direction == 'at_most' else '≥'} {requirement.bound:g}"


def number_words(results: CheckResults, requirement: RequirementResult) -> str:
    """The number that is compared with the bound, and its interval."""
    return with_interval(requirement.value, results.metrics.get(requirement.metric))


def change_words(results: CheckResults, requirement: RequirementResult) -> str:
    """The change for the worse since the baseline with its interval, a ratio for a metric with geometric averages, and
    whether it is significant; a dash without a baseline."""
    change = requirement.change
    if change is None or not known(change.value.value):
        return MISSING
    info = results.metrics.get(requirement.metric)
    ends = [change.value.value, change.value.low, change.value.high]
    if info is not None and info.average == "geometric":
        value, low, high = (f"x {significant(_exp(end))}" if known(end) else MISSING for end in ends)
    else:
        value, low, high = (f"{end:+.3f}" if known(end) else MISSING for end in ends)
    interval = f" [{low.removeprefix('x ')}, {high.removeprefix('x ')}]" if MISSING not in (low, high) else ""
    return f"{value}{interval}{', worse' if change.worse else ''}"


def _exp(value: float) -> float:
    return math.exp(min(value, 700))


def needed_words(requirement: RequirementResult) -> str:
    """The number of clusters that would probably decide an undecided requirement."""
    if requirement.status != "undecided":
        return ""
    return MISSING if requirement.clusters_needed is None else f"about {requirement.clusters_needed}"


def status_words(requirement: RequirementResult) -> str:
    """The status, and whether the number is significantly worse than in the baseline."""
    worse = requirement.change is not None and requirement.change.worse
    return f"{requirement.status}, but worse than the baseline" if worse else requirement.status


def verdict_words(results: CheckResults) -> str:
    """The reason of the outcome in a sentence."""
    verdict = results.verdict
    total = len(verdict.requirements) - len(verdict.of_status("left out"))
    parts: list[str] = []
    for status in ("violated", "undecided"):
        if found := verdict.of_status(status):
            names = ", ".join(requirement.name for requirement in found)
            of = "" if parts else f" of {total} requirements"
            parts.append(f"{len(found)}{of} {_are(found)} {status} ({names})")
    if found := verdict.worse:
        names = ", ".join(requirement.name for requirement in found)
        parts.append(f"{len(found)} {_are(found)} significantly worse than in the baseline ({names})")
    if not parts and not total:
        parts.append("no requirement could be checked")
    elif not parts:
        parts.append(f"all {total} requirements are met" if total > 1 else "the requirement is met")
    return f"{'; '.join(parts)}."


def _are(found: list[RequirementResult]) -> str:
    return "is" if len(found) == 1 else "are"


def hash_words(system: CheckedSystem) -> str:
    """The hash of a system's file of weights, or of the names and hashes of all its files."""
    weights = [name for name in system.files if name.endswith(WEIGHTS)] or list(system.files)
    if not system.files:
        return "no files"
    if len(weights) == 1:
        return f"{weights[0]} {system.files[weights[0]][:DIGITS]}"
    return f"{len(system.files)} files {digest(system.files)[:DIGITS]}"


def systems(results: CheckResults) -> dict[str, CheckedSystem]:
    """The checked model, and those that it is compared with, by what they are."""
    found = {"checked model": results.model, "original": results.original, "retrained model": results.retrained}
    return {role: system for role, system in found.items() if system is not None}


def requirements_table(results: CheckResults, symbols: dict[str, str]) -> Table:
    """The requirements with their status, number, bound and clusters, and the change since the baseline.

    Args:
        results: the check.
        symbols: status -> the symbol before its word; ``"worse"`` that of a number that is worse than the baseline.
    """
    columns = ["requirement", "status", "number [interval]", "bound", "clusters", "clusters needed"]
    columns += ["worse than the baseline by"] if results.baseline else []
    rows = []
    for r in results.verdict.requirements:
        worse = r.change is not None and r.change.worse and r.status != "violated"
        symbol = symbols["worse" if worse else r.status]
        text = f"{r.name}: {r.text}" if r.text else r.name
        cells = [text, f"{symbol} {status_words(r)}{f': {r.reason}' if r.reason else ''}", number_words(results, r)]
        cells += [bound_words(r), str(r.clusters), needed_words(r)]
        rows.append((*cells, *([change_words(results, r)] if results.baseline else [])))
    level = f"{results.verdict.confidence:.0%}"
    return Table("Requirements", tuple(columns), tuple(rows), f"Intervals are simultaneous: {level} for all together.")


def sets_table(results: CheckResults) -> Table:
    """The sets of questions with their files and hashes."""
    rows = [
        (
            s.label,
            str(s.examples),
            str(s.clusters) if s.clusters else MISSING,
            s.file or MISSING,
            _hash(s.file_sha256 or s.sha256),
        )
        for s in results.sets.values()
    ]
    return Table("Data", ("set", "questions", "clusters", "file", "SHA-256"), tuple(rows))


def _hash(sha256: str) -> str:
    return sha256[:DIGITS] if sha256 else MISSING
