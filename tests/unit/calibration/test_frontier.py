"""The tau curve and its uncertainty, on curves worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from tests.helpers.probed_sets import frontier_of, probed

from uwc.calibration.frontier import TAUS, Frontier, at_tau, confidence_lower
from uwc.calibration.probed import Measured, ProbedSet, RetentionCurve, load_probes, save_probes
from uwc.metrics.stats import bootstrap_interval


def straight(end_retain: float = 0.0, end_forget: float = 0.0) -> Frontier:
    """Retention falls linearly from 1 to `end_retain`, the forget score from 1 to `end_forget`."""
    alphas = [0.0, 0.5, 1.0]
    ends = {"retain": end_retain, "forget": end_forget}
    return frontier_of(*(probed([[1 - a * (1 - end)] * 4 for a in alphas], name=name) for name, end in ends.items()))


def test_on_straight_lines_the_curve_is_the_diagonal() -> None:
    """Retention 1 - a and forget score 1 - a: at tau the score is tau, and the area under that is 1/2."""
    frontier = straight()
    for tau in (0.0, 0.25, 0.5, 0.8, 1.0):
        assert frontier.alpha_at(tau) == pytest.approx(1 - tau)
        assert frontier.forget_at(tau) == pytest.approx(tau)
        assert frontier.retention_at(tau) == pytest.approx(tau)
    assert frontier.area() == pytest.approx(0.5)


def test_retention_is_the_ratio_to_the_original() -> None:
    """A mean that falls from 0.8 to 0.4 keeps 1 - a / 2: at tau 0.75 alpha is 0.5, whatever the original's mean."""
    forget = probed([[1.0] * 4, [0.0] * 4], name="forget")
    for scale in (1.0, 0.8, 0.1):
        frontier = frontier_of(probed([[scale] * 4, [scale / 2] * 4]), forget)
        assert frontier.retention.ratios == pytest.approx([1.0, 0.5])
        assert frontier.alpha_at(0.75) == pytest.approx(0.5)
        assert frontier.forget_at(0.75) == pytest.approx(0.5)


def test_a_method_that_costs_nothing_has_no_area() -> None:
    frontier = straight(end_retain=1.0)
    assert frontier.alpha_at(1.0) == 1.0
    assert frontier.retention_at(0.5) == 1.0
    assert frontier.area() == 0.0


def test_a_dip_does_not_hide_the_larger_alpha() -> None:
    """Retention 1, 0.2, 0.9, 0: at tau 0.5 the curve falls through 0.5 last at 2/3 + (0.4 / 0.9) / 3."""
    frontier = frontier_of(probed([[1.0], [0.2], [0.9], [0.0]]), probed([[1.0], [0.5], [0.25], [0.0]]))
    assert frontier.alpha_at(0.5) == pytest.approx(2 / 3 + 0.4 / 0.9 / 3)


