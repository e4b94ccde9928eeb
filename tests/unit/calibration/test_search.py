"""The search for alpha: on curves given as functions, decided early, and with expected scores."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import people
from tests.helpers.scores_by_hand import scores
from tests.helpers.tiles import statistics

from uwc.calibration.search import Expectation, MeanTest, Path, Reading, SearchResult, looks, passes_of, search
from uwc.data.batches import collate
from uwc.metrics.registry import metrics
from uwc.models.head import answer_logits
from uwc.models.model import Model
from uwc.models.scoring import score_tokens
from uwc.models.token_scores import TOKEN_COLUMNS, TokenScores


def largest_alpha(curve: Callable[[float], float], *, tau: float, **options: Any) -> SearchResult:
    """The search on a curve of some value: a mixture is feasible if it has tau of the value at 0."""
    original = curve(0.0)

    def gauge(alpha: float, *, whole: bool) -> Reading:
        value = original if alpha == 0 else curve(alpha)
        return Reading(value / original, value >= tau * original)

    return search(gauge, tau=tau, **options)


def retention(found: SearchResult) -> float:
    return next(p.retention for p in found.probes if p.alpha == found.alpha)


def test_monotone_curve_is_found_to_the_resolution() -> None:
    """Retention 1 - alpha, tau 0.6: the answer is 0.4."""
    found = largest_alpha(lambda a: 1 - a, tau=0.6)
    assert 0.4 - 1 / 128 <= found.alpha <= 0.4
    assert found.monotone


def test_both_ends_are_checked_first() -> None:
    asked: list[float] = []

    def measure(alpha: float) -> float:
        asked.append(alpha)
        return 1.0

    found = largest_alpha(measure, tau=0.95)
    assert found.alpha == 1.0
    assert asked == [0.0, 1.0]


def test_exactly_tau_is_enough() -> None:
    assert largest_alpha(lambda a: 0.5 if a > 0 else 1.0, tau=0.5).alpha == 1.0


def test_nothing_feasible_gives_the_original_back() -> None:
    found = largest_alpha(lambda a: 1.0 if a == 0 else 0.0, tau=0.9)
    assert found.alpha == 0.0
    assert retention(found) == 1.0


def test_a_dip_does_not_hide_the_larger_feasible_alpha() -> None:
    """Infeasible on (0.2, 0.6), feasible again up to 0.8: bisection from the ends alone stops at 0.2."""
    found = largest_alpha(lambda a: 0.0 if 0.2 < a < 0.6 or a > 0.8 else 1.0, tau=0.9, whole_grid=True)
    assert 0.8 - 1 / 128 <= found.alpha <= 0.8
    assert not found.monotone


def test_a_hump_is_found_by_a_cheap_look_at_the_grid_above() -> None:
    """Probes far from tau are decided on a tenth of the data, so that the grid costs less than a pass."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        ratio = 0.0 if 0.2 < alpha < 0.6 or alpha > 0.8 else 1.0
        return Reading(ratio, ratio >= 0.9, 100 if whole or ratio == 1.0 else 10, 100)

    found = search(gauge, tau=0.9)
    assert 0.8 - 1 / 128 <= found.alpha <= 0.8
    assert not found.unchecked


def test_what_was_not_checked_is_said() -> None:
    """Steps leave no pass for the grid: the points above are named, and more passes check them."""
    step = largest_alpha(lambda a: 1.0 if a <= 0.3 else 0.0, tau=0.9)
    assert step.unchecked == (0.625, 0.75, 0.875)
    assert largest_alpha(lambda a: 1.0 if a <= 0.3 else 0.0, tau=0.9, passes=12).unchecked == ()


