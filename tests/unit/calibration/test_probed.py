"""Ratios to the original, the least of them and its draws, by hand."""

import numpy as np
import pytest
from tests.helpers.probed_sets import frontier_of, probed

from uwc.calibration.frontier import Frontier
from uwc.calibration.probed import Measured, ProbedSet, RetentionCurve
from uwc.metrics.stats import bootstrap_interval, confidence_higher
from uwc.results import Aggregate

FORGET = probed([[1.0] * 4, [0.0] * 4], name="forget")


def number(*values: float, higher: bool = True) -> Measured:
    return Measured("a number", higher, np.linspace(0, 1, len(values)), np.array(values))


def ratios(rows: list[list[float]], *, higher: bool = True, average: str = "arithmetic") -> list[float]:
    found = Measured.of("made up", [probed(rows)], higher=higher, average=average).ratios
    return [float(r) for r in found]


def test_ratios_in_each_direction_and_average() -> None:
    """Means 0.8 -> 0.4: half. Losses 1 -> 4: a quarter. Perplexities (1, 4) -> (4, 4): geometric 2 -> 4: half."""
    assert ratios([[0.6, 1.0], [0.4, 0.4]]) == [1.0, 0.5]
    assert ratios([[0.5, 1.5], [2.0, 6.0]], higher=False) == [1.0, 0.25]
    assert ratios([[1.0, 4.0], [4.0, 4.0]], higher=False, average="geometric") == pytest.approx([1.0, 0.5])
    assert number(0.8, 0.6).ratios == pytest.approx([1.0, 0.75])
    assert number(2.0, 8.0, higher=False).ratios.tolist() == [1.0, 0.25]


def test_the_least_ratio_decides_alpha() -> None:
    """Retain falls to 0.8 of it, the benchmark to 0.5 at alpha = 1: at tau 0.9 the benchmark allows 0.2, not 0.5."""
    curve = RetentionCurve((Measured.of("retain", [probed([[1.0] * 4, [0.8] * 4])]), number(0.6, 0.3)))
    frontier = Frontier(curve, FORGET)
    assert curve.ratios.tolist() == [1.0, 0.5]
    assert frontier.alpha_at(0.9) == pytest.approx(0.2)
    assert frontier.forget_at(0.9) == pytest.approx(0.8)


def test_a_ratio_of_exactly_tau_is_kept_whatever_the_rounding() -> None:
    """0.036 / 0.04 is 0.9, and a little less in floating point; the plateau there reaches to alpha = 1."""
    assert 0.036 / 0.04 < 0.9
    forget = probed([[1.0], [0.5], [0.0]], name="forget")
    assert frontier_of(number(0.04, 0.036, 0.036), forget).alpha_at(0.9) == 1.0


def test_a_mixture_without_a_value_keeps_nothing() -> None:
    """A value is lost at the second mixture: alpha stays at the first, and the path says NaN."""
    frontier = frontier_of(probed([[1.0] * 4, [1.0, np.nan, 1.0, 1.0]]), FORGET)
    assert frontier.alpha_at(0.5) == 0.0
    assert np.isnan(frontier.record().path[1].retention)


def test_examples_without_a_value_on_the_original_are_left_out() -> None:
    """The third example has none: means of the first two, and as many clusters."""
    one = probed([[1.0, 0.5, np.nan], [0.5, 0.25, 1.0]], subjects=["a", "b", "c"])
    assert one.means().tolist() == [0.75, 0.375] and one.clusters == 2
    assert Measured.of("made up", [one]).n == 2


def test_draws_of_one_set_are_shared_and_of_another_are_not() -> None:
    """Two metrics' worth of the same examples move together, a number stays, and the least is taken in each draw."""
    rng = np.random.default_rng(0)
    values = [[1.0] * 30, rng.uniform(0.5, 1.0, 30).tolist()]
    one, other = (Measured.of(name, [probed(values, name=name)]) for name in ("one", "other"))

    def drawn(*measures: Measured) -> np.ndarray:
        return RetentionCurve(measures).resampled_ratios(seed=3)[1]

    alone = drawn(one)
    expected = one.inputs[0].resampled_means(seed=3)
    assert alone == pytest.approx(expected[1] / expected[0])
    assert drawn(one, one).tolist() == alone.tolist()
    both = drawn(one, other)
    assert (both <= alone).all() and (both < alone).any()
    second = other.inputs[0].resampled_means(seed=5)  # seed + 1 is the forget set's
    assert both == pytest.approx(np.minimum(alone, second[1] / second[0]))
    assert drawn(one, number(1.0, 0.7)) == pytest.approx(np.minimum(alone, 0.7))


def test_a_utility_by_hand_and_in_draws() -> None:
    """Harmonic means: of 1 and 1, then of 0.5 and 1: 2 / (2 + 1) = 2/3; and 0 where one of them is 0."""
    inputs = [probed([[1.0, 1.0], [0.2, 0.8], [0.0, 0.0]]), probed([[1.0, 1.0]] * 3, name="other")]
    utility = Measured.of("model utility", inputs, average="model_utility")
    assert utility.ratios == pytest.approx([1.0, 2 / 3, 0.0])
    assert utility.n == 4 and not utility.single
    curve = RetentionCurve((utility,))
    assert curve.clusters == 2
    draws = curve.resampled_ratios(seed=0)[1]
    assert set(draws.round(6)) == {round(2 / (1 / m + 1), 6) for m in (0.2, 0.5, 0.8)}


