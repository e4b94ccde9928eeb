"""The verdicts of a study as a table and in lines."""

from tests.helpers.check_factory import requirement
from tests.helpers.results_factory import changed, study_results

from uwc.reports.export import tables
from uwc.reports.markdown import results_markdown
from uwc.reports.tables import verdict_lines, verdict_table
from uwc.results import ModelKey, StudyResults, Verdict


def verdict(run: str, policy: str, *statuses: str) -> Verdict:
    return Verdict(
        policy=policy,
        title="For tests",
        model=ModelKey(role="unlearned", run=run),
        confidence=0.95,
        outcome="fail" if "violated" in statuses else "undecided" if "undecided" in statuses else "pass",
        requirements=tuple(requirement(f"r{i}", status) for i, status in enumerate(statuses)),
    )


def results() -> StudyResults:
    found = (
        verdict("ga", "mine", "met", "violated", "violated", "undecided"),
        verdict("npo", "mine", "met", "left out"),
        verdict("npo", "other", "undecided"),
    )
    return changed(study_results(), verdicts=found)


def test_models_are_in_the_order_of_the_ranking_with_counts_and_names() -> None:
    table = verdict_table(results())
    assert table is not None
    assert [row[:6] for row in table.rows] == [
        ("npo", "mine", "pass", "1", "0", "1"),
        ("npo", "other", "undecided", "0", "1", "0"),
        ("ga", "mine", "fail", "1", "1", "0"),
    ]
    assert table.rows[2][6] == "r1, r2"


def test_a_line_names_model_policy_outcome_and_what_is_violated() -> None:
    lines = verdict_lines(results())
    assert lines[0].startswith("npo, mine: pass") and lines[2].startswith("ga, mine: fail") and "(r1, r2)" in lines[2]


def test_a_study_without_policies_has_neither() -> None:
    assert verdict_table(study_results()) is None and verdict_lines(study_results()) == []
    assert "verdicts" in tables(results()) and "verdicts" not in tables(study_results())
    assert "Checked as delivered" in results_markdown(results())