def crossing(curve: Callable[[float], float], threshold: float) -> float:
    """Where a falling curve meets the threshold, by fifty bisections."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) >= threshold else (low, middle)
    return low


@given(
    place=st.floats(0.01, 0.99), floor=st.floats(0.0, 0.5), power=st.floats(0.3, 8.0), tau=st.floats(0.55, 0.99),
    kind=st.sampled_from(["step", "power", "cliff"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_falling_curve_takes_eight_passes_and_the_originals(
    place: float, floor: float, power: float, tau: float, kind: str
) -> None:
    """Whatever its shape: at most 8 passes besides the original's, and alpha is the middle of the gap +- 1/128."""
    curves: dict[str, Callable[[float], float]] = {
        "step": lambda a: 1.0 if a < place else floor,
        "power": lambda a: 1 - (1 - floor) * a**power,
        "cliff": lambda a: floor + (1 - floor) / (1 + math.exp((a - place) * 10 * power)),
    }
    curve = curves[kind]
    found = largest_alpha(curve, tau=tau)
    assert found.passes <= 9
    assert curve(found.alpha) >= tau * curve(0)
    if found.alpha < 1:
        assert found.alpha <= crossing(curve, tau * curve(0)) <= found.upper
        assert found.upper - found.alpha <= 2 / 128 + 1e-12
        assert found.upper - found.alpha <= 1 / 128 or found.passes == 9