def test_without_values_by_example_alpha_has_no_interval_and_the_score_has() -> None:
    rng = np.random.default_rng(0)
    forget = probed([[1.0] * 20, rng.uniform(0, 1, 20).tolist()], name="forget")
    frontier = frontier_of(number(0.8, 0.4), forget)
    alpha, score = frontier.alpha_estimate(0.75), frontier.estimate(0.75)
    assert np.isnan([alpha.low, alpha.high]).all()
    assert score.low < score.value < score.high and frontier.clusters == 20


def test_the_retention_as_delivered_is_that_of_a_slow_bootstrap() -> None:
    """Two sets of examples, drawn by themselves, one of them with two measures that share its draws; of each draw the
    ratios of averages of repeated examples, and the least of them."""
    rng = np.random.default_rng(1)
    owners = {"retain": [f"s{i % 7}" for i in range(30)], "general": [f"t{i % 9}" for i in range(20)]}

    def measure(name: str, metric: str, *, higher: bool, average: str = "arithmetic") -> Measured:
        ids = tuple(f"{name}{i}" for i in range(len(owners[name])))
        values = rng.uniform(0.2, 2.0, (3, len(ids)))
        probed = ProbedSet(name, metric, np.array([0.0, 0.5, 1.0]), ids, tuple(owners[name]), values)
        return Measured.of(metric, [probed], higher=higher, average=average)

    measures = (
        measure("retain", "score", higher=True),
        measure("retain", "perplexity", higher=False, average="geometric"),
        measure("general", "loss", higher=False),
    )

    def least(chosen: dict[str, list[int]]) -> float:
        ratios = []
        for m in measures:
            (probed,) = m.inputs
            average = (lambda v: np.exp(np.mean(np.log(v)))) if m.average == "geometric" else np.mean
            first, last = (average([probed.values[row][i] for i in chosen[probed.name]]) for row in (0, 2))
            ratios.append(last / first if m.higher else first / last)
        return min(ratios)

    drawn = {}
    for name, seed in (("retain", 4), ("general", 6)):
        names = list(dict.fromkeys(owners[name]))
        counts = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), 1000)
        drawn[name] = [[i for i, s in enumerate(owners[name]) for _ in range(row[names.index(s)])] for row in counts]
    slow = np.array([least({name: rows[draw] for name, rows in drawn.items()}) for draw in range(1000)])
    found = RetentionCurve(measures).delivered(seed=4)
    assert found is not None
    assert found.value == pytest.approx(least({name: list(range(len(s))) for name, s in owners.items()}))
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(slow, clusters=7))


def test_the_retention_as_delivered_without_draws_or_without_that_probe() -> None:
    found = RetentionCurve((number(0.8, 0.4),)).delivered(seed=0)
    assert found is not None and found.value == 0.5 and np.isnan([found.low, found.high]).all()
    original = probed([[1.0] * 5, [0.2] * 5])
    same = RetentionCurve((Measured.of("retain", [probed([[0.3, 0.9, 0.5]] * 2)]),)).delivered(seed=0)
    assert same is not None and (same.value, same.low, same.high) == (1.0, 1.0, 1.0), "the original itself"
    some = ProbedSet("retain", "score", np.array([0.0, 0.5]), original.ids, original.subjects, original.values)
    assert RetentionCurve((Measured.of("retain", [some]),)).delivered(seed=0) is None


@pytest.mark.parametrize("missing", [0, 2])
def test_an_example_without_a_value_is_not_drawn(missing: int) -> None:
    values = np.array([[0.2, 0.4, 0.9, 0.5], [0.1, 0.3, 0.7, 0.5]])
    some = values.copy()
    some[:, missing] = np.nan
    kept = probed(np.delete(values, missing, axis=1).tolist())
    found = probed(some.tolist())
    assert np.array_equal(found.resampled_means(seed=0), kept.resampled_means(seed=0))
    assert np.array_equal(found.means(), kept.means()) and np.isfinite(found.means()).all()


@pytest.mark.filterwarnings("error")
def test_a_forget_set_without_a_scored_example_has_no_score() -> None:
    retain = probed([[1.0] * 5, [0.2, 0.4, 0.9, 0.5, 0.1]])
    frontier = frontier_of(retain, probed([[np.nan] * 3] * 2, name="forget"))
    found = frontier.estimate(0.9)
    assert np.isnan([found.value, found.low, found.high]).all() and np.isnan(frontier.area())
    assert frontier.alpha_estimate(0.9).low > 0


def test_the_confidence_of_two_independent_averages() -> None:
    """0.5 and 0.2 with standard errors 0.3 and 0.4: a gap of 0.6 of its error, by t of 5 - 1 degrees of freedom."""

    def average(mean: float, se: float, clusters: int = 5) -> Aggregate:
        return Aggregate(mean=mean, n=9, clusters=clusters, se=se)

    # the distribution function of t with 4 degrees of freedom, with s = t / sqrt(1 + t^2 / 4)
    s = 0.6 / np.sqrt(1 + 0.6**2 / 4)
    expected = 0.5 + 3 / 8 * s * (1 - s**2 / 12)
    assert confidence_higher(average(0.5, 0.3), average(0.2, 0.4, 9)) == pytest.approx(expected)
    assert confidence_higher(average(0.2, 0.0), average(0.2, 0.0)) == 0.5
    assert confidence_higher(average(0.3, 0.0), average(0.2, 0.0)) == 1.0
    assert np.isnan(confidence_higher(average(0.3, np.nan, 1), average(0.2, 0.1)))
