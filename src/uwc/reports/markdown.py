"""The results of a study as one Markdown page: conclusion, ranking, scores and the tau curve in words."""

from uwc.reports.conclusion import summary
from uwc.reports.grid import to_markdown
from uwc.reports.ranking import groups_table, indistinct, ranking_table
from uwc.reports.records import Record
from uwc.reports.recovery_tables import recovery_table, recovery_words
from uwc.reports.robustness_tables import pcc_table, ranking_tables, robustness_words
from uwc.reports.tables import result_table
from uwc.reports.tau_curve import tau_table, tau_words


def results_markdown(results: Record) -> str:
    """The page, in GitHub's Markdown."""
    parts = [f"## {results['study']['title'] or results['study']['name']}\n", " ".join(summary(results)) + "\n"]
    if results["ranking"]:
        parts.append(to_markdown(ranking_table(results)))
        parts.append(indistinct(results) + "\n" if indistinct(results) else "")
    if results["groups"]:
        parts.append(to_markdown(groups_table(results)))
    parts.append(to_markdown(result_table(results)))
    if words := tau_words(results):
        parts += [to_markdown(tau_table(results)), "\n".join(f"- {sentence}" for sentence in words) + "\n"]
    if results.get("attacks"):
        parts += [to_markdown(recovery_table(results)), " ".join(recovery_words(results)) + "\n"]
        parts += [to_markdown(table) for table in (*ranking_tables(results), pcc_table(results))]
        parts.append("\n".join(f"- {sentence}" for sentence in robustness_words(results)) + "\n")
    if notes := results["notes"]:
        parts.append("### Please note\n\n" + "\n".join(f"- {note}" for note in notes) + "\n")
    return "\n".join(filter(None, parts))