def guessing(
    curve: Callable[[float], float], tau: float, guess: Callable[[float], float], *, lost: int = 100
) -> SearchResult:
    """A search that is told what to expect; that too little is kept is decided on `lost` of 100 examples."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        enough = curve(alpha) >= tau * curve(0.0)
        return Reading(curve(alpha) / curve(0.0), enough, 100 if enough or whole else lost, 100)

    return search(gauge, tau=tau, expected=lambda alpha: guess(alpha) / curve(0.0))


@pytest.mark.parametrize("place", [0.004, 0.3, 0.77, 0.995])
def test_a_curve_that_is_expected_takes_four_probes(place: float) -> None:
    """Both ends, the first multiple of 1/128 that keeps too little, and the one before it; then the grid above."""

    def curve(alpha: float) -> float:
        return 1.0 if alpha < place else 0.0

    found = guessing(curve, 0.9, curve, lost=20)
    above = math.ceil(place * 128) / 128
    near = [p.alpha for p in found.probes if p.phase != "scan"]
    assert near == list(dict.fromkeys([0.0, 1.0, above, above - 1 / 128]))
    assert found.alpha == above - 1 / 128 and found.upper == above


@given(
    place=st.floats(0.01, 0.99), wrong=st.floats(0.0, 1.2), power=st.floats(0.3, 8.0), tau=st.floats(0.55, 0.99),
    kind=st.sampled_from(["step", "cliff"]),
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_wrong_expectations_cost_no_more_than_eight_passes_either(
    place: float, wrong: float, power: float, tau: float, kind: str
) -> None:
    """The curve is expected to fall at `wrong`, wherever it does, again and again."""
    curves: dict[str, Callable[[float], float]] = {
        "step": lambda a: 1.0 if a < place else 0.2,
        "cliff": lambda a: 1 / (1 + math.exp((a - place) * 10 * power)),
    }
    curve = curves[kind]
    found = guessing(curve, tau, lambda a: 1.0 if a < wrong else 0.0)
    assert found.passes <= 9
    assert curve(found.alpha) >= tau * curve(0)
    if found.alpha < 1:
        assert found.alpha <= crossing(curve, tau * curve(0)) <= found.upper
        assert found.upper - found.alpha <= 2 / 128 + 1e-12


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("tau", [0.6, 0.9, 0.95])
def test_a_smooth_curve_takes_fewer(power: float, tau: float) -> None:
    """Interpolation: at most 7 probes to 1/128, both ends among them, where bisection always takes 9."""
    found = largest_alpha(lambda a: 1 - a**power, tau=tau, scan=1)
    assert len(found.probes) <= 7
    assert found.upper - found.alpha <= 1 / 128
    assert found.alpha <= (1 - tau) ** (1 / power) <= found.upper


def test_a_probe_that_was_decided_wrongly_is_taken_back() -> None:
    """On a part, 0.5 seems to be feasible; scored on all examples, it is not, and the search goes on below."""

    def gauge(alpha: float, *, whole: bool) -> Reading:
        if alpha <= 0.4:
            return Reading(1.0, True, 100, 100)
        if alpha <= 0.5:
            return Reading(0.8 if whole else 1.0, not whole, 100 if whole else 50, 100)
        return Reading(0.1, False, 10, 100)

    found = search(gauge, tau=0.9)
    assert 0.4 - 2 / 128 <= found.alpha <= 0.4
    assert retention(found) == 1.0 and passes_of(next(p for p in found.probes if p.alpha == found.alpha)) == 1.0


def test_passes_count_parts() -> None:
    """The original, 1, and three quarters: 1 + 0.25 + 1 + ... never more than was scored."""
    scored: dict[float, int] = {}

    def gauge(alpha: float, *, whole: bool) -> Reading:
        scored[alpha] = 100 if whole or abs(alpha - 0.5) < 0.1 else 25
        return Reading(1 - alpha, alpha <= 0.5, scored[alpha], 100)

    found = search(gauge, tau=0.5, scan=1)
    assert found.passes == sum(scored.values()) / 100


def test_noise_never_makes_it_return_an_infeasible_alpha() -> None:
    def noisy(alpha: float) -> float:
        return 1 - alpha + 0.1 * math.sin(1000 * alpha)

    found = largest_alpha(noisy, tau=0.6)
    assert noisy(found.alpha) >= 0.6 * noisy(0)


def test_nan_is_not_feasible() -> None:
    found = largest_alpha(lambda a: math.nan if a > 0.3 else 1.0, tau=0.9)
    assert 0.3 - 1 / 128 <= found.alpha <= 0.3


def test_each_alpha_is_measured_once_and_traced() -> None:
    asked: list[float] = []

    def measure(alpha: float) -> float:
        asked.append(alpha)
        return 1 - alpha**2

    found = largest_alpha(measure, tau=0.8)
    assert len(asked) == len(set(asked)) == len(found.probes)
    assert [p.alpha for p in found.probes] == asked
    assert retention(found) == 1 - found.alpha**2


@pytest.mark.parametrize("bad", [{"scan": 0}, {"resolution": 0.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        largest_alpha(lambda a: 1.0, tau=0.9, **bad)


def test_what_is_certain_by_hand() -> None:
    """Ten differences in -0.9..0.1: after one of -0.9 the other nine can just make up for it."""
    low, high = np.full(10, -0.9), np.full(10, 0.1)
    assert MeanTest(low, high, error=1e-12).see(np.arange(1), np.array([-0.9])) is None
    assert MeanTest(low, high, error=1e-12).see(np.arange(2), np.array([-0.9, 0.05])) is False
    assert (
        MeanTest(low, high, error=1e-12).see(np.arange(10), np.full(10, 0.0)) is None
    )  # exactly at the bar: to be computed whole


def test_it_is_certain_that_a_bar_is_reached() -> None:
    """Two of three seen with 0.5 each: the last can lose 0.9 at most, so that at least 0.1 is left."""
    assert MeanTest(np.full(3, -0.9), np.full(3, 0.5), error=1e-12).see(np.arange(2), np.array([0.5, 0.5])) is True


def test_each_example_has_bounds_of_its_own() -> None:
    """The last example cannot lose anything: what was seen decides."""
    assert (
        MeanTest(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), error=1e-12).see(np.arange(1), np.array([0.01])) is True
    )


def first_decision(values: np.ndarray, low: float, high: float, error: float) -> tuple[bool | None, int]:
    test = MeanTest(np.full(len(values), low), np.full(len(values), high), error=error)
    before = 0
    for count in looks(len(values)):
        decided = test.see(np.arange(before, count), values[before:count])
        if decided is not None:
            return decided, count
        before = count
    return None, len(values)


@pytest.mark.slow
@pytest.mark.parametrize("side", [-1, 1])
def test_wrong_decisions_are_rarer_than_promised(side: int) -> None:
    """A mean just on one side of the bar, with rare large values: of 1500 random orders fewer than 5 % go wrong."""
    random = np.random.default_rng(0)
    values = np.where(random.random(300) < 0.1, 0.8, -0.08)
    values = side * (values - values.mean() + 1e-4)
    low, high = float(values.min()), float(values.max())
    wrong = sum(first_decision(random.permutation(values), low, high, 0.05)[0] is (side < 0) for _ in range(1500))
    assert wrong / 1500 < 0.05


def test_clear_cases_are_decided_on_a_small_part() -> None:
    """Of 1000 examples with a bar of 0.9: a mean of 0.5 is told from 160 at most, one of 0.97 from under a third."""
    random = np.random.default_rng(0)
    lost = random.beta(1, 1, 1000) - 0.9
    assert first_decision(lost, -0.9, 0.1, 1e-3)[0] is False
    assert first_decision(lost, -0.9, 0.1, 1e-3)[1] <= 200
    kept = np.where(random.random(1000) < 0.94, 0.1, -0.4)
    decided, count = first_decision(kept, -0.9, 0.1, 1e-3)
    assert decided is True and count <= 333


def test_looks_grow_and_end_with_all() -> None:
    assert looks(100) == [16, 20, 25, 31, 38, 47, 58, 72, 90, 100]
    assert looks(10) == [10]


def test_once_the_order_is_not_random_only_what_is_certain_decides() -> None:
    """Forty losses of 0.5 first, out of 1000 with a bar of 0.9: a bet would be won, but it proves nothing."""
    low, high, losses = np.full(1000, -0.9), np.full(1000, 0.1), np.full(40, -0.4)
    assert MeanTest(low, high).see(np.arange(40), losses) is False
    chosen = MeanTest(low, high)
    assert chosen.see(np.arange(40), losses, random=False) is None
    assert chosen.see(np.arange(40, 300), np.full(260, -0.4), random=False) is False  # 300 * 0.4 > 700 * 0.1


NAN = float("nan")


def lines(alpha: float, known: dict[float, list[float]], draw: int = 0) -> list[float]:
    numbers = Path({a: np.array([row]) for a, row in known.items()}, alpha).numbers(draw)
    return [float(n) for n in numbers[0]]


def test_a_number_is_on_the_line_between_its_two_nearest_mixtures() -> None:
    """On the scale alpha^1.5: a quarter of alpha is an eighth of the way, and 0.64 is 0.512 of it."""
    known = {0.0: [4.0], 1.0: [0.0]}
    assert lines(0.25, known) == [3.5]
    assert lines(0.64, known) == pytest.approx([4 - 4 * 0.512])
    known[0.25] = [2.0]
    assert lines(0.25, known) == [2.0]
    assert lines(0.64, known) == pytest.approx([2 - 2 * (0.512 - 0.125) / 0.875])


def test_beyond_the_last_mixture_a_number_goes_on_as_it_went() -> None:
    """From 0 to 0.25 it lost 0.5 in an eighth of the way: 4 in all of it."""
    assert lines(1.0, {0.0: [4.0], 0.25: [3.5]}) == pytest.approx([0.0])


def test_what_is_known_at_0_only_moves_like_one_of_the_others() -> None:
    """The first lost 4 and the second 1; the third and fourth move like them, in turn, and at the next draw turned
    around. The fifth, known at fewer mixtures than the first two, is nobody's model."""
    known = {0.0: [4.0, 3.0, 2.0, 1.0, 9.0], 0.5: [2.0, 2.5, NAN, NAN, NAN], 1.0: [0.0, 2.0, NAN, NAN, 0.0]}
    assert lines(1.0, known) == [0.0, 2.0, -2.0, 0.0, 0.0]
    assert lines(1.0, known, draw=1) == [0.0, 2.0, 1.0, -3.0, 0.0]
    assert lines(0.5, {0.0: [4.0, 3.0]}) == [4.0, 3.0]


