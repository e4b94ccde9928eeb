"""The check of a model as Markdown, for the summary of a step on GitHub or a note on GitLab."""

import re
from collections.abc import Iterator

from uwc.errors import printable
from uwc.reports.format import markdown_code, markdown_text, to_markdown
from uwc.reports.tables_check import (
    OUTCOMES,
    hash_words,
    requirements_table,
    sets_table,
    systems,
    verdict_words,
)
from uwc.results import CheckResults

SYMBOLS = {"met": "✅", "violated": "❌", "worse": "❌", "undecided": "❔", "left out": "⏭️"}
OUTCOME_SYMBOLS = {"pass": "✅", "fail": "❌", "undecided": "❔"}


def check_markdown(results: CheckResults) -> str:
    """The page, in GitHub's Markdown: verdict, requirements, warnings, models, data, and how to reproduce it."""
    return "\n".join(filter(None, _parts(results)))


def _parts(results: CheckResults) -> Iterator[str]:
    verdict = results.verdict
    yield f"## {OUTCOME_SYMBOLS[verdict.outcome]} {OUTCOMES[verdict.outcome]}: policy {markdown_text(verdict.policy)}\n"
    title = f" {markdown_text(verdict.title)}." if verdict.title else ""
    yield f"Model {markdown_code(results.model.source)}: {markdown_text(verdict_words(results))}{title}\n"
    yield to_markdown(requirements_table(results, SYMBOLS))
    if results.warnings:
        yield "### Warnings\n\n" + _bullets(markdown_text(warning.text) for warning in results.warnings)
    if results.secrets:
        yield "### Secrets\n\n" + _bullets(markdown_text(f"{s.set}: {s.words}") for s in results.secrets)
    if results.left_out:
        lines = (markdown_text(f"{metric}: {why}") for metric, why in results.left_out.items())
        yield "### Not measured\n\n" + _bullets(lines)
    if results.invalid_rows:
        yield "### Rows left out\n\n" + _bullets(markdown_text(found.warning.text) for found in results.invalid_rows)
    lines = (
        f"{role}: {markdown_code(system.source)} ({markdown_text(hash_words(system))})"
        for role, system in systems(results).items()
    )
    yield "### Models\n\n" + _bullets(lines)
    yield to_markdown(sets_table(results))
    yield from _how(results)


def _how(results: CheckResults) -> Iterator[str]:
    yield "### How to reproduce it\n"
    if results.command:
        yield _block(results.command)
    environment = {"uwc": results.uwc_version, **results.environment}
    yield ", ".join(markdown_text(f"{name} {value}") for name, value in environment.items()) + "\n"


def _block(text: str) -> str:
    """A text as a block of code."""
    lines = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", lines)), default=0))
    return f"{fence}bash\n{lines}\n{fence}\n"


def _bullets(lines: Iterator[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)
