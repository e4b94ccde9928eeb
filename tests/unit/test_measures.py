"""What calibration holds fixed: any metric in its direction, several sets, numbers; decided early or whole."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import copied, people
from tests.unit.scores_by_hand import scores
from uwc.calibration.example_measure import ExampleMeasure, example_metrics
from uwc.calibration.retention import NumberMeasure, Retention

from uwc.calibration.calibrate import calibrate, calibrate_mixing
from uwc.calibration.search import SearchResult, search
from uwc.data.example import Example
from uwc.errors import ConfigError, UserError
from uwc.metrics.memorization import extraction_strength
from uwc.models.mixing import Mixer
from uwc.models.target import Target
from uwc.models.token_scores import TokenScores

EXAMPLES = [Example(id=str(i), question=f"q{i}", answer=f"a{i}") for i in range(200)]


def made_up(monkeypatch: pytest.MonkeyPatch, curve: dict[float, np.ndarray]) -> list[int]:
    """Scoring that reads values from a table instead of a model; the target is the alpha. Gives the sizes scored."""
    sizes: list[int] = []

    def measured(target: float, examples: list[Example], _entry: object, **_options: object) -> tuple[np.ndarray, None]:
        sizes.append(len(examples))
        return curve[target][[int(e.id) for e in examples]].copy(), None

    monkeypatch.setattr("uwc.calibration.example_measure.measured_closely", measured)
    return sizes


def searched(examples: list[Example]) -> SearchResult:
    """A search that holds extraction strength fixed at tau 0.95, with the alpha in the target's place."""
    retention = Retention([ExampleMeasure(examples, metric="extraction_strength", tau=0.95)], tau=0.95)
    retention.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
    return search(
        lambda a, whole: retention.probe(a, a, whole=whole),  # type: ignore[arg-type]
        threshold=retention.threshold, expected=retention.expected,
    )  # fmt: skip


def test_a_number_of_exactly_tau_is_kept() -> None:
    """0.036 is 0.9 of 0.04, though not in binary; 0.0359 is not."""
    for higher, numbers in ((True, (0.04, 0.036, 0.0359)), (False, (0.036, 0.04, 0.0401))):
        measure = NumberMeasure(lambda target: target, tau=0.9, label="made up", higher=higher)  # type: ignore
        kept = [measure.probe(s, a, whole=True).feasible for a, s in enumerate(numbers)]  # type: ignore[arg-type]
        assert kept == [True, True, False]


def test_low_perplexity_is_kept_as_the_inverse_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Geometric means 2 and 4: half is kept. At tau 0.5 that is just enough, at 0.51 not."""
    curve = {0.0: np.tile([1.0, 4.0], 100), 1.0: np.tile([2.0, 8.0], 100)}
    for tau, enough in ((0.5, True), (0.51, False)):
        made_up(monkeypatch, curve)
        measure = ExampleMeasure(EXAMPLES, metric="perplexity", tau=tau)
        assert measure.probe(0.0, 0.0, whole=True).score == pytest.approx(2.0)  # type: ignore[arg-type]
        kept = measure.probe(1.0, 1.0, whole=False)  # type: ignore[arg-type]
        assert kept.share == pytest.approx(0.5) and kept.score == pytest.approx(4.0)
        assert kept.feasible is enough and kept.scored == 200  # without bounds: on all examples


def test_a_low_score_between_0_and_1_is_decided_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forget form of the truth ratio: low remembers. From 0.3 to 0.9, a third is kept: soon clear."""
    made_up(monkeypatch, {0.0: np.full(200, 0.3), 1.0: np.full(200, 0.9)})
    measure = ExampleMeasure(EXAMPLES, metric="truth_ratio_forget", tau=0.9)
    measure.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
    kept = measure.probe(1.0, 1.0, whole=False)  # type: ignore[arg-type]
    assert not kept.feasible and kept.share == pytest.approx(1 / 3) and kept.scored < 100


