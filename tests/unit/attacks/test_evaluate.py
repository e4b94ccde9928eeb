"""What an attack is measured by: worst case and mean, divergence, curves over effort."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import noisy
from tests.helpers.hidden_knowledge import OWNED, SCORED, SPOKEN, reluctant

from uwc.attacks.chain import make_chain
from uwc.attacks.data import AttackData
from uwc.attacks.evaluate import (
    _half_recoveries,
    _Measure,
    answer_rows,
    attacked_values,
    budget_curves,
    check_metrics,
    combine,
    curve_chains,
    effort_to_reach,
    load_variants,
    measure,
    metric_values,
    save_variants,
)
from uwc.errors import ConfigError
from uwc.metrics.stats import bootstrap_confidence, bootstrap_interval, draw_blocks
from uwc.models import generation
from uwc.models.model import Model
from uwc.models.selection import Select
from uwc.results import HalfRecovery, ModelKey

Array = NDArray[np.float64]


def test_worst_case_and_mean_by_hand() -> None:
    """NaN is not scored: the worst case and the mean are over the variants that are."""
    values = [np.array([0.2, np.nan, np.nan]), np.array([0.6, 0.4, np.nan])]
    high, mean = combine(values, higher_remembers=True)
    low, _ = combine(values, higher_remembers=False)
    np.testing.assert_array_equal(high, [0.6, 0.4, np.nan])
    np.testing.assert_array_equal(low, [0.2, 0.4, np.nan])
    np.testing.assert_allclose(mean, [0.4, 0.4, np.nan])


def test_the_mean_of_what_spans_magnitudes_is_geometric() -> None:
    """Perplexities 2 and 8 have the mean 4; the worse is the lower."""
    worst, mean = combine([np.array([2.0]), np.array([8.0])], higher_remembers=False, average="geometric")
    assert mean == pytest.approx([4.0]) and worst == [2.0]


@pytest.mark.parametrize(
    ("name", "settings"),
    [("probe", {"epochs": 1, "lr": 1e-3}), ("soft_prompt", {"steps": 1}), ("few_shot", {"shots": 1})],
)
def test_divergence_from_the_original_is_measured_under_attack(
    knowing: Model, name: str, settings: dict[str, Any]
) -> None:
    """A model that was not unlearned does not diverge from itself, unless the attack reads it otherwise."""
    data = AttackData(SCORED, train=OWNED)
    chain = make_chain(name, {name: settings})
    (outcome, *_) = measure(knowing, data, chain, ["kl_to_original", "truth_ratio_forget"], reference=knowing)
    assert outcome.before.mean == 0.0
    assert outcome.after.mean == 0.0 if name == "few_shot" else outcome.after.mean > 0.0
    with pytest.raises(ConfigError, match="needs the original model; give it with --original"):
        measure(knowing, data, chain, ["kl_to_original"])


def test_a_curve_over_samples_never_falls() -> None:
    known = np.ones(len(SCORED))
    (curve,) = budget_curves(
        reluctant(), AttackData(SCORED), "sampling", [4, 1], metric=SPOKEN, original=known, max_new_tokens=24
    )
    assert curve.efforts == (1, 4)
    assert curve.scores[1] >= curve.scores[0] >= 0
    assert curve.half_recovery is not None and 0 < curve.half_recovery.effort <= 4


def test_metrics_of_text_and_of_scores_are_measured_together(knowing: Model) -> None:
    values = metric_values(knowing, SCORED, ["extraction_strength", SPOKEN], max_new_tokens=24)
    assert {name: v.mean() for name, v in values.items()} == pytest.approx({"extraction_strength": 1, SPOKEN: 1})


@pytest.mark.parametrize(
    ("metric", "attack", "message"),
    [
        ("extraction_strength", "sampling", "'sampling' changes only how answers are generated"),
        ("kl_to_original", "probe", "'kl_to_original' needs"),
    ],
)
def test_a_metric_that_cannot_see_an_attack_is_refused(metric: str, attack: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_metrics([metric], [make_chain(attack)])


@pytest.mark.parametrize(
    ("before", "scores", "expected"),
    [(0.0, [0.2, 0.6, 0.9], 3.5), (0.6, [0.7, 0.8, 0.9], 0.0), (0.0, [0.1, 0.2, 0.3], None), (0.0, [0.5, 0, 0], 2.0)],
)
def test_the_effort_to_half_is_interpolated(before: float, scores: list[float], expected: float | None) -> None:
    """Half is 0.5: between effort 2 (0.2) and 4 (0.6) it lies at 2 + 2 * 0.3 / 0.4 = 3.5."""
    found = effort_to_reach(0.5, before, [2, 4, 8], scores)
    assert found == (None if expected is None else pytest.approx(expected))


def half_by_hand(values: Array, efforts: list[float]) -> float:
    """The effort for half of the recovery, from [before, original, each effort] times [E] values; NaN for none."""
    first, last, *rest = values.mean(axis=1)
    places = [i for i, score in enumerate([first, *rest]) if score >= (first + last) / 2]
    if not places:
        return float("nan")
    xs, ys, i = [0.0, *efforts], [first, *rest], places[0]
    return xs[0] if i == 0 else float(np.interp((first + last) / 2, [ys[i - 1], ys[i]], [xs[i - 1], xs[i]]))


def test_half_of_the_recovery_has_an_interval_over_clusters_and_is_compared_with_random(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Six subjects with two questions each. The same numbers from draws of clusters one by one."""
    rng = np.random.default_rng(4)
    efforts, subjects = [2.0, 4.0, 8.0], [str(i // 2) for i in range(12)]
    before, original = rng.uniform(0, 0.2, 12), rng.uniform(0.8, 1, 12)
    rows = {
        rule: [np.clip(level * e / 8 + rng.normal(0, 0.15, 12), 0, 1) for e in efforts]
        for rule, level in (("random", 0.6), ("likelihood", 0.2), ("fisher", 0.9))
    }
    found = _half_recoveries(
        before, original, efforts, list(rows.values()), list(rows), metric="extraction_strength",
        of_set=_Measure(subjects, 0),
    )  # fmt: skip
    counts = np.concatenate([drawn for _, drawn in draw_blocks(6, seed=0, resamples=2000)]).astype(int)
    halves: dict[str, Array] = {}
    for (rule, scores), half in zip(rows.items(), found, strict=True):
        values = np.stack([before, original, *scores])
        drawn = [half_by_hand(values[:, np.repeat(np.arange(12), np.repeat(c, 2))], efforts) for c in counts]
        halves[rule] = np.nan_to_num(np.array(drawn), nan=1e6)
        assert half is not None and half.clusters == 6
        assert half.effort == pytest.approx(half_by_hand(values, efforts), nan_ok=True)
        low, high = bootstrap_interval(halves[rule], clusters=6)
        for ours, theirs in ((half.low, low), (half.high, high)):
            assert ours == pytest.approx(theirs if theirs <= 8 else float("nan"), nan_ok=True)
        assert half.reached == pytest.approx((halves[rule] <= 8).mean())
    random, likelihood, fisher = found
    assert random and likelihood and fisher
    assert np.isnan(random.fewer_than_random) and np.isnan(likelihood.effort) and likelihood.reached < 0.05
    share = (halves["fisher"] < halves["random"]).mean() + (halves["fisher"] == halves["random"]).mean() / 2
    assert fisher.fewer_than_random == pytest.approx(bootstrap_confidence(share, clusters=6, resamples=2000))
    assert fisher.fewer_than_random > 0.9 > 0.1 > likelihood.fewer_than_random


def test_half_of_a_recovery_of_perplexity_is_on_logarithms() -> None:
    """From 64 to 4 the half is 16; 8 examples leave 32 and 16 of them 8: log 16 is halfway between, at 12. Where the
    original is no better, nothing is to be recovered."""

    def half(of_original: float) -> HalfRecovery | None:
        rows = [[np.full(3, 32.0), np.full(3, 8.0)]]
        return _half_recoveries(
            np.full(3, 64.0), np.full(3, of_original), [8, 16], rows, [""], metric="perplexity",
            of_set=_Measure(["", "", ""], 0),
        )[0]  # fmt: skip

    found = half(4.0)
    assert found is not None and (found.effort, found.low, found.high) == pytest.approx((12.0, 12.0, 12.0))
    assert half(64.0) is None and half(90.0) is None


def test_curves_by_rule_are_of_the_chosen_examples(knowing: Model) -> None:
    data, settings = AttackData(SCORED, train=OWNED), {"steps": 2, "lr": 2e-3}
    rules: list[Select] = ["random", "likelihood", "fisher"]
    known = np.ones(len(SCORED))
    curves = budget_curves(
        noisy(knowing), data, "relearn", [1, 2], settings=settings, over="examples", select=rules, original=known
    )
    assert [(c.select, c.over, c.efforts) for c in curves] == [(rule, "examples", (1, 2)) for rule in rules]
    for curve in curves:
        own = budget_curves(
            noisy(knowing), data, "relearn", [1, 2], settings={**settings, "select": curve.select}, over="examples"
        )
        assert own[0].scores == curve.scores and own[0].select == curve.select and own[0].half_recovery is None
        assert curve.half_recovery is not None


def test_a_curve_over_steps_is_one_run_and_over_other_settings_one_each() -> None:
    assert [len(curve_chains("relearn", [4, 1, 2], over=o)[1]) for o in (None, "examples")] == [1, 3]
    (chain,) = curve_chains("relearn", [4, 1, 2])[1]
    assert chain.steps[0].settings["budgets"] == (1, 2, 4) and chain.steps[0].settings["steps"] == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curve_chains("paraphrase", [1]), "has no effort to vary"),
        (lambda: curve_chains("token_noise", []), "at least one effort"),
        (lambda: curve_chains("token_noise", [2.0]), "rate = 2.0"),
    ],
)
def test_bad_curves_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("texts", [True, "all", False])
def test_the_text_of_the_worst_variant_of_each_question_is_kept(
    knowing: Model, texts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[int] = []
    generate = generation.generate

    def counted(model: Model, examples: Any, **options: Any) -> Any:
        asked.append(len(examples))
        return generate(model, examples, **options)

    monkeypatch.setattr(generation, "generate", counted)
    data, chain = AttackData(SCORED), make_chain("jailbreak")
    variants = attacked_values(knowing, data, chain, ["extraction_strength"], max_new_tokens=8, texts=texts)
    values = np.stack([v.values["extraction_strength"] for v in variants])
    kept = [{i for i in v.said if (v.said[i].generated is not None) == bool(texts)} for v in variants]
    if texts == "all":
        assert kept == [set(range(len(SCORED)))] * len(variants)
    else:
        assert kept == [{i for i, n in enumerate(values.argmax(axis=0)) if n == number} for number in range(len(kept))]
    best = np.maximum.accumulate(np.vstack([np.full(len(SCORED), -1.0), values]), axis=0)
    improved = int((values > best[:-1]).sum())
    assert sum(asked) == {True: improved, "all": values.size, False: 0}[texts] and improved < values.size
    save_variants(tmp_path / "attacked.parquet", variants, {"forget": SCORED})
    assert [v.said for v in load_variants(tmp_path / "attacked.parquet")] == [v.said for v in variants]
    rows = answer_rows("jailbreak", variants, {"forget": SCORED}, key=ModelKey(role="original"))
    assert len(rows) == (values.size if texts == "all" else len(SCORED))
    worst = rows.groupby("id", sort=False)["extraction_strength"].max()
    assert worst.tolist() == values.max(axis=0).tolist()


def test_of_several_budgets_only_texts_at_the_largest_are_kept(knowing: Model) -> None:
    chain = make_chain("relearn", {"relearn": {"steps": 2, "budgets": [1, 2], "lr": 1e-3}})
    variants = attacked_values(
        knowing, AttackData(SCORED, train=OWNED), chain, [SPOKEN, "perplexity"], max_new_tokens=8
    )
    assert [len(v.said) for v in variants] == [0, len(SCORED)]
    assert all(said.generated is not None and said.completed_from is None for said in variants[1].said.values())
