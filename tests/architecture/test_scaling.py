"""The tables of docs/scaling.md are those of the code, and the simulation of workers agrees with sums by hand."""

import random

import pytest
from benchmarks.tofu_cost import PAGE, estimates, tables, written
from benchmarks.workers import COUNTS, FIGURE, MEASURED, Graph, by_level, graphs, scheduled

DIAMOND = Graph(("a", "b", "c", "d"), (1.0, 2.0, 3.0, 1.0), ((), (0,), (0,), (1, 2)))


def test_a_diamond() -> None:
    """One worker takes 1 + 2 + 3 + 1; two do b and c at once."""
    assert [scheduled(DIAMOND, workers) for workers in (1, 2, 3)] == [7, 5, 5]
    assert by_level(DIAMOND, 2) == 5 and [DIAMOND.names[i] for i in DIAMOND.chain()] == ["a", "c", "d"]


def test_levels_wait_for_each_other() -> None:
    """a (1) - b (4), and c (3) - d (1), with two workers: 5, and by level 3 + 4."""
    graph = Graph(("a", "c", "b", "d"), (1.0, 3.0, 4.0, 1.0), ((), (), (0,), (1,)))
    assert (scheduled(graph, 2), by_level(graph, 2)) == (5, 7)


def test_a_worker_gets_the_steps_of_its_last_models() -> None:
    """One worker: after a and b come c of a, then e of a, before d of b. Two read b, which ends last, at 1 + 1 + 3."""
    graph = Graph(tuple("abcde"), (1.0, 1.0, 1.0, 9.0, 1.0), ((), (), (0,), (1,), (0,)))
    assert scheduled(graph, 2) == 10
    assert scheduled(graph, 1) == graph.work


@pytest.mark.parametrize("seed", range(5))
def test_the_time_is_within_the_bounds_of_list_scheduling(seed: int) -> None:
    """Graham 1969: between max(path, work / n), and work / n + path."""
    rng = random.Random(seed)
    inputs = tuple(tuple(sorted(rng.sample(range(i), min(i, rng.randrange(3))))) for i in range(60))
    graph = Graph(tuple(map(str, range(60))), tuple(rng.uniform(0.1, 9) for _ in range(60)), inputs)
    for workers in COUNTS:
        found = scheduled(graph, workers)
        assert max(graph.path(), graph.work / workers) - 1e-9 <= found <= graph.work / workers + graph.path() + 1e-9
        assert by_level(graph, workers) >= graph.path() - 1e-9
    assert scheduled(graph, 256) == pytest.approx(graph.path())


def test_the_simulation_agrees_with_a_measured_run() -> None:
    for name, (workers, seconds) in MEASURED.items():
        assert scheduled(graphs()[name], workers) == pytest.approx(seconds, rel=0.05)


@pytest.mark.slow
def test_the_page_has_the_numbers_of_the_code() -> None:
    """Make them again with ``python -m benchmarks.tofu_cost`` and ``python -m benchmarks.workers``."""
    text = PAGE.read_text(encoding="utf-8")
    assert written(text, tables()) == text
    assert FIGURE.name in text and FIGURE.is_file()
    costs = estimates()
    for study in ("open-unlearning-tofu", "paper-tofu-llama2"):
        hours = [costs[study, size].total.hours for size in ("1 B", "8 B", "70 B")]
        assert hours[0] < hours[1] < hours[2]
    eight, seventy = (costs["open-unlearning-tofu", size].total.tflop for size in ("8 B", "70 B"))
    assert seventy / eight == pytest.approx(70.6 / 8.03, rel=0.1), "operations grow with the parameters"
