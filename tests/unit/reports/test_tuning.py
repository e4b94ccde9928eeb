"""The tables, figures and sentences of searches for hyper-parameters, with made-up numbers."""

import pytest
from tests.helpers.results_factory import study_results

from uwc.reports.page import write_page
from uwc.reports.tuning import trials_tables, tuning_figures, tuning_table, tuning_words
from uwc.results import ES, Estimate, Group, StudyResults, Trial, Tuning


def trial(number: int, score: float | None, early: float = 0.5, **values: float) -> Trial:
    return Trial(number=number, values=values, early=early, score=score, alpha=None if score is None else 0.75)


def search(run: str, *scores: float | None, importance: dict[str, float] | None = None) -> Tuning:
    trials = tuple(trial(i, score, **{"training.lr": 10.0**-i}) for i, score in enumerate(scores))
    best = min((s, i) for i, s in enumerate(scores) if s is not None)[1]
    return Tuning(
        run=run, metric=ES, higher_remembers=True, subjects=6, questions=72, space={"training.lr": "1e-3 to 1"},
        trials=trials, best=best, importance=importance or {},
    )  # fmt: skip


@pytest.fixture
def results() -> StudyResults:
    return study_results()


def tuned(results: StudyResults, *searches: Tuning) -> StudyResults:
    return results.model_copy(update={"tuning": searches})


def test_a_row_has_the_first_the_best_and_the_reported_score(results: StudyResults) -> None:
    name = results.unlearned[0].name
    table = tuning_table(tuned(results, search(name, 0.5, 0.1, None, 0.3, importance={"training.lr": 0.6})))
    assert table is not None
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["run"], row["trials"], row["first trial"], row["best trial"]) == (
        name,
        "4\n(1 pruned)",
        "0.500",
        "0.100",
    )
    assert row["sd over trials"] == "0.200", "of 0.5, 0.1 and 0.3"
    assert row["matters most"] == "training.lr\n(60.0%)" and row["best values"] == "training.lr 0.1"
    residual = results.unlearned[0].residual("forget", ES)
    assert residual is not None and row["residual forget ES, other subjects"].startswith(f"{residual.mean:.3f}")
    assert "sd between seeds" not in row, "there are none"
    alone = tuning_table(tuned(results, search(name, 0.5, 0.1)))
    assert alone is not None and "matters most" not in alone.columns, "too few trials"
    assert tuning_table(results) is None and not trials_tables(results) and not tuning_figures(results)


def test_all_trials_are_listed(results: StudyResults) -> None:
    (table,) = trials_tables(tuned(results, search("gd", 0.5, None, 0.2)))
    assert table.title == "Trials of gd" and table.columns == ("trial", "training.lr", "early score", "score", "alpha")
    assert [row[0] for row in table.rows] == ["1", "2", "3 (best)"]
    assert table.rows[1][2:] == ("0.500", "pruned", "—") and table.rows[2][1:] == ("0.01", "0.500", "0.200", "0.750")


def test_the_figure_has_each_trial_and_the_best_so_far(results: StudyResults) -> None:
    name = results.unlearned[0].name
    figure = tuning_figures(tuned(results, search(name, 0.5, None, 0.2, 0.4)))[name]
    *markers, best = figure.axes.lines
    assert [line.get_marker() for line in markers] == ["o", "x", "o", "o"]
    assert [tuple(line.get_xydata()[0]) for line in markers] == [(1, 0.5), (2, 0.5), (3, 0.2), (4, 0.4)]
    assert best.get_xydata().tolist() == [[1, 0.5], [3, 0.2], [4, 0.2]]
    assert figure.tips(markers[1]) == ["trial 2: 0.500, pruned; training.lr 0.1"]


def test_in_words(results: StudyResults) -> None:
    first, best = tuning_words(tuned(results, search("a", 0.5, 0.1), search("b", 0.5, 0.6)))
    assert first == "a: best of 2 trials, chosen on 6 other subjects: 0.100, from 0.500 in the first trial."
    assert best == "b: best of 2 trials, chosen on 6 other subjects: 0.500, its first trial."


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (0.99, "gd does so here, too (confidence 99.0%)."),
        (0.01, "gd does not here: npo is better (confidence 99.0%)."),
        (0.6, "gd is not distinguishable from npo here (confidence that it is better 60.0%)."),
    ],
)
def test_whether_tuned_ascent_beats_npo(results: StudyResults, confidence: float, said: str) -> None:
    one, other = (
        results.unlearned[0].model_copy(update={"name": name, "group": "", "method": name, "tricks": {}})
        for name in ("gd", "npo")
    )
    changed = results.model_copy(
        update={"unlearned": (one, other), "ranking": ("gd", "npo"), "pairs": {"gd": {"npo": confidence}}}
    )
    found = tuned(changed, search("gd", 0.5, 0.1), search("npo", 0.5, 0.2))
    assert tuning_words(found)[-1].endswith(said)
    assert len(tuning_words(tuned(changed, search("gd", 0.5, 0.1)))) == 1, "nothing to compare with"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.3, -0.1, "gd does so here, too (difference -0.200 [-0.300, -0.100] over seeds and examples)."),
        (
            -0.1,
            0.1,
            "gd is not distinguishable from npo here (difference 0.000 [-0.100, 0.100] over seeds and examples).",
        ),
        (0.1, 0.3, "gd does not here: npo is better (difference 0.200 [0.100, 0.300] over seeds and examples)."),
    ],
)
def test_methods_with_seeds_are_compared_by_their_means(
    results: StudyResults, low: float, high: float, said: str
) -> None:
    minus = Estimate(value=(low + high) / 2, low=low, high=high)
    spread = {"sd_seeds": 0.01, "se_examples": 0.01, "se": 0.01, "low": 0.1, "high": 0.3, "frontier": {}}
    groups = (
        Group(name="gd", runs=("gd@0", "gd@1"), mean=0.2, next=minus, minus={"npo": minus}, **spread),
        Group(name="npo", runs=("npo@0", "npo@1"), mean=0.3, next=None, **spread),
    )
    models = tuple(
        results.unlearned[0].model_copy(update={"name": name, "group": group.name, "method": group.name, "tricks": {}})
        for group in groups
        for name in group.runs
    )
    changed = results.model_copy(
        update={"unlearned": models, "ranking": ("npo@0", "gd@0", "gd@1", "npo@1"), "groups": groups, "pairs": {}}
    )
    assert tuning_words(tuned(changed, search("gd", 0.5, 0.1), search("npo", 0.5, 0.2)))[-1].endswith(said)


def test_a_section_of_the_page(results: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> None:
    from uwc.results import RunRecord

    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(tuned(results, search(results.unlearned[0].name, 0.5, 0.1)), RunRecord(), path)
    text = path.read_text()
    assert 'id="hyper-parameters"' in text and "best of 2 trials" in text and "Trials of" in text
    write_page(results, RunRecord(), path)
    assert 'id="hyper-parameters"' not in path.read_text()