def random_frontier(seed: int = 0) -> Frontier:
    """Ten clusters of four retain questions, eight forget questions without a subject; all fall at their own speed."""
    random = np.random.default_rng(seed)
    alphas = np.linspace(0, 1, 5)
    retain = np.clip(1 - np.outer(alphas**2, random.uniform(0.2, 1.8, 40)), 0, 1)
    forget = np.clip(1 - np.outer(alphas, random.uniform(0.5, 3, 8)), 0, 1)
    subjects = [str(i // 4) for i in range(40)]
    return frontier_of(probed(retain, subjects=subjects), probed(forget, name="forget"))


def test_the_interval_has_the_uncertainty_of_alpha_in_it() -> None:
    """The forget score is the same for every example, so that all its spread comes from that of alpha."""
    rng = np.random.default_rng(0)
    alphas = np.linspace(0, 1, 5)
    retain = probed(np.clip(1 - np.outer(alphas, rng.uniform(0.2, 1.8, 40)), 0, 1))
    frontier = frontier_of(retain, probed([[1 - a] * 10 for a in alphas], name="forget"))
    found = frontier.estimate(0.7)
    assert found.low < found.value < found.high
    assert found.value == frontier.forget_at(0.7)
    assert found.high - found.low > 0.05


def slow_draws(frontier: Frontier, tau: float, seed: int) -> np.ndarray:
    """alpha and the forget score at tau, draw by draw: examples are repeated as often as their cluster is drawn."""
    (retain,), forget = frontier.retention.measures[0].inputs, frontier.forget
    counts = []
    for s, offset in ((retain, 0), (forget, 1)):
        names = [subject or identity for subject, identity in zip(s.subjects, s.ids, strict=True)]
        unique = list(dict.fromkeys(names))
        drawn = np.random.default_rng(seed + offset).multinomial(len(unique), [1 / len(unique)] * len(unique), 1000)
        counts.append([np.repeat(np.arange(len(names)), [row[unique.index(n)] for n in names]) for row in drawn])
    found = []
    for ours, theirs in zip(*counts, strict=True):
        kept, left = retain.values[:, ours].mean(axis=1), forget.values[:, theirs].mean(axis=1)
        fine = np.linspace(0, 1, 20001)
        enough = np.interp(fine, frontier.alphas, kept / kept[0]) >= tau - 1e-12
        alpha = fine[np.flatnonzero(enough)[-1]]
        found.append((alpha, np.interp(alpha, frontier.alphas, left)))
    return np.array(found)


def test_draws_are_those_of_a_slow_bootstrap() -> None:
    frontier = random_frontier()
    slow = slow_draws(frontier, 0.9, seed=5)
    assert frontier.resampled_forget_at(0.9, seed=5) == pytest.approx(slow[:, 1], abs=3e-4)
    found = frontier.alpha_estimate(0.9, seed=5)
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(slow[:, 0], clusters=10), abs=1e-4)


def test_both_sets_are_drawn_once_for_all_taus(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    resampled = ProbedSet.resampled_means

    def counted(self: ProbedSet, **options: object) -> np.ndarray:
        drawn.append(self.name)
        return resampled(self, **options)  # type: ignore[arg-type]

    frontier = random_frontier()
    alone = [random_frontier().estimate(tau, seed=2) for tau in TAUS]
    monkeypatch.setattr(ProbedSet, "resampled_means", counted)
    record = frontier.record(seed=2)
    assert [(p.value, p.low, p.high) for p in record.curve] == [(e.value, e.low, e.high) for e in alone]
    again = Frontier(frontier.retention, probed(frontier.forget.values, name="forget paraphrased"))
    at_tau({"forget": frontier, "forget_paraphrased": again}, 0.95, seed=2)
    assert sorted(drawn) == ["forget", "forget paraphrased", "retain"]


def test_a_retention_measure_at_tau_has_its_value_there() -> None:
    """Perplexity 2 doubles to 4: at tau 0.75 the ratio is 0.75, and the value 2 / 0.75."""
    losses = Measured.of("PPL", [probed([[1.0, 4.0], [4.0, 4.0]])], higher=False, average="geometric")
    frontier = frontier_of(losses, probed([[1.0] * 2, [0.0] * 2], name="forget"))
    (found,) = frontier.measure_estimates(0.75)
    assert frontier.alpha_at(0.75) == pytest.approx(0.5)
    assert found.value == pytest.approx(2 / 0.75)


def test_a_retention_score_at_tau_varies_as_the_original_does() -> None:
    """All examples lose the same part, so that alpha does not vary: in each draw 0.9 of the original's mean."""
    original = np.random.default_rng(3).uniform(0.2, 1.0, 20)
    retain = probed([original, 0.5 * original])
    frontier = frontier_of(retain, probed([[1.0] * 5, [0.0] * 5], name="forget"))
    (found,) = frontier.measure_estimates(0.9, seed=4)
    draws = retain.resampled_means(seed=4)[0]
    assert found.value == pytest.approx(0.9 * original.mean())
    low, high = bootstrap_interval(draws, clusters=20)
    assert (found.low, found.high) == pytest.approx((0.9 * low, 0.9 * high))


def test_draws_are_paired_between_methods() -> None:
    """The second method leaves a little more for every example: unpaired draws would not show it."""
    rng = np.random.default_rng(1)
    retain = probed([[1.0] * 30, [1.0] * 30])
    left = rng.uniform(0, 0.9, 30)
    first = frontier_of(retain, probed([[1.0] * 30, left.tolist()], name="forget"))
    second = frontier_of(retain, probed([[1.0] * 30, (left + 0.01).tolist()], name="forget"))
    draws, others = first.resampled_forget_at(0.9), second.resampled_forget_at(0.9)
    assert confidence_lower(draws, others, clusters=30) > 0.99
    assert confidence_lower(draws, draws, clusters=30) == pytest.approx(0.5)


def test_whole_subjects_are_drawn() -> None:
    """Two subjects of opposite values: each draw holds both, or one of them twice, so the mean is 0, 1/2 or 1."""
    one = probed([[0.0, 0.0, 1.0, 1.0]], subjects=["a", "a", "b", "b"])
    assert set(one.resampled_means(resamples=200, seed=0)[0]) == {0.0, 0.5, 1.0}


def test_probes_survive_storage(tmp_path: Path) -> None:
    frontier = random_frontier()
    (retain,) = frontier.retention.measures[0].inputs
    save_probes(tmp_path / "probes.parquet", [retain, frontier.forget])
    loaded = load_probes(tmp_path / "probes.parquet")
    assert list(loaded) == [("retain", "extraction_strength"), ("forget", "extraction_strength")]
    sets = list(loaded.values())
    again = Frontier(RetentionCurve((Measured.of("retain", [sets[0]]),)), sets[1])
    assert again.record(seed=1) == frontier.record(seed=1)
