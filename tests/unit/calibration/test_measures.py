"""Retention measures: any metric in its direction, several sets, numbers; decided early or whole."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people
from tests.helpers.scores_by_hand import scores

from uwc.calibration.calibrate import calibrate
from uwc.calibration.measures import (
    ExampleMeasure,
    LeastRatio,
    Measure,
    NumberMeasure,
    example_metrics,
    retention_measures,
)
from uwc.calibration.search import Reading, SearchResult, search
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.metrics.likelihood import extraction_strength, probability
from uwc.models.mixing import Mixer
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TokenScores

EXAMPLES = [Example(id=str(i), question=f"q{i}", answer=f"a{i}") for i in range(200)]


def made_up(monkeypatch: pytest.MonkeyPatch, curve: dict[float, np.ndarray]) -> list[int]:
    """Scoring that reads values from a table instead of a model; the model is the alpha. Gives the sizes scored."""
    sizes: list[int] = []

    def measured(model: float, examples: list[Example], _entry: object, **_options: object) -> tuple[np.ndarray, None]:
        sizes.append(len(examples))
        return curve[model][[int(e.id) for e in examples]].copy(), None

    monkeypatch.setattr("uwc.calibration.measures.measured_closely", measured)
    return sizes


def begun(measure: Measure | LeastRatio, tau: float, *, early: bool = True) -> Reading:
    """The reading of the original; made-up models are their alpha."""
    return measure.begin(0.0, tau=tau, early=early)  # type: ignore[arg-type]


def probed(measure: Measure | LeastRatio, alpha: float, *, whole: bool = False) -> Reading:
    return measure.probe(alpha, alpha, whole=whole)  # type: ignore[arg-type]


def searched(measures: list[Measure], tau: float = 0.95) -> SearchResult:
    """A search with the alpha in the model's place."""
    retention = LeastRatio(measures)
    original = begun(retention, tau)
    return search(
        lambda a, whole: probed(retention, a, whole=whole) if a else original, tau=tau, expected=retention.expected
    )


def test_a_number_of_exactly_tau_is_kept() -> None:
    """0.036 is 0.9 of 0.04, though not in binary; 0.0359 is not."""
    for higher, numbers in ((True, (0.04, 0.036, 0.0359)), (False, (0.036, 0.04, 0.0401))):
        measure = NumberMeasure(lambda a, n=numbers: n[int(a)], label="made up", higher=higher)  # type: ignore
        assert begun(measure, 0.9).feasible
        assert [probed(measure, alpha).feasible for alpha in (1.0, 2.0)] == [True, False]


def test_low_perplexity_is_kept_as_the_inverse_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Geometric means 2 and 4: half is kept. At tau 0.5 that is just enough, at 0.51 not."""
    curve = {0.0: np.tile([1.0, 4.0], 100), 1.0: np.tile([2.0, 8.0], 100)}
    for tau, enough in ((0.5, True), (0.51, False)):
        made_up(monkeypatch, curve)
        measure = ExampleMeasure(EXAMPLES, metric="perplexity")
        assert begun(measure, tau).retention == 1.0
        found = probed(measure, 1.0)
        assert found.retention == pytest.approx(0.5)
        assert found.feasible is enough and found.scored == 200  # without bounds: on all examples
        assert measure.measured().values == pytest.approx([2.0, 4.0])


def test_a_low_score_between_0_and_1_is_decided_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forget form of the truth ratio: low remembers. From 0.3 to 0.9, a third is kept: soon clear."""
    made_up(monkeypatch, {0.0: np.full(200, 0.3), 1.0: np.full(200, 0.9)})
    measure = ExampleMeasure(EXAMPLES, metric="truth_ratio_forget")
    begun(measure, 0.9)
    found = probed(measure, 1.0)
    assert not found.feasible and found.retention == pytest.approx(1 / 3) and found.scored < 100


