"""The results of a study as one Markdown page: conclusion, ranking, scores and the tau curve in words."""

from collections.abc import Iterator, Sequence

from uwc.reports.format import markdown_text, to_markdown
from uwc.reports.requests import kinds_of, requests_tables, requests_words
from uwc.reports.tables import (
    groups_table,
    indistinct,
    ranking_table,
    result_table,
    summary,
    tau_table,
    tau_words,
    verdict_table,
)
from uwc.reports.tables_attacks import (
    pcc_table,
    precision_table,
    ranking_tables,
    recovery_tables,
    recovery_words,
    robustness_words,
)
from uwc.reports.tables_meta import holding_words, meta_evaluation_table, meta_evaluation_words
from uwc.reports.tuning import tuning_table, tuning_words
from uwc.results import StudyResults


def results_markdown(results: StudyResults) -> str:
    """The page, in GitHub's Markdown."""
    return "\n".join(filter(None, _parts(results)))


def _parts(results: StudyResults) -> Iterator[str]:
    yield f"## {markdown_text(results.study.title or results.study.name)}\n"
    yield to_markdown(result_table(results))
    yield markdown_text(" ".join(summary(results))) + "\n"
    if verdicts := verdict_table(results):
        yield to_markdown(verdicts)
    if len(results.ranking) > 1:
        yield to_markdown(ranking_table(results))
        yield indistinct(results) and markdown_text(indistinct(results)) + "\n"
    if results.groups:
        yield to_markdown(groups_table(results))
    if tuning := tuning_table(results):
        yield to_markdown(tuning)
        yield _bullets(tuning_words(results))
    yield from map(to_markdown, requests_tables(results))
    if words := [sentence for kind in kinds_of(results) for sentence in requests_words(results, kind)]:
        yield _bullets(words)
    if words := tau_words(results):
        yield to_markdown(tau_table(results))
        yield _bullets(words)
    if results.attacks:
        yield from map(to_markdown, recovery_tables(results))
        if deployed := precision_table(results):
            yield to_markdown(deployed)
        yield _bullets(recovery_words(results))
    if results.robustness:
        yield from map(to_markdown, (*ranking_tables(results), pcc_table(results)))
        yield _bullets([*robustness_words(results), *holding_words(results)])
        if meta := meta_evaluation_table(results):
            yield to_markdown(meta)
            yield _bullets(meta_evaluation_words(results))
    if results.warnings:
        yield "### Warnings\n\n" + _bullets([warning.text for warning in results.warnings])


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(sentence)}" for sentence in sentences) + "\n"