def led(leads: list[list[float]]) -> TokenScores:
    """Token scores with these leads; log-probabilities are those of a choice between two tokens."""
    flat = np.array([x for row in leads for x in row], np.float32)
    rows = [[float(-np.log1p(np.exp(-x))) for x in row] for row in leads]
    return replace(scores(rows, greedy=["".join("01"[int(x > 0)] for x in row) for row in leads]), margin=flat)


def test_extraction_strength_breaks_where_the_first_token_loses_its_lead() -> None:
    """The first of four tokens leads by 1 and loses 8 in all: it falls behind at alpha^1.5 = 1/8, at alpha = 1/4."""
    entry = metrics.get("extraction_strength")
    original, unlearned = led([[1, 1, 1, 8], [2, 2]]), led([[-7, 1, 1, 7], [2, -2]])
    expectation = Expectation(entry, entry.function(original), original)
    assert expectation.values(0.7).tolist() == [1.0, 1.0]
    expectation.add(1.0, np.arange(2), entry.function(unlearned), unlearned)
    assert expectation.values(0.24).tolist() == [1.0, 1.0]
    assert expectation.values(0.26).tolist() == [0.75, 1.0]
    assert expectation.values(0.64).tolist() == [0.75, 0.0]  # the last token leads by 2 and loses 4: behind at 0.63