def test_a_decided_probe_is_resumed_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored whole afterwards, each example was scored once, and the ratio is that of all."""
    values = np.random.default_rng(0).uniform(0.2, 0.4, 200)
    sizes = made_up(monkeypatch, {0.0: np.ones(200), 1.0: values})
    measure = ExampleMeasure(EXAMPLES, metric="probability")
    begun(measure, 0.9)
    early = probed(measure, 1.0)
    assert not early.feasible and early.scored == 16  # the first look
    assert early.retention == pytest.approx(0.3, abs=0.03)
    assert measure.measured().alphas.tolist() == [0.0]
    whole = probed(measure, 1.0, whole=True)
    assert whole.retention == values.mean() and whole.scored == 200
    assert sizes[0] == 200 and sum(sizes[1:]) == 200
    found = measure.measured()
    assert found.ratios.tolist() == [1.0, whole.retention] and found.n == 200
    assert found.inputs[0].values[1].tolist() == values.tolist()


def test_examples_without_a_value_on_the_original_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original, mixed = np.ones(200), np.full(200, 0.95)
    original[:50], mixed[:50] = np.nan, np.nan
    made_up(monkeypatch, {0.0: original, 1.0: mixed})
    measure = ExampleMeasure(EXAMPLES, metric="rouge_l")
    assert begun(measure, 0.9).of == 150
    assert probed(measure, 1.0, whole=True).retention == pytest.approx(0.95)
    assert measure.measured().n == 150
    mixed[120] = np.nan  # a value is lost on the way: logits that are not finite
    measure = ExampleMeasure(EXAMPLES, metric="rouge_l")
    begun(measure, 0.9)
    assert not probed(measure, 1.0, whole=True).feasible


@pytest.mark.parametrize("score", [0.0, 0.01, math.nan])
def test_an_original_that_knows_next_to_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    made_up(monkeypatch, {0.0: np.full(200, score)})
    with pytest.raises(UserError, match=r"meaningless: .*the maths data"):
        begun(ExampleMeasure(EXAMPLES, metric="probability", name="maths"), 0.9)


def test_an_original_that_knows_little_is_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    for score, doubted in ((0.15, True), (0.25, False)):
        made_up(monkeypatch, {0.0: np.full(200, score)})
        measure = ExampleMeasure(EXAMPLES, metric="probability", name="maths")
        assert begun(measure, 0.9).feasible
        assert ("scores only 0.15 (probability) on the maths data" in measure.doubt) is doubted


def test_a_metric_without_a_direction_or_with_a_second_model_is_refused() -> None:
    for metric in ("kl_to_original", "semantic_similarity", "mia_min_k_plus_plus", "nothing"):
        with pytest.raises(ConfigError, match="unknown retention metric"):
            ExampleMeasure(EXAMPLES, metric=metric)
    assert {"rouge_l", "perplexity", "truth_ratio_utility", "extraction_strength"} <= set(example_metrics())


def test_all_measures_must_keep_tau() -> None:
    """Retention 1 - alpha on one, 1 - alpha^2 on the other, and a loss that grows as 1 / (1 - alpha / 2): the least
    ratio decides, and measures after the first that is lost are not asked."""
    asked: list[float] = []
    functions = (lambda a: 1 - a, lambda a: asked.append(a) or 2 * (1 - a**2))
    measures: list[Measure] = [NumberMeasure(f, label=str(i)) for i, f in enumerate(functions)]  # type: ignore[arg-type]
    measures.append(NumberMeasure(lambda a: 1 / (1 - a / 2), label="loss", higher=False))  # type: ignore[arg-type,operator]
    found = searched(measures, tau=0.6)
    assert math.isnan(LeastRatio(measures).expected(0.5))  # of numbers nothing is expected
    assert 0.4 - 1 / 128 <= found.alpha <= 0.4
    assert max(asked) <= 0.4
    ratios = [m.measured().ratios[m.measured().alphas == found.alpha][0] for m in measures]
    assert ratios == pytest.approx([1 - found.alpha, 1 - found.alpha**2, 1 - found.alpha / 2])


def test_a_number_that_is_0_on_the_original_is_refused() -> None:
    with pytest.raises(UserError, match="the original model itself scores 0 on mmlu"):
        begun(NumberMeasure(lambda _: 0.0, label="mmlu"), 0.9)


def test_without_any_measure_there_is_no_constraint() -> None:
    with pytest.raises(ConfigError, match="needs a retention constraint; give --retain, or tasks"):
        retention_measures({}, metric="extraction_strength", keep=())


def noisy(knowing: Model) -> Model:
    model = copied(knowing)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.slow
def test_early_and_whole_probes_end_at_the_same_alpha(knowing: Model) -> None:
    """Retention as probability over many questions; the early search scores less, and keeps tau all the same."""
    examples = people(4) * 8
    many = [Example(id=str(i), question=e.question, answer=e.answer) for i, e in enumerate(examples)]
    early, whole = (
        calibrate(
            Mixer(knowing, noisy(knowing)),
            [ExampleMeasure(many, metric="probability")],
            {"forget": people(2)},
            tau=0.8,
            metric="probability",
            curve=curve,
        )
        for curve in (False, True)
    )
    assert abs(early.alpha - whole.alpha) <= 1 / 128
    assert early.search.passes < 9 and any(p.scored < p.of for p in early.search.probes)
    assert all(p.scored == p.of for p in whole.search.probes)
    assert {k / 8 for k in range(9)} <= set(whole.frontiers["forget"].alphas)
    mixed = Mixer(knowing, noisy(knowing)).mix(early.alpha)
    again = score_tokens(mixed, many)
    (kept,) = early.record().kept
    assert probability(again).mean() == pytest.approx(kept.value, abs=1e-6)
    assert kept.ratio == kept.value / kept.original >= 0.8


def test_a_generated_score_can_be_kept(knowing: Model) -> None:
    """ROUGE-L needs generation; the original answers by heart and the mixture still does at 80 %."""
    retain = ExampleMeasure(people(4)[:4], metric="rouge_l", max_new_tokens=24)
    found = calibrate(
        Mixer(knowing, noisy(knowing)), [retain], {"forget": people(4)[4:]}, tau=0.8, resolution=1 / 16, curve=False
    )
    (kept,) = found.record().kept
    assert kept.original > 0.9
    assert kept.ratio >= 0.8 and 0 < found.alpha < 1
    assert found.metric == "extraction_strength" and list(found.forget) == ["forget"]


def test_those_that_lost_most_are_scored_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the examples carries the loss. Once that is known from 0.5, a quarter and that tenth are enough to
    be certain at 0.4, where the mean is 0.005 below what is asked for; in random order it takes nearly all."""
    lost = np.arange(200) % 10 == 3
    curve = {a: np.where(lost, 1 - loss, 1.0) for a, loss in ((0.0, 0.0), (0.5, 1.0), (0.4, 0.55))}
    made_up(monkeypatch, curve)
    for known, most in ((False, 200), (True, 81)):  # 81 is a look
        measure = ExampleMeasure(EXAMPLES, metric="probability")
        begun(measure, 0.95)
        if known:
            probed(measure, 0.5, whole=True)
        found = probed(measure, 0.4)
        assert not found.feasible and found.scored <= most
        assert known or found.scored > 150


