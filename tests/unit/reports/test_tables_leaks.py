"""The table of sampled answers, with made-up numbers."""

from tests.helpers.results_factory import estimate, study_results

from uwc.reports.tables_leaks import leak_tables
from uwc.results import LeakCurve, LeakPoint, ModelKey


def curve(name: str, key: ModelKey, *leaks: float) -> LeakCurve:
    points = tuple(
        LeakPoint(k=2**i, leak=estimate(leak, 0.1), largest=estimate(leak / 2)) for i, leak in enumerate(leaks)
    )
    return LeakCurve(
        set=name, model=key, metric="rouge_l", at_least=0.8, temperature=1.0, top_p=1.0, samples=64, n=100,
        bound=0.25, largest_bound=0.75, points=points,
    )  # fmt: skip


def test_a_table_for_each_set_with_a_row_for_each_model_in_the_order_of_the_others() -> None:
    npo, original = ModelKey(role="unlearned", run="npo"), ModelKey(role="original")
    curves = (curve("retain", npo, 0.3), curve("forget", npo, 0.2, 0.4), curve("forget", original, 0.5, 0.6))
    forget, retain = leak_tables(study_results(leaks=curves))
    assert forget.title == "Sampled answers: forget" and retain.title == "Sampled answers: retain"
    assert forget.columns == ("model", "k = 1", "k = 2", "mean\nat most", "largest\nat most")
    assert [row[0] for row in forget.rows] == ["original", "npo, as delivered"]
    assert forget.rows[1][1:] == ("0.200\n[0.100, 0.300]\n(0.10)", "0.400\n[0.300, 0.500]\n(0.20)", "0.250", "0.750")
    assert "at least 0.8" in forget.caption and "64 samples of each of 100 questions" in forget.caption
    assert not leak_tables(study_results())
