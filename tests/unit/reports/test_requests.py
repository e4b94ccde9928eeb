"""The tables, figures and sentences of requests in sequence and of forget sets that grow, with made-up numbers."""

from pathlib import Path
from typing import Any

import pytest
from tests.helpers.results_factory import changed, study_results

from uwc.reports.markdown import results_markdown
from uwc.reports.page import write_page
from uwc.reports.requests import kinds_of, parts_tables, requests_figures, requests_tables, requests_words
from uwc.results import (
    ES,
    AfterRequest,
    Aggregate,
    Difference,
    Estimate,
    PartScore,
    Requests,
    RunRecord,
    StepNames,
    StudyResults,
)

STEPS = StepNames(model="unlearn", score="score")


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def aggregate(mean: float) -> Aggregate:
    return Aggregate(mean=mean, n=20, clusters=10, low=mean - 0.1, high=mean + 0.1)


def after(
    number: int, forget: float, *, relapse: float | None = None, names: str = "12", **others: Any
) -> AfterRequest:
    values: dict[str, Any] = {
        "number": number,
        "forgotten": tuple(names[:number]),
        "questions": 20 * number,
        "subjects": 10 * number,
        "status": "ok",
        "steps": STEPS,
        "parts": tuple(
            PartScore(part=name, forgotten=i < number, score=aggregate(forget + i / 10), residual=estimate(0.5))
            for i, name in enumerate(names)
        ),
        "score": aggregate(forget),
        "residual": estimate(forget + 0.2),
        "relapse": None
        if relapse is None
        else Difference(mean=relapse, n=20, low=relapse - 0.1, high=relapse + 0.1, kind="difference", p_value=0.5),
        "retention": estimate(1 - number / 10),
        "alpha": estimate(0.5),
    }
    return AfterRequest(**{**values, **others})


def with_requests(*found: Requests) -> StudyResults:
    return study_results().model_copy(update={"requests": found})


def sequence(run: str, *models: AfterRequest, confidence: float | None = None) -> Requests:
    return Requests(kind="sequence", run=run, metric=ES, after=models, confidence=confidence)


def test_a_row_for_each_run_and_request_in_the_order_of_the_ranking() -> None:
    results = with_requests(
        sequence("gd", after(1, 0.1), after(2, 0.2, relapse=0.3)), sequence("npo", after(1, 0.3), after(2, 0.4))
    )
    (table,) = requests_tables(results)
    assert table.title == "Requests in sequence" and [row[:2] for row in table.rows] == [
        ("npo", "1"), ("npo", "2"), ("gd", "1"), ("gd", "2"),
    ]  # fmt: skip
    row = dict(zip(table.columns, table.rows[3], strict=True))
    assert row["questions"] == "40" and row["forget ES"] == "0.200\n[0.100, 0.300]"
    assert row["change of earlier parts"] == "+0.300\n[+0.200, +0.400]" and row["retention"] == "0.800\n[0.750, 0.850]"
    assert row["alpha"] == "0.500" and row["residual ES"] == "0.400\n[0.350, 0.450]"
    assert table.models == ("npo", "npo", "gd", "gd")


def test_parts_that_were_not_forgotten_yet_are_in_parentheses() -> None:
    (table,) = parts_tables(with_requests(sequence("gd", after(1, 0.1), after(2, 0.2))))
    assert table.columns == ("run", "request", "part 1", "part 2")
    assert table.rows == (
        ("gd", "1", "0.100 / 0.500", "(0.200 / 0.500)"),
        ("gd", "2", "0.200 / 0.500", "0.300 / 0.500"),
    )


def test_forget_sets_that_grow_have_their_names_and_no_relapse() -> None:
    found = Requests(kind="scale", run="gd", metric=ES, after=(after(1, 0.1, names="ab"), after(2, 0.2, names="ab")))
    results = with_requests(found)
    (table,) = requests_tables(results)
    assert table.columns[1] == "forget set" and [row[1] for row in table.rows] == ["a", "b"]
    assert "change of earlier parts" not in table.columns
    assert requests_words(results, "scale") == [
        "gd: retention as delivered goes from 0.900 to 0.800; the residual forget score from 0.300 to 0.400."
    ]
    (line, *_) = requests_figures(results)["scale"].axes.lines
    assert line.get_xydata().tolist() == [[20, 0.1], [40, 0.2]], "over the number of forgotten questions"


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        (0.99, "lower in sequence, confidence 99.0%"),
        (0.01, "lower at once, confidence 99.0%"),
        (0.6, "no significant difference"),
    ],
)
def test_in_words(confidence: float, said: str) -> None:
    models = (after(1, 0.1), after(2, 0.2, relapse=0.3))
    results = with_requests(sequence("gd", *models, confidence=confidence))
    residual = results.run("gd").residual("forget", ES)
    assert residual is not None
    assert requests_words(results, "sequence") == [
        "gd: after 2 requests earlier parts score +0.300 [+0.200, +0.400] against right after their own; "
        "retention as delivered goes from 0.900 to 0.800; "
        f"the residual forget score is 0.400 in sequence and {residual.mean:.3f} at once ({said})."
    ]


def test_a_relapse_whose_interval_has_zero_is_not_significant() -> None:
    (words,) = requests_words(with_requests(sequence("gd", after(1, 0.1), after(2, 0.2, relapse=0.05))), "sequence")
    assert "[-0.050, +0.150] against right after their own, not significant;" in words


def test_divergence_is_told() -> None:
    lost = {"parts": (), "score": None, "residual": None, "retention": None, "alpha": None}
    diverged, skipped = (after(n, 0.0, status=s, **lost) for n, s in ((2, "diverged"), (3, "skipped")))
    results = with_requests(sequence("gd", after(1, 0.1), diverged, changed(skipped, forgotten=("1", "2", "x"))))
    assert requests_words(results, "sequence") == ["gd: request 2 diverged."]
    (table,) = requests_tables(results)
    assert [row[3] for row in table.rows] == ["0.100\n[0.000, 0.200]", "diverged", "skipped"]
    assert [row[1] for row in table.rows] == ["1", "2", "3: x"]
    (line, *_) = requests_figures(results)["sequence"].axes.lines
    assert line.get_xydata().tolist() == [[1, 0.1]]


def test_without_calibration_there_are_scores_as_delivered_alone() -> None:
    bare = {"residual": None, "retention": None, "alpha": None}
    results = with_requests(sequence("gd", after(1, 0.1, **bare), after(2, 0.2, **bare)))
    (table,) = requests_tables(results.model_copy(update={"retention": None}))
    assert table.columns == ("run", "request", "questions", "forget ES")
    assert "retention" not in table.caption


def test_sections_of_the_page(tmp_path: Path) -> None:
    scale = Requests(kind="scale", run="npo", metric=ES, after=(after(1, 0.1), after(2, 0.2)))
    results = with_requests(scale, sequence("gd", after(1, 0.1), after(2, 0.2)))
    assert kinds_of(results) == ["sequence", "scale"] and kinds_of(study_results()) == []
    write_page(results, RunRecord(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    first, second = text.index('id="requests-in-sequence"'), text.index('id="forget-sets-that-grow"')
    assert first < second and "change of earlier parts" in text[first:second] and "npo: retention" in text[second:]
    assert "Requests in sequence" in results_markdown(results)
    write_page(study_results(), RunRecord(), tmp_path / "without.html")
    assert "requests-in-sequence" not in (tmp_path / "without.html").read_text()