def test_a_decided_probe_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored whole afterwards, each example was scored once, and the score is the mean over all."""
    values = np.random.default_rng(0).uniform(0.2, 0.4, 200)
    sizes = made_up(monkeypatch, {0.0: np.ones(200), 1.0: values})
    measure = ExampleMeasure(EXAMPLES, metric="probability", tau=0.9)
    measure.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
    early = measure.probe(1.0, 1.0, whole=False)  # type: ignore[arg-type]
    assert not early.feasible and early.scored == 16  # the first look
    assert early.score == pytest.approx(0.3, abs=0.03)
    whole = measure.probe(1.0, 1.0, whole=True)  # type: ignore[arg-type]
    assert whole.score == values.mean() and whole.scored == 200
    assert sizes[0] == 200 and sum(sizes[1:]) == 200
    assert measure.values_at(1.0).tolist() == values.tolist()


def test_examples_without_a_value_on_the_original_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    original, mixed = np.ones(200), np.full(200, 0.95)
    original[:50], mixed[:50] = np.nan, np.nan
    made_up(monkeypatch, {0.0: original, 1.0: mixed})
    measure = ExampleMeasure(EXAMPLES, metric="rouge_l", tau=0.9)
    assert measure.probe(0.0, 0.0, whole=True).of == 150  # type: ignore[arg-type]
    assert measure.probe(1.0, 1.0, whole=True).score == pytest.approx(0.95)  # type: ignore[arg-type]
    mixed[120] = np.nan  # a value is lost on the way: logits that are not finite
    measure = ExampleMeasure(EXAMPLES, metric="rouge_l", tau=0.9)
    measure.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
    assert not measure.probe(1.0, 1.0, whole=True).feasible  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [0.0, 0.01, math.nan])
def test_an_original_that_knows_next_to_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, score: float) -> None:
    made_up(monkeypatch, {0.0: np.full(200, score)})
    with pytest.raises(UserError, match=r"meaningless: the original model itself scores .* on the maths data"):
        ExampleMeasure(EXAMPLES, metric="probability", tau=0.9, name="maths").probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]


def test_a_metric_without_a_direction_or_with_a_second_model_is_refused() -> None:
    for metric in ("kl_to_original", "semantic_similarity", "mia_min_k_plus_plus", "nothing"):
        with pytest.raises(ConfigError, match="unknown metric to hold fixed"):
            ExampleMeasure(EXAMPLES, metric=metric, tau=0.9)
    assert {"rouge_l", "perplexity", "truth_ratio_utility", "extraction_strength"} <= set(example_metrics())


def test_all_measures_must_keep_tau() -> None:
    """Retention 1 - alpha on one, 1 - alpha^2 on the other, and a loss that grows as 1 / (1 - alpha / 2): the least
    share decides, and measures after the first that is lost are not asked."""
    asked: list[float] = []
    functions = (lambda a: 1 - a, lambda a: asked.append(a) or 2 * (1 - a**2))
    measures = [NumberMeasure(f, tau=0.6, label=str(i)) for i, f in enumerate(functions)]  # type: ignore[arg-type]
    measures.append(NumberMeasure(lambda a: 1 / (1 - a / 2), tau=0.6, label="loss", higher=False))  # type: ignore[arg-type]
    retention = Retention(measures, tau=0.6)
    retention.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
    found = search(lambda a, whole: retention.probe(a, a, whole=whole), threshold=retention.threshold)  # type: ignore[arg-type]
    assert retention.threshold == 0.6
    assert math.isnan(retention.expected(0.5))  # of numbers nothing is expected
    assert 0.4 - 1 / 128 <= found.alpha <= 0.4
    assert max(asked) <= 0.4
    shares = [row["share"] for row in retention.record(found.alpha)]
    assert shares == pytest.approx([1 - found.alpha, 1 - found.alpha**2, 1 - found.alpha / 2])


def test_a_number_that_is_0_on_the_original_is_refused() -> None:
    with pytest.raises(UserError, match="the original model itself scores 0 on mmlu"):
        NumberMeasure(lambda _: 0.0, tau=0.9, label="mmlu").probe(None, 0.0, whole=True)  # type: ignore[arg-type]


def noisy(knowing: Target) -> Target:
    target = copied(knowing)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in target.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return target


def test_early_and_whole_probes_end_at_the_same_alpha(knowing: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention as probability over many questions; the early search scores less, and keeps what it promises."""
    examples = people(4) * 8
    many = [Example(id=str(i), question=e.question, answer=e.answer) for i, e in enumerate(examples)]
    forget = people(2)
    early, mixed = calibrate(knowing, noisy(knowing), retain=many, forget=forget, tau=0.8, metric="probability")
    whole, _ = calibrate(knowing, noisy(knowing), retain=many, forget=forget, tau=0.8, metric="probability", curve=True)
    assert abs(early.alpha - whole.alpha) <= 1 / 128
    assert early.search.passes < 9 and any(p.scored < p.of for p in early.search.probes)
    assert all(p.scored == p.of for p in whole.search.probes)
    assert early.alphas == (early.alpha,) and set(early.probed) == {"retain", "forget"}
    assert {k / 8 for k in range(9)} <= set(whole.alphas)
    again = ExampleMeasure(many, metric="probability", tau=0.8).probe(mixed, 0.0, whole=True)
    assert again.score == pytest.approx(early.search.retain, abs=1e-6) and again.score >= early.search.threshold