def test_other_metrics_are_followed_by_their_values() -> None:
    expectation = Expectation(metrics.get("rouge_l"), np.array([0.8, 0.6]), None)
    expectation.add(1.0, np.array([1]), np.array([0.2]), None)
    assert not expectation.by_token
    assert expectation.values(0.25) == pytest.approx([0.75, 0.55])
    assert expectation.values(1.0) == pytest.approx([0.4, 0.2])


@pytest.mark.parametrize("width", [1, 3, 7, 100])
def test_leads_from_tiles_equal_those_of_whole_logits(width: int) -> None:
    """By how much the target's logit exceeds the greatest other, by taking it out of each row and looking again."""
    torch.manual_seed(0)
    logits, targets = torch.randn(20, 10), torch.randint(10, (20,))
    logits[3, :] = 1.0
    logits[4, targets[4]] = 9.0
    others = [torch.cat([row[:t], row[t + 1 :]]).max() for row, t in zip(logits, targets, strict=True)]
    wanted = logits[torch.arange(20), targets] - torch.stack(others)
    assert wanted[3] == 0 and wanted[4] > 0
    found = statistics(logits, targets, width=width, margins=True)
    assert torch.allclose(found["margin"], wanted, atol=1e-5)
    plain = statistics(logits, targets, width=width)
    assert "margin" not in plain and all(torch.equal(found[n], c) or c.isnan().all() for n, c in plain.items())


def test_leads_are_scored_on_request(knowing: Model) -> None:
    examples = people(2)
    found, plain = score_tokens(knowing, examples, margins=True), score_tokens(knowing, examples)
    assert plain.margin is None and found.margin is not None
    assert ((found.margin > 0) == found.greedy).all()
    assert all(np.array_equal(getattr(found, n), getattr(plain, n), equal_nan=True) for n in TOKEN_COLUMNS)
    batch = collate(knowing.encode(examples[:1]), device=knowing.device)
    logits = answer_logits(knowing.model, batch).detach()
    second = logits.scatter(1, batch.targets[:, None], -1e9).amax(dim=1)
    wanted = logits.gather(1, batch.targets[:, None])[:, 0] - second
    assert found.select([0]).margin == pytest.approx(wanted.numpy(), abs=1e-4)