@pytest.mark.slow
@pytest.mark.parametrize("size", [100, 400])
def test_falling_curves_of_many_examples_take_few_passes(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Each example falls from its own alpha on; twenty such sets: never more than 9 passes, the original's among them,
    and on average 7 with 100 examples, 6 with 400, where bisection takes 9; the answer holds on all examples."""
    examples = [Example(id=str(i), question="q", answer="a") for i in range(size)]
    passes = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        start = np.clip(random.normal(random.uniform(0.05, 1.0), random.uniform(0.05, 0.4), size), 0.001, None)
        speed = random.uniform(3, 12, size)

        def values(alpha: float, start: np.ndarray = start, speed: np.ndarray = speed) -> np.ndarray:
            return np.clip(1 - np.maximum(alpha - start, 0) * speed, 0, 1)

        def measured(
            model: float, asked: list[Example], _entry: object, values: Callable = values, **_: object
        ) -> tuple[np.ndarray, None]:
            return values(model)[[int(e.id) for e in asked]], None

        monkeypatch.setattr("uwc.calibration.measures.measured_closely", measured)
        found = searched([ExampleMeasure(examples, metric="extraction_strength")])
        passes.append(found.passes)
        assert values(found.alpha).mean() >= 0.95
        assert found.alpha == 1 or values(found.upper).mean() < 0.95
        assert found.upper - found.alpha <= 2 / 128 or found.alpha == 1
    assert max(passes) <= 9
    assert np.mean(passes) <= (7 if size == 100 else 6)


@pytest.mark.slow
def test_a_curve_whose_tokens_are_followed_takes_fewer_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 answers of 12 tokens, each of which leads by its own amount and loses its own in alpha to some power between
    1 and 2.2; eight such sets. No probe is decided wrongly, alpha is found to the step, and after the original's
    pass fewer than 3.5 are taken on average, two of which whole ones cannot do without."""
    examples, tokens = [Example(id=str(i), question="q", answer="a") for i in range(300)], 12
    passes = []
    for seed in range(8):
        random = np.random.default_rng(seed)
        lead = random.gamma(4.0, 1.0, (300, tokens)).astype(np.float32)
        loss = np.clip(random.normal(random.uniform(2, 5), 2.0, (300, 1)), 0, None) * random.gamma(2, 0.5, lead.shape)
        power = random.uniform(1, 2.2)

        def scored(alpha: float, lead: np.ndarray = lead, loss: np.ndarray = loss, power: float = power) -> TokenScores:
            now = (lead - alpha**power * loss).astype(np.float32)
            found = scores(
                np.minimum(now - 9, 0).tolist(), greedy=["".join("01"[int(x > 0)] for x in row) for row in now]
            )
            return replace(found, margin=now.ravel())

        def measured(
            model: float, asked: list[Example], entry: Any, scored: Callable = scored, **_: object
        ) -> tuple[np.ndarray, TokenScores]:
            found = scored(model).select([int(e.id) for e in asked])
            return entry.function(found), found

        monkeypatch.setattr("uwc.calibration.measures.measured_closely", measured)
        found = searched([ExampleMeasure(examples, metric="extraction_strength")])
        assert 0 < found.alpha < 1 and found.upper - found.alpha == 1 / 128
        for probe in found.probes:
            assert probe.feasible == (extraction_strength(scored(probe.alpha)).mean() >= 0.95)
        passes.append(found.passes)
    assert max(passes) <= 9
    assert np.mean(passes) <= 4.5


def test_of_several_measures_the_least_ratio_is_expected(knowing: Model) -> None:
    """At 1 all is known: what is expected there is the least of the ratios, and at 0 it is 1."""
    sets = {"one": people(4)[:4], "two": people(4)[4:]}
    retention = LeastRatio([ExampleMeasure(e, metric="probability", name=n) for n, e in sets.items()])
    retention.begin(knowing, tau=0.8, early=True)
    found = retention.probe(noisy(knowing), 1.0, whole=True)
    assert retention.expected(1.0) == pytest.approx(found.retention, abs=1e-6)
    assert retention.expected(0.0) == pytest.approx(1.0, abs=1e-6)
    assert found.retention < retention.expected(0.5) < 1