def test_a_generated_score_can_be_held_fixed(knowing: Target) -> None:
    """ROUGE-L needs generation; the original answers by heart and the mixture still does at 80 %."""
    retain = ExampleMeasure(people(4)[:4], metric="rouge_l", tau=0.8, max_new_tokens=24)
    found, _ = calibrate_mixing(
        Mixer(knowing, noisy(knowing)), [retain], sets={"forget": people(4)[4:]}, tau=0.8, resolution=1 / 16
    )
    assert found.kept[0]["original"] > 0.9
    assert found.kept[0]["share"] >= 0.8 and 0 < found.alpha < 1
    assert found.metric == "extraction_strength" and set(found.probed) == {"forget"}


def test_forget_data_that_the_original_does_not_know_are_warned_about(
    knowing: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = [Example(id=f"u{i}", question=e.question, answer=e.answer) for i, e in enumerate(people()[-4:])]
    calibrate(knowing, noisy(knowing), retain=people(4)[:2], forget=unknown, tau=0.8, resolution=1 / 4)
    assert "on the forget data: there is nothing to forget" in " ".join(capsys.readouterr().err.split())


def test_those_that_lost_most_are_scored_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the examples carries the loss. Once that is known from 0.5, a quarter and that tenth are enough to
    be certain at 0.4, where the mean is 0.005 below what is asked for; in random order it takes nearly all."""
    lost = np.arange(200) % 10 == 3
    curve = {a: np.where(lost, 1 - loss, 1.0) for a, loss in ((0.0, 0.0), (0.5, 1.0), (0.4, 0.55))}
    made_up(monkeypatch, curve)
    for known, most in ((False, 200), (True, 81)):  # 81 is a look
        measure = ExampleMeasure(EXAMPLES, metric="probability", tau=0.95)
        measure.probe(0.0, 0.0, whole=True)  # type: ignore[arg-type]
        if known:
            measure.probe(0.5, 0.5, whole=True)  # type: ignore[arg-type]
        kept = measure.probe(0.4, 0.4, whole=False)  # type: ignore[arg-type]
        assert not kept.feasible and kept.scored <= most
        assert known or kept.scored > 150


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
            target: float, asked: list[Example], _entry: object, values: Callable = values, **_: object
        ) -> tuple[np.ndarray, None]:
            return values(target)[[int(e.id) for e in asked]], None

        monkeypatch.setattr("uwc.calibration.example_measure.measured_closely", measured)
        found = searched(examples)
        passes.append(found.passes)
        assert values(found.alpha).mean() >= 0.95 == found.threshold
        assert found.alpha == 1 or values(found.upper).mean() < 0.95
        assert found.upper - found.alpha <= 2 / 128 or found.alpha == 1
    assert max(passes) <= 9
    assert np.mean(passes) <= (7 if size == 100 else 6)


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
            target: float, asked: list[Example], entry: Any, scored: Callable = scored, **_: object
        ) -> tuple[np.ndarray, TokenScores]:
            found = scored(target).select([int(e.id) for e in asked])
            return entry.function(found), found

        monkeypatch.setattr("uwc.calibration.example_measure.measured_closely", measured)
        found = searched(examples)
        assert 0 < found.alpha < 1 and found.upper - found.alpha == 1 / 128
        for probe in found.probes:
            assert probe.feasible == (extraction_strength(scored(probe.alpha)).mean() >= 0.95)
        passes.append(found.passes)
    assert max(passes) <= 9
    assert np.mean(passes) <= 4.5


def test_of_several_measures_the_least_share_is_expected(knowing: Target) -> None:
    """At 1 all is known: what is expected there is the least of the shares kept, and at 0 it is 1."""
    sets = {"one": people(4)[:4], "two": people(4)[4:]}
    retention = Retention([ExampleMeasure(e, metric="probability", tau=0.8, name=n) for n, e in sets.items()], tau=0.8)
    retention.probe(knowing, 0.0, whole=True)
    found = retention.probe(noisy(knowing), 1.0, whole=True)
    assert retention.expected(1.0) == pytest.approx(found.retain, abs=1e-6)
    assert retention.expected(0.0) == pytest.approx(1.0, abs=1e-6)
    assert found.retain < retention.expected(0.5) < 1
