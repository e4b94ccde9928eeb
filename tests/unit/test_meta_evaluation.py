"""Faithfulness and robustness of metrics in the field's units, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from uwc.meta_evaluation import (
    NO_CHANGE,
    Stressed,
    auc_interval,
    best_threshold,
    evaluate_metric,
    has_ratio,
    mean_over_models,
    meta_evaluation,
    pool_faithfulness,
    published_overall,
    quantization_robustness,
    relearning_robustness,
    remembered,
    symmetric_robustness,
)
from uwc.metrics.suites import metric_info
from uwc.results import MetricInfo

NAN = float("nan")
ES, PPL, KL = (metric_info(name) for name in ("extraction_strength", "perplexity", "kl_to_original"))
ERASED = MetricInfo(
    label="erased", summary="", source="", higher_remembers=False, range=(0.0, 1.0), average="arithmetic"
)


def test_relearning_by_hand() -> None:
    """Retrained rises by 0.3: half of 0.6, three times 0.1; the last three fall, stay, and have no value."""
    before, after = [0.2, 0.2, 0.5, 0.3, 0.3], [0.8, 0.3, 0.4, 0.3, NAN]
    found = relearning_robustness(before, after, retrained_before=0.1, retrained_after=0.4)
    np.testing.assert_allclose(found, [0.5, 1.0, 0.0, 1.0, NAN])
    negated = relearning_robustness(-np.array(before), -np.array(after), retrained_before=-0.1, retrained_after=-0.4)
    np.testing.assert_allclose(negated, found)


def test_relearning_without_a_retrained_value_is_unknown() -> None:
    found = relearning_robustness([0.2], [0.8], retrained_before=NAN, retrained_after=NAN)
    assert np.isnan(found).all()


def test_quantization_by_hand() -> None:
    """Three quarters of 0.4 are left; a rise, and one from 0, lose nothing; a negative value has no share."""
    found = quantization_robustness([0.4, 0.4, 0.0, -1.0, NAN], [0.3, 0.5, 0.2, -0.5, 0.1])
    np.testing.assert_allclose(found, [0.75, 1.0, 1.0, NAN, NAN])


def test_the_other_form_of_quantization_by_hand() -> None:
    """A fall loses nothing; 0.4 is four fifths of 0.5; a rise from 0 keeps nothing, and a fall to 0 all."""
    found = quantization_robustness([0.3, 0.5, 0.2, 0.0, 0.0], [0.4, 0.4, 0.0, 0.2, 0.0])
    np.testing.assert_allclose(found, [1.0, 0.8, 0.0, 1.0, 1.0])


def test_the_symmetric_form_by_hand() -> None:
    """1 - 0.3 / 0.9, either way; changes of opposite sign have nothing in common; no change on both sides is equal."""
    found = symmetric_robustness([0.6, 0.3, -0.2, 0.0, NAN], [0.3, 0.6, 0.2, 0.0, 0.1])
    np.testing.assert_allclose(found, [2 / 3, 2 / 3, 0.0, 1.0, NAN])


@pytest.mark.parametrize(
    ("info", "value", "high", "ratio"),
    [(ES, 0.3, 0.3, True), (ERASED, 0.3, 0.7, True), (PPL, 4.0, 0.25, True), (KL, 0.3, -0.3, False)],
    ids=["as it is", "bounded", "geometric", "unbounded"],
)
def test_values_are_turned_so_that_high_ones_remember(info: MetricInfo, value: float, high: float, ratio: bool) -> None:
    assert float(remembered(value, info)) == pytest.approx(high)
    assert float(remembered(remembered(value, info), info)) == pytest.approx(value)
    assert has_ratio(info) == ratio


def test_a_margin_has_no_ratio_and_an_aggregate_without_direction_is_refused() -> None:
    assert not has_ratio(metric_info("choice_margin"))
    with pytest.raises(ValueError, match="neither high nor low"):
        remembered(0.0, metric_info("privleak"))


def test_the_threshold_by_hand() -> None:
    """0.35 and 0.55 tell five of six right, 0.45 four; the lowest is taken."""
    assert best_threshold([0.9, 0.6, 0.4], [0.1, 0.3, 0.5]) == pytest.approx(0.35)
    assert best_threshold([0.8, 0.6], [0.2, 0.1]) == pytest.approx(0.4)
    assert math.isnan(best_threshold([0.5], [0.5])) and math.isnan(best_threshold([], [0.5]))


def test_no_other_threshold_tells_more_models_right() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        knowing, ignorant = rng.normal(1, 1, 7), rng.normal(0, 1, 5)

        def right(threshold: float, know: np.ndarray = knowing, ignore: np.ndarray = ignorant) -> int:
            return sum(v > threshold for v in know) + sum(v <= threshold for v in ignore)

        values = [*knowing, *ignorant]
        tried = [right(t) for t in np.linspace(min(values), max(values), 2000, endpoint=False)]
        assert right(best_threshold(knowing.tolist(), ignorant.tolist())) >= max(tried)


@pytest.mark.parametrize("auc", [0.0, 0.2, 0.5, 0.8, 0.97, 1.0])
@pytest.mark.parametrize("models", [(2, 2), (6, 6), (30, 12)])
def test_the_interval_of_an_auc_is_that_of_a_fine_grid(auc: float, models: tuple[int, int]) -> None:
    """The variance in the other form in which it is published, on a grid of 200,001 values."""
    m, n = models
    size, z = (m + n) / 2, stats.norm.ppf(0.975)
    grid = np.linspace(0, 1, 200_001)
    variance = grid * (1 - grid) / (m * n) * (2 * size - 1 - (3 * size - 3) / ((2 - grid) * (1 + grid)))
    inside = grid[np.abs(auc - grid) <= z * np.sqrt(variance) + 1e-12]
    low, high = auc_interval(auc, m, n)
    assert (low, high) == pytest.approx((inside.min(), inside.max()), abs=2e-5)
    assert low <= auc <= high and high - low > 0.02


def test_the_interval_of_an_auc_covers_the_truth() -> None:
    """Normal scores one and a half standard deviations apart: the AUC is Phi(1.5 / sqrt(2)) = 0.856."""
    rng, truth = np.random.default_rng(1), float(stats.norm.cdf(1.5 / 2**0.5))
    covered = 0
    for _ in range(300):
        knowing, ignorant = rng.normal(1.5, 1, 8), rng.normal(0, 1, 8)
        auc = float((knowing[:, None] > ignorant).mean())
        low, high = auc_interval(auc, 8, 8)
        covered += low <= truth <= high
    assert 0.92 <= covered / 300 <= 0.99


def test_without_models_there_is_no_interval() -> None:
    assert all(map(math.isnan, auc_interval(0.5, 0, 3))) and all(map(math.isnan, auc_interval(NAN, 3, 3)))


MODELS = [
    Stressed(value=0.3, utility=0.9, relearning=(0.3, 0.6), quantization=(0.3, 0.24)),
    Stressed(value=0.1, utility=0.8, relearning=(0.1, 0.2), quantization=(0.1, 0.2)),
    Stressed(value=0.1, utility=0.79, relearning=(0.1, 0.9), quantization=(0.1, 0.9)),
    Stressed(value=0.5, utility=1.0, relearning=(0.5, 0.9), quantization=(0.5, 0.1)),
]


def mirrored(model: Stressed) -> Stressed:
    r, q = model.relearning, model.quantization
    return Stressed(1 - model.value, model.utility, (1 - r[0], 1 - r[1]), (1 - q[0], 1 - q[1]))


@pytest.mark.parametrize("info", [ES, ERASED], ids=["high remembers", "low remembers"])
def test_a_metric_by_hand(info: MetricInfo) -> None:
    """The threshold is 0.4. The third model has too little utility, the fourth is not unlearned; retrained: +0.2.

    R = (0.2 / 0.3 + 1) / 2, Q = (0.8 + 1) / 2, in its other form (1 + 0.5) / 2; symmetric 1 - 0.1 / 0.5 and
    1 - 0.1 / 0.3, 1 - 0.06 / 0.54 and 1 - 0.1 / 0.3.
    """
    flipped = info is ERASED
    knowing, ignorant = [0.8, 0.6], [0.2, 0.1]
    pools = {
        "knowing": [1 - v for v in knowing] if flipped else knowing,
        "ignorant": [1 - v for v in ignorant] if flipped else ignorant,
    }
    found = evaluate_metric(
        pool_faithfulness("extraction_strength", "forget", info, **pools),
        info,
        [mirrored(model) for model in MODELS] if flipped else MODELS,
        retrained=(0.9, 0.7) if flipped else (0.1, 0.3),
    )
    assert (found.models, found.too_little_utility, found.not_unlearned) == (2, 1, 1)
    assert found.faithfulness.value == 1.0 and 0.0 < found.faithfulness.low < 0.5, "four models say little"
    assert found.threshold == pytest.approx(0.6 if flipped else 0.4)
    r, q = 5 / 6, 0.9
    assert (found.relearning.value, found.quantization.value) == pytest.approx((r, q))
    assert found.robustness == pytest.approx(2 * r * q / (r + q))
    assert found.overall == pytest.approx(0.927835, abs=1e-6)
    assert found.quantization_recovery.value == pytest.approx(0.75)
    assert found.recovery_overall == pytest.approx(2 / (1 + 1 / (2 * r * 0.75 / (r + 0.75))))
    r, q = (0.8 + 2 / 3) / 2, (8 / 9 + 2 / 3) / 2
    assert (found.symmetric_relearning.value, found.symmetric_quantization.value) == pytest.approx((r, q))
    assert found.symmetric_overall == pytest.approx(0.860335, abs=1e-6)
    assert found.published == 0.8746


def test_a_model_that_failed_under_an_attack_is_left_out_of_its_mean_alone() -> None:
    faithful = pool_faithfulness("extraction_strength", "forget", ES, knowing=[0.8, 0.6, NAN], ignorant=[0.2, 0.1])
    assert (faithful.knowing, faithful.ignorant) == (2, 2)
    failed = Stressed(value=0.1, utility=1.0, relearning=NO_CHANGE, quantization=(0.4, 0.3))
    found = evaluate_metric(faithful, ES, [MODELS[0], failed], retrained=(0.1, 0.3))
    assert found.models == 2
    assert (found.relearning.value, found.quantization.value) == pytest.approx((2 / 3, (0.8 + 0.75) / 2))


def test_a_metric_without_a_ratio_has_only_the_symmetric_numbers() -> None:
    faithful = pool_faithfulness("kl_to_original", "forget", KL, knowing=[0.1, 0.2], ignorant=[2.0, 3.0])
    model = Stressed(value=2.0, utility=1.0, relearning=(2.0, 1.0), quantization=(2.0, 1.0))
    found = evaluate_metric(faithful, KL, [model], retrained=(3.0, 2.5))
    assert found.faithfulness.value == 1.0 and found.relearning.value == pytest.approx(0.5)
    assert math.isnan(found.quantization.value) and math.isnan(found.overall)
    assert math.isnan(found.quantization_recovery.value) and math.isnan(found.recovery_overall)
    assert found.symmetric_quantization.value == pytest.approx(2 / 3) and found.symmetric_overall > 0
    assert found.published is None


def test_without_a_threshold_no_model_counts_as_unlearned() -> None:
    faithful = pool_faithfulness("extraction_strength", "forget", ES, knowing=[0.5, 0.5], ignorant=[0.5, 0.5])
    found = evaluate_metric(faithful, ES, MODELS, retrained=(0.1, 0.3))
    assert found.models == 0 and found.not_unlearned == 3 and math.isnan(found.threshold)
    assert found.faithfulness.value == 0.5 and math.isnan(found.overall)


def test_a_mean_over_models_is_bracketed_by_its_interval() -> None:
    found = mean_over_models(np.array([0.2, 0.4, NAN, 0.9]))
    assert found.value == pytest.approx(0.5) and found.low < 0.5 < found.high
    assert math.isnan(mean_over_models(np.array([0.3])).low) and math.isnan(mean_over_models(np.array([NAN])).value)


def test_the_order_is_compared_with_the_published_one() -> None:
    """Published: ES 0.8746, probability 0.7856, EM 0.7818. Here the last two change places: 1 - 6 * 2 / 24."""
    rows = []
    for name, fall in (("probability", 0.5), ("extraction_strength", 0.1), ("exact_memorization", 0.3)):
        faithful = pool_faithfulness(name, "forget", ES, knowing=[0.8, 0.6], ignorant=[0.2, 0.1])
        model = Stressed(value=0.1, utility=1.0, relearning=(0.1, 0.2), quantization=(0.4, 0.4 * (1 - fall)))
        rows.append(evaluate_metric(faithful, ES, [model], retrained=(0.1, 0.2)))
    found = meta_evaluation(rows, relearning="a", quantization="b", utility="c", least_utility=0.8)
    assert [row.metric for row in found.metrics] == ["extraction_strength", "exact_memorization", "probability"]
    assert found.common == 3 and found.spearman == pytest.approx(0.5)
    assert math.isnan(
        meta_evaluation(rows[:2], relearning="a", quantization="b", utility="c", least_utility=0.8).spearman
    )


def test_published_names() -> None:
    assert published_overall("truth_probability", "forget") == 0.5418
    assert published_overall("rouge_l", "forget_paraphrased") == 0.2088
    assert published_overall("uds", "forget") is not None and published_overall("uds", "retain") is None
    assert published_overall("perplexity", "forget") is None
