"""Robustness statistics: against scipy and hand-worked numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from uwc.cli.main import app
from uwc.errors import DataError
from uwc.results import Point
from uwc.robustness import (
    PUBLISHED_PCC,
    agreement,
    compare,
    compared_orders,
    faithfulness_auc,
    published_pcc,
    rank,
    read_points,
)


def point(
    checkpoint: str, metric: str, attack: str, split: str, before: float, after: float, touches: bool = False
) -> Point:
    return Point(
        checkpoint=checkpoint,
        metric=metric,
        attack=attack,
        split=split,
        before=before,
        after=after,
        touches_weights=touches,
    )


def noisy(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    return x, 0.5 * x + 0.2 + 0.1 * rng.standard_normal(n)


def test_by_hand() -> None:
    """(0, 1), (1, 3), (2, 5) lie on y = 2x + 1; they are 1, 2 and 3 above the identity line."""
    found = agreement([0, 1, 2], [1, 3, 5])
    assert found.pcc.value == pytest.approx(1)
    assert found.spearman.value == pytest.approx(1)
    assert (found.slope.value, found.intercept.value) == pytest.approx((2, 1))
    assert found.distance.value == pytest.approx(2 / 2**0.5)


def test_estimates_are_those_of_scipy() -> None:
    x, y = noisy()
    y[3] = y[4]
    found = agreement(x, y)
    line = stats.linregress(x, y)
    assert found.pcc.value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.slope.value, found.intercept.value) == pytest.approx((line.slope, line.intercept))
    assert found.warnings == ()


@pytest.mark.slow
def test_intervals_are_those_of_scipys_percentile_bootstrap() -> None:
    x, y = noisy()
    ours = agreement(x, y, resamples=4000)
    for name, statistic in (
        ("pcc", lambda a, b: stats.pearsonr(a, b).statistic),
        ("slope", lambda a, b: stats.linregress(a, b).slope),
    ):
        theirs = stats.bootstrap(
            (x, y), statistic, paired=True, vectorized=False, n_resamples=2000, method="percentile", rng=1
        ).confidence_interval
        mine = getattr(ours, name)
        assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)


@pytest.mark.slow
def test_the_interval_covers_the_true_slope_as_often_as_it_says() -> None:
    covered = [(found := agreement(*noisy(seed=s), resamples=300).slope).low <= 0.5 <= found.high for s in range(200)]
    assert 0.88 <= np.mean(covered) <= 0.99


@pytest.mark.slow
def test_the_interval_of_a_correlation_over_six_checkpoints_covers_the_truth() -> None:
    """Pairs of normal values with correlation 0.8; plain percentiles cover it in 88 % of such data sets."""
    random = np.random.default_rng(6)
    covered = 0
    for seed in range(300):
        x = random.standard_normal(6)
        found = agreement(x, 0.8 * x + 0.6 * random.standard_normal(6), resamples=300, seed=seed).pcc
        covered += found.low <= 0.8 <= found.high
    assert 0.90 <= covered / 300 <= 0.98


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    x, y = noisy()
    assert agreement(x, y, seed=1) == agreement(x, y, seed=1)
    assert agreement(x, y, seed=1).pcc != agreement(x, y, seed=2).pcc


def test_too_few_points_and_no_spread_are_warned_of() -> None:
    found = agreement([0.5] * 4, [0.1, 0.2, 0.3, 0.4])
    assert np.isnan(found.pcc.value) and np.isnan(found.slope.value)
    assert any("only 4 checkpoints" in w for w in found.warnings)
    assert any("no spread before" in w for w in found.warnings)
    assert not any("no spread after" in w for w in found.warnings)


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    x, y = noisy()
    found = agreement([*x, 0.3, float("nan")], [*y, float("inf"), 0.2])
    assert found.n == 40
    assert found.pcc == agreement(x, y).pcc
    assert found.warnings == ("2 checkpoints without a finite value left out",)


def test_nothing_at_all_is_no_error() -> None:
    found = agreement([], [])
    assert found.n == 0 and np.isnan(found.distance.value)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\)"):
        agreement([1, 2], [1])


def test_faithfulness_by_hand() -> None:
    """Knowing 3 and 2, ignorant 2 and 1: three of four pairs are won and one is tied."""
    assert faithfulness_auc([3, 2], [2, 1]) == 0.875
    assert faithfulness_auc([3, 2], [2, 1], higher_remembers=False) == 0.125
    assert np.isnan(faithfulness_auc([], [1]))


def test_faithfulness_counts_every_pair() -> None:
    rng = np.random.default_rng(0)
    knowing, ignorant = rng.integers(0, 9, 30) + 2.0, rng.integers(0, 9, 20) + 0.0
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in knowing for b in ignorant]
    assert faithfulness_auc(knowing, ignorant) == pytest.approx(np.mean(pairs))


def points(metric: str, attack: str, *, noise: float, touches: bool = False, n: int = 12) -> list[Point]:
    rng = np.random.default_rng(0)
    return [
        point(f"c{i}", metric, attack, "forget", i / n, i / n + noise * float(rng.standard_normal()), touches)
        for i in range(n)
    ]


def test_metrics_are_ranked_apart_for_attacks_that_touch_the_weights() -> None:
    """`steady` wins without the weights touched and loses with; a metric without spread counts as 0."""
    listed = [
        *points("steady", "probe", noise=0.01),
        *points("shaky", "probe", noise=0.5),
        *[point(f"c{i}", "flat", "probe", "forget", 0.5, 0.5) for i in range(12)],
        *points("steady", "relearn", noise=0.5, touches=True),
        *points("shaky", "relearn", noise=0.01, touches=True),
    ]
    ranks = rank(compare(listed))
    assert [(r.place, r.metric) for r in ranks if not r.touches_weights] == [(1, "steady"), (2, "shaky"), (3, "flat")]
    assert [(r.place, r.metric) for r in ranks if r.touches_weights] == [(1, "shaky"), (2, "steady")]
    flat = next(r for r in ranks if r.metric == "flat")
    assert (flat.pcc, flat.missing, flat.cells) == (0.0, 1, 1)


def test_perplexity_is_compared_on_logarithms() -> None:
    """Before e, e^2, e^3 and after e^2, e^4, e^6: a slope of 2 on logarithms."""
    listed = [point(f"c{i}", "perplexity", "gcg", "retain", np.exp(i), np.exp(2 * i)) for i in (1, 2, 3)]
    (cell,) = compare(listed)
    assert cell.on_logarithms
    assert cell.agreement.slope.value == pytest.approx(2)
    with pytest.raises(DataError, match="0 has no logarithm"):
        compare([point("c", "perplexity", "gcg", "retain", 1, 0)])


def test_a_metric_without_a_value_on_a_split_has_no_cell_there() -> None:
    """As the depth score on a retain set that the retrained model knows as well: that is no correlation of 0."""
    listed = [*points("depth", "relearn", noise=0.01), point("c0", "depth", "relearn", "retain", np.nan, np.nan)]
    assert [(cell.metric, cell.split) for cell in compare(listed)] == [("depth", "forget")]


def test_a_checkpoint_that_occurs_twice_is_refused() -> None:
    twice = [point("a", "m", "probe", "forget", 0, 0), point("a", "m", "probe", "forget", 1, 1)]
    with pytest.raises(DataError, match="'a' occurs twice"):
        compare(twice)


def test_published_values_are_correlations_with_a_source() -> None:
    """The page of the paper gives ten pairs; ES under relearning + probing is .73 and .61."""
    assert len(PUBLISHED_PCC) == 10
    assert all(-1 <= v <= 1 and p.source for p in PUBLISHED_PCC for v in (p.retain, p.forget))
    es = next(p for p in PUBLISHED_PCC if p.metric == "extraction_strength" and "probing" in p.attack)
    assert (es.retain, es.forget) == (0.73, 0.61)


def written(tmp_path: Path, rows: list[dict[str, object]], name: str = "points.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_points_from_a_file_are_the_points_written(tmp_path: Path) -> None:
    listed = points("extraction_strength", "relearn", noise=0.1, touches=True)
    assert read_points(written(tmp_path, [p.model_dump() for p in listed])) == listed


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"checkpoint": "a"}, "no column 'metric'"),
        (
            point("a", "m", "x", "forget", 0, 0).model_dump() | {"before": 10**400},
            "it must be a number",
        ),
        (
            point("a", "m", "x", "forget", 0, 0).model_dump() | {"before": "much"},
            "before is 'much'; it must be a number",
        ),
        (point("a", "m", "x", "forget", 0, 0).model_dump() | {"touches_weights": "perhaps"}, "must be true or false"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_points(written(tmp_path, [row]))


def test_the_command_prints_agreement_ranking_and_faithfulness(tmp_path: Path) -> None:
    listed = points("extraction_strength", "gcg", noise=0.05) + points("exact_memorization", "gcg", noise=0.4)
    known = [{"metric": "extraction_strength", "split": "forget", "value": i, "knows": i > 3} for i in range(8)]
    arguments = [
        "robustness", str(written(tmp_path, [p.model_dump() for p in listed])),
        "--faithfulness", str(written(tmp_path, known, "known.jsonl")),
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)["robustness"]
    assert [r["metric"] for r in found["ranking"]] == ["extraction_strength", "exact_memorization"]
    assert found["faithfulness"][0]["auc"] == 1.0
    table = CliRunner().invoke(app, arguments, catch_exceptions=False).stdout
    assert "published" in table and "0.91" in table


def test_orders_are_compared_where_two_metrics_have_a_published_pcc() -> None:
    """Published under GCG on forget: EM and ES 0.91 (no order between them), perplexity 0.50."""
    xs = np.arange(12.0)
    noise = np.random.default_rng(0).standard_normal(12)
    after = {"extraction_strength": xs, "exact_memorization": xs + 20 * noise, "perplexity": np.exp(xs + 3 * noise)}
    points = [
        point(f"c{i}", metric, "suffix", "forget", float(np.exp(x) if metric == "perplexity" else x), float(values[i]))
        for metric, values in after.items()
        for i, x in enumerate(xs)
    ]
    cells = compare(points)
    orders = compared_orders(cells, {"suffix": "gcg"})
    assert {(o.first, o.second): o.same for o in orders} == {
        ("extraction_strength", "perplexity"): True, ("exact_memorization", "perplexity"): False,
    }  # fmt: skip
    assert all(o.published[0] == 0.91 and o.published[1] == 0.5 for o in orders)
    assert compared_orders(cells) == []
    assert published_pcc("truth_ratio_arithmetic", "probe", "forget") == 0.02
    assert published_pcc("extraction_strength", "gcg", "holdout") is None


def test_an_attack_that_makes_all_models_alike_is_warned_about() -> None:
    before = np.linspace(0.0, 1.0, 12)
    levelled, kept = (agreement(before, 0.9 + share * before, resamples=10) for share in (0.04, 0.06))
    assert levelled.warnings == (
        "the attack makes the checkpoints nearly alike: their spread after it is 4.0% of that before; "
        "a correlation rests on little",
    )
    assert kept.warnings == ()
