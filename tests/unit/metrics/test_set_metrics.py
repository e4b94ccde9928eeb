"""Numbers for whole sets, by hand, and their spread."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from uwc.data.example import Example
from uwc.errors import DataError
from uwc.metrics.set_metrics import (
    auc,
    forget_quality,
    harmonic_mean,
    model_utility,
    privleak,
    tpr_1_in_100,
    tpr_1_in_1000,
    true_positive_rate,
)
from uwc.metrics.stats import aggregate_sets, paired_difference
from uwc.metrics.suites import rate_warnings


def test_auc_counts_pairs_and_half_of_ties() -> None:
    """Members 1, 2, 2; others 2, 3. Of 6 pairs 4 are ordered (1-2, 1-3, 2-3, 2-3) and 2 tied: (4 + 1) / 6."""
    assert auc(np.array([1.0, 2.0, 2.0]), np.array([2.0, 3.0])) == pytest.approx(5 / 6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
def test_auc_is_the_slow_definition(members: list[int], others: list[int]) -> None:
    slow = np.mean([(o > m) + 0.5 * (o == m) for o in others for m in members])
    found = auc(np.array(members, float), np.array(others, float))
    assert found == pytest.approx(slow)
    scipys = stats.mannwhitneyu(others, members, method="asymptotic").statistic / (len(members) * len(others))
    assert found == scipys


def test_the_true_positive_rate_counts_members_below_the_lowest_other_that_may_not_be_taken() -> None:
    """Others 1..100 and members 0.5, 1, 1.5, 2, 3. One false positive (1) is allowed: members below 2 are 0.5, 1, 1.5,
    so 3 / 5; the member at 2 ties with the second false positive. None is allowed at 0.1 %: only 0.5 is below 1."""
    others, members = np.arange(1.0, 101.0), np.array([0.5, 1.0, 1.5, 2.0, 3.0])
    assert tpr_1_in_100(members, others) == pytest.approx(3 / 5)
    assert tpr_1_in_1000(members, others) == pytest.approx(1 / 5)
    """Of 99 others none is allowed at 1 %; at a bound of 1 all are, so that every member is found."""
    assert tpr_1_in_100(members, others[:99]) == pytest.approx(1 / 5)
    assert true_positive_rate(members + 200, others, bound=1.0) == 1.0


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.3, 0.5, 1.0]),
)
def test_the_true_positive_rate_is_the_slow_definition(members: list[int], others: list[int], bound: float) -> None:
    """All thresholds that differ, the highest rate among those within the bound."""
    rates = [
        sum(m <= t for m in members) / len(members)
        for t in range(-1, 10)
        if sum(o <= t for o in others) <= bound * len(others) + 1e-9
    ]
    assert true_positive_rate(np.array(members, float), np.array(others, float), bound=bound) == max(rates)


def test_a_bound_that_allows_no_false_positive_is_told() -> None:
    names = ["tpr_1_in_100_loss", "tpr_1_in_1000_loss", "auc_loss", "extraction_strength"]
    holdout = [Example(id=str(i), question=f"{i}?", answer="a") for i in range(999)]
    found = rate_warnings({"holdout": holdout}, names)
    assert [warning.code for warning in found] == ["few_for_rate"]
    assert "999" in found[0].text and "0.1%" in found[0].text
    assert len(rate_warnings({"holdout": holdout[:99]}, names)) == 2
    assert not rate_warnings({"holdout": holdout}, names[:1])


def test_privleak_by_hand() -> None:
    """AUC 1 against the default 1/2: (0 - 1/2) / (1/2) = -100 %. AUC 0: +100 %. The same as the retrained one: 0."""
    low, high = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    assert privleak(low, high) == pytest.approx(-100.0)
    assert privleak(high, low) == pytest.approx(100.0)
    mixed = np.array([1.0, 2.0, 3.0]), np.array([2.5, 0.5])
    assert privleak(*mixed, *mixed) == pytest.approx(0.0)
    """AUC 0 against a retrained AUC of 1/3: (1 - 2/3) / (2/3)."""
    retrained = np.array([1.0, 2.0, 3.0]), np.array([1.5])
    assert privleak(high, low, *retrained) == pytest.approx(50.0)


def test_forget_quality_is_the_two_sample_ks_test() -> None:
    """Two disjoint samples of 3: the largest gap is 1, reached by 2 of the C(6,3) = 20 orders: p = 0.1. Equal: 1."""
    low, high = np.array([0.1, 0.2, 0.3]), np.array([0.7, 0.8, 0.9])
    assert forget_quality(low, high) == pytest.approx(0.1)
    assert forget_quality(low, low) == 1.0


def test_forget_quality_does_not_depend_on_the_form_of_the_ratio() -> None:
    random = np.random.default_rng(1)
    a, b = random.lognormal(0, 1, 50), random.lognormal(0.4, 1, 50)
    assert forget_quality(a, b) == pytest.approx(forget_quality(1 / a, 1 / b))


def test_model_utility_is_the_harmonic_mean_of_nine_means() -> None:
    """Eight means of 1/2 and one of 1/4: 9 / (16 + 4) = 0.45. One mean of 0 gives 0."""
    half = np.array([0.25, 0.75])
    assert model_utility(*[half] * 8, np.array([0.0, 0.5])) == pytest.approx(0.45)
    assert model_utility(*[half] * 8, np.zeros(3)) == 0.0
    assert harmonic_mean([1.0, 1 / 3]) == pytest.approx(0.5)


def test_a_set_metric_has_a_count_an_error_and_an_interval() -> None:
    random = np.random.default_rng(0)
    members, others = random.normal(0, 1, 80), random.normal(1, 1, 80)
    result = aggregate_sets(auc, [members, others], [[""] * 80] * 2, groups=["forget", "holdout"], seed=1)
    assert (result.n, result.not_scored, result.clusters) == (160, 0, 160)
    assert result.low < result.mean == auc(members, others) < result.high
    """Hanley and McNeil 1982: for normal scores a standard error of about 0.034 at this AUC."""
    assert result.se == pytest.approx(0.034, abs=0.01)


def test_values_that_are_missing_are_counted() -> None:
    values = [np.array([1.0, np.nan, 2.0]), np.array([3.0, 4.0])]
    result = aggregate_sets(auc, values, [[""] * 3, [""] * 2], groups=["forget", "holdout"])
    assert (result.mean, result.not_scored) == (1.0, 1)


def test_an_argument_without_values_gives_none() -> None:
    result = aggregate_sets(auc, [np.array([np.nan]), np.array([1.0])], [[""], [""]], groups=["forget", "holdout"])
    assert np.isnan(result.mean)


def test_arguments_of_one_set_are_drawn_together() -> None:
    """The difference of two identical columns of one set is 0 in every draw; drawn apart it would not be."""
    column = np.random.default_rng(0).random(30)
    result = aggregate_sets(
        lambda a, b: float(a.mean() - b.mean()), [column, column], [[""] * 30] * 2, groups=["forget", "forget"]
    )
    assert (result.mean, result.se, result.low, result.high) == (0.0, 0.0, 0.0, 0.0)


def test_clusters_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).random(20), 10)
    alone = aggregate_sets(np.mean, [values], [[""] * 200], groups=["forget"])
    shared = aggregate_sets(np.mean, [values], [[str(i // 10) for i in range(200)]], groups=["forget"])
    assert shared.se > 2 * alone.se


def test_paired_difference_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, se = 1 / sqrt(3), t = 2 sqrt(3) with 2 degrees of freedom."""
    first, second = np.array([10.0, 20.0, 30.0]), np.array([11.0, 22.0, 33.0])
    paired = paired_difference(first, second, ["", "", ""])
    assert paired.mean == pytest.approx(2.0) and paired.kind == "difference"
    assert paired.se == pytest.approx(3**-0.5)
    assert paired.p_value == pytest.approx(stats.ttest_rel(second, first).pvalue)


def test_pairing_beats_two_means_and_counts_what_is_missing() -> None:
    random = np.random.default_rng(0)
    first = random.normal(0, 10, 50)
    second = first + 1 + random.normal(0, 0.1, 50)
    second[0] = np.nan
    paired = paired_difference(first, second, [""] * 50)
    assert (paired.n, paired.not_scored) == (49, 1)
    assert paired.se < 0.1 < first.std() / 50**0.5
    assert paired.p_value < 1e-10


def test_a_geometric_difference_is_a_ratio() -> None:
    paired = paired_difference(np.array([1.0, 10.0]), np.array([2.0, 20.0]), ["", ""], average="geometric")
    assert paired.mean == pytest.approx(2.0) and paired.kind == "ratio"


def test_no_difference_at_all_has_a_p_value_of_one() -> None:
    assert paired_difference(np.ones(4), np.ones(4), [""] * 4).p_value == 1.0


def test_other_examples_cannot_be_paired() -> None:
    with pytest.raises(DataError, match="score both models on the same examples"):
        paired_difference(np.ones(3), np.ones(4), [""] * 3)
