"""Numbers, intervals and tables as text."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console
from tests.helpers.results_factory import (
    ES,
    METRICS,
    NAN,
    PPL,
    SET_METRIC,
    changed_run,
    estimate,
    study_results,
)

from uwc.progress import duration
from uwc.reports.format import (
    MISSING,
    Table,
    average,
    difference,
    is_numeric,
    listed,
    number,
    print_table,
    sort_value,
    to_markdown,
    with_interval,
)
from uwc.reports.tables import result_table
from uwc.results import Difference, Estimate, MetricInfo


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (0.21249, METRICS[ES], "0.212"),
        (1, None, "1.000"),
        (None, METRICS[ES], MISSING),
        (NAN, METRICS[PPL], MISSING),
        (1.2, METRICS[PPL], "1.20"),
        (99.96, METRICS[PPL], "100"),
        (12345.0, METRICS[PPL], "12,300"),
        (2.5e7, METRICS[PPL], "2.50e+07"),
        (3.21e-12, SET_METRIC, "3.21e-12"),
        (0.0, SET_METRIC, "0.000"),
        (0.5, SET_METRIC, "0.500"),
    ],
)
def test_numbers_as_text(value: float | None, metric: MetricInfo | None, text: str) -> None:
    assert number(value, metric) == text


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0.212 [0.160, 0.270]", "0.212"),
        ("0.762, 0.131, 0.953", "0.762"),
        ("12,300", "12300"),
        ("2.50e+07 ± 3.1", "2.50e+07"),
        ("x 1.30 [1.1, 1.5]", "1.30"),
        ("+0.150", "0.150"),
        ("-0.150\n(+0.1)", "-0.150"),
        ("97.5%", "97.5"),
        ("2 min 05 s", "125"),
        ("1 h 02 min", "3720"),
        ("∞", "Infinity"),
        (MISSING, ""),
        ("", ""),
    ],
)
def test_cells_of_numbers_are_sorted_by_value(cell: str, value: str) -> None:
    assert sort_value(cell) == value


def test_durations_lists_and_intervals_as_text() -> None:
    assert [duration(s) for s in (4.04, 125, 3725)] == ["4.0 s", "2 min 05 s", "1 h 02 min"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert with_interval(Estimate(value=0.5, low=0.25, high=NAN)) == "0.500"
    assert with_interval(estimate(0.5)) == "0.500 [0.450, 0.550]"


def test_a_difference_has_its_sign_and_a_ratio_is_a_ratio() -> None:
    found = {"n": 9, "p_value": 0.5}
    shown = Difference(mean=0.15, low=-0.05, high=0.35, kind="difference", **found)
    ratio = Difference(mean=1.3, low=0.987, high=12.0, kind="ratio", **found)
    assert difference(shown) == "+0.150 [-0.050, +0.350]"
    assert difference(ratio) == "x 1.30 [0.987, 12.0]"
    assert difference(Difference(mean=1.3, kind="ratio", **found)) == "x 1.30"
    assert difference(None) == MISSING
    assert all(is_numeric(Table("", ("",), ((difference(d),),)), 0) for d in (shown, ratio, None))


def test_averages_are_geometric_where_the_metric_is() -> None:
    assert average([1.0, 4.0], geometric=True) == pytest.approx(2.0)
    assert average([1.0, 4.0], geometric=False) == 2.5
    assert number(average([], geometric=False)) == number(average([NAN, 0.0], geometric=True)) == MISSING


def test_markdown_aligns_numbers_and_escapes_cells() -> None:
    table = Table("Scores", ("method", "ES"), (("a|b", "0.100"), ("<i>", MISSING)), "One remark.")
    assert to_markdown(table) == (
        "### Scores\n\n| method | ES |\n| --- | ---: |\n| a\\|b | 0.100 |\n| &lt;i> | — |\n\n- One remark.\n"
    )


@pytest.mark.parametrize(("width", "blocks"), [(120, 1), (80, 2), (60, 2)])
def test_terminal_table_does_not_wrap_numbers_and_takes_brackets_literally(width: int, blocks: int) -> None:
    """Groups of columns stand side by side where the terminal is wide enough, and below each other where it is not."""
    results = changed_run(study_results(), "gd", name="gd[bold]")
    stream = StringIO()
    table = result_table(results)
    print_table(replace(table, caption=""), Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines if line.startswith("gd[bold]")]
    assert [cell for row in rows for cell in row] == [
        *("gd[bold]", "0.000", "0.827"),
        *(["gd[bold]"] * (blocks - 1)),
        *("0.131", "0.762", "yes"),
    ]
    heads = [line for line in lines if "as delivered ─" in line or "at equal retention ─" in line]
    assert len(heads) == len(rows) == blocks
    assert heads[0].index("as delivered") == len("(collapsed)") + 2, "above its first column"
