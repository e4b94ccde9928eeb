"""The tau curve and its uncertainty, on curves worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from uwc.calibration.frontier import Frontier, ProbedSet, load_probes, save_probes, sure_lower


def probed(rows: list[list[float]], subjects: list[str] | None = None) -> ProbedSet:
    count = len(rows[0])
    return ProbedSet(tuple(map(str, range(count))), tuple(subjects or [""] * count), np.array(rows))


def straight(end_retain: float = 0.0, end_forget: float = 0.0) -> Frontier:
    """Retention falls linearly from 1 to `end_retain`, the forget score from 1 to `end_forget`."""
    alphas = np.array([0.0, 0.5, 1.0])
    return Frontier(
        alphas,
        probed([[1 - a * (1 - end_retain)] * 4 for a in alphas]),
        probed([[1 - a * (1 - end_forget)] * 4 for a in alphas]),
    )


def test_on_straight_lines_the_curve_is_the_diagonal() -> None:
    """Retention 1 - a and forget score 1 - a: at tau the score is tau, and the area under that is 1/2."""
    frontier = straight()
    for tau in (0.0, 0.25, 0.5, 0.8, 1.0):
        assert frontier.alpha_at(tau) == pytest.approx(1 - tau)
        assert frontier.forget_at(tau) == pytest.approx(tau)
        assert frontier.retain_at(tau) == pytest.approx(tau)
    assert frontier.area() == pytest.approx(0.5)


def test_a_method_that_costs_nothing_has_no_area() -> None:
    frontier = straight(end_retain=1.0)
    assert frontier.alpha_at(1.0) == 1.0
    assert frontier.area() == 0.0


def test_a_dip_does_not_hide_the_larger_alpha() -> None:
    """Retention 1, 0.2, 0.9, 0: at tau 0.5 the curve falls through 0.5 last at 2/3 + (0.4 / 0.9) / 3."""
    alphas = np.array([0, 1 / 3, 2 / 3, 1.0])
    frontier = Frontier(alphas, probed([[1.0], [0.2], [0.9], [0.0]]), probed([[1.0], [0.5], [0.25], [0.0]]))
    assert frontier.alpha_at(0.5) == pytest.approx(2 / 3 + 0.4 / 0.9 / 3)


def test_the_interval_holds_the_uncertainty_of_alpha() -> None:
    """The forget score is the same for every example, so that all its spread comes from that of alpha."""
    rng = np.random.default_rng(0)
    alphas = np.linspace(0, 1, 5)
    steepness = rng.uniform(0.2, 1.8, 40)
    retain = ProbedSet(tuple(map(str, range(40))), ("",) * 40, np.clip(1 - np.outer(alphas, steepness), 0, 1))
    frontier = Frontier(alphas, retain, probed([[1 - a] * 10 for a in alphas]))
    low, high = frontier.interval(0.7)
    assert low < frontier.forget_at(0.7) < high
    assert high - low > 0.05


def test_draws_are_paired_between_methods() -> None:
    """The second method leaves a little more for every example: unpaired draws would not be sure of it."""
    rng = np.random.default_rng(1)
    alphas = np.array([0.0, 1.0])
    retain = probed([[1.0] * 30, [1.0] * 30])
    left = rng.uniform(0, 0.9, 30)
    first = Frontier(alphas, retain, probed([[1.0] * 30, left.tolist()]))
    second = Frontier(alphas, retain, probed([[1.0] * 30, (left + 0.01).tolist()]))
    draws, others = first.resampled_forget_at(0.9), second.resampled_forget_at(0.9)
    assert sure_lower(draws, others, clusters=30) > 0.99
    assert sure_lower(draws, draws, clusters=30) == pytest.approx(0.5)


def test_whole_subjects_are_drawn() -> None:
    """Two subjects of opposite values: each draw holds both, or one of them twice, so the mean is 0, 1/2 or 1."""
    one = probed([[0.0, 0.0, 1.0, 1.0]], ["a", "a", "b", "b"])
    assert set(one.resampled_means(resamples=200, seed=0)[0]) == {0.0, 0.5, 1.0}


def test_probes_survive_storage(tmp_path: Path) -> None:
    frontier = straight(end_forget=0.3)
    sets = {"retain": frontier.retain, "forget": frontier.forget}
    save_probes(tmp_path / "probes.parquet", list(frontier.alphas), sets)
    alphas, loaded = load_probes(tmp_path / "probes.parquet")
    assert list(loaded) == ["retain", "forget"]
    assert Frontier(alphas, loaded["retain"], loaded["forget"]).record() == frontier.record()
