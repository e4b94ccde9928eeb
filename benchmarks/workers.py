"""Simulated speed-up of recorded studies with 1 to 256 workers: list scheduling over their graphs and step times.

    python -m benchmarks.workers                  # print the table, and write the figure to docs/images

Workers are given steps as `uwc.studies.workers` does. A step takes its recorded time whatever the other workers do, so
each worker stands for a device, or cores, of its own; loading of models is in the times as it was in the recorded run.
"""

import heapq
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.step_times import Run, recorded

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "workers.svg"
COUNTS = tuple(2**n for n in range(9))
MEASURED = {"robustness": (2, 2923.0)}
"""Study -> workers and seconds of the run whose step times are recorded."""


@dataclass(frozen=True)
class Graph:
    """Steps in topological order.

    Attributes:
        names: of the steps.
        seconds: of the steps.
        inputs: of each step the numbers of the steps that it needs.
    """

    names: tuple[str, ...]
    seconds: tuple[float, ...]
    inputs: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, run: Run) -> "Graph":
        """The graph of a run whose steps all have a time; one that lacks it was too short to be recorded."""
        seconds = tuple(step.seconds or 0.0 for step in run.steps)
        return cls(tuple(step.name for step in run.steps), seconds, tuple(step.inputs for step in run.steps))

    @property
    def work(self) -> float:
        """The time of one worker."""
        return sum(self.seconds)

    def chain(self) -> list[int]:
        """The steps of the longest chain, the critical path."""
        ends: list[float] = []
        before: list[int | None] = []
        for seconds, inputs in zip(self.seconds, self.inputs, strict=True):
            last = max(inputs, key=lambda i: ends[i], default=None)
            before.append(last)
            ends.append(seconds + (0.0 if last is None else ends[last]))
        at: int | None = max(range(len(ends)), key=lambda i: ends[i])
        found = []
        while at is not None:
            found.append(at)
            at = before[at]
        return found[::-1]

    def path(self) -> float:
        """The time of the longest chain."""
        return sum(self.seconds[i] for i in self.chain())


def scheduled(graph: Graph, workers: int) -> float:
    """The time of a study with some workers.

    An idle worker gets the ready step that shares most inputs with its last one, of several the first in the plan.
    """
    waiting = [len(set(inputs)) for inputs in graph.inputs]
    readers: list[list[int]] = [[] for _ in graph.inputs]
    for step, inputs in enumerate(graph.inputs):
        for i in set(inputs):
            readers[i].append(step)
    ready = [step for step, count in enumerate(waiting) if not count]
    near: dict[int, frozenset[int]] = {worker: frozenset() for worker in range(workers)}
    idle, running, now = list(range(workers)), list[tuple[float, int, int]](), 0.0
    while ready or running:
        while ready and idle:
            worker = idle.pop(0)
            step = max(ready, key=lambda s, w=worker: len(near[w].intersection(graph.inputs[s])))  # type: ignore[misc]
            ready.remove(step)
            near[worker] = frozenset(graph.inputs[step])
            heapq.heappush(running, (now + graph.seconds[step], worker, step))
        now, worker, step = heapq.heappop(running)
        idle.append(worker)
        for reader in readers[step]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
        ready.sort()
        idle.sort()
    return now


def by_level(graph: Graph, workers: int) -> float:
    """The time with the job arrays of ``--slurm``: each level of the graph starts when the level before has ended."""
    level: list[int] = []
    for inputs in graph.inputs:
        level.append(max((level[i] + 1 for i in inputs), default=0))
    total = 0.0
    for number in range(max(level) + 1):
        steps = [i for i, of in enumerate(level) if of == number]
        part = Graph((), tuple(graph.seconds[i] for i in steps), ((),) * len(steps))
        total += scheduled(part, workers)
    return total


def graphs() -> dict[str, Graph]:
    """The studies that were run to their end."""
    return {run.study: Graph.of(run) for run in recorded() if run.device == "cpu"}


def rows() -> list[str]:
    """The table in docs/scaling.md."""
    counts = COUNTS[1:]
    found = [
        f"| study | steps | one worker | {' | '.join(map(str, counts))} | longest chain | most |",
        f"|---|---|---|{'---|' * len(counts)}---|---|",
    ]
    for name, graph in graphs().items():
        for how, simulate in (("", scheduled), (", by level", by_level)):
            gains = [f"{graph.work / simulate(graph, count):.1f}" for count in counts]
            cells = [f"`{name}`{how}", str(len(graph.seconds)), _minutes(graph.work), *gains]
            found.append(f"| {' | '.join([*cells, _minutes(graph.path()), f'{graph.work / graph.path():.1f}'])} |")
    return found


def chains() -> list[str]:
    """What limits each study: its longest chain."""
    return [
        f"- `{name}`: " + ", ".join(f"{graph.names[i]} ({graph.seconds[i]:.0f} s)" for i in graph.chain())
        for name, graph in graphs().items()
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def drawn(found: dict[str, Graph]) -> Figure:
    """Speed-up against workers, on logarithmic axes, with the bound by the longest chain."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(COUNTS, COUNTS, color="#b0b0b0", linewidth=1, label="as many times faster as workers")
    for (name, graph), colour in zip(found.items(), ("#E69F00", "#0072B2", "#009E73"), strict=False):
        gains = [graph.work / scheduled(graph, count) for count in COUNTS]
        levels = [graph.work / by_level(graph, count) for count in COUNTS]
        axes.plot(COUNTS, gains, color=colour, marker="o", markersize=4, label=f"{name}, {len(graph.seconds)} steps")
        axes.plot(COUNTS, levels, color=colour, linestyle=":", label="the same, level by level")
        axes.axhline(graph.work / graph.path(), color=colour, linestyle="--", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.9, 300)
    axes.set_xticks(COUNTS, [str(count) for count in COUNTS])
    axes.set_yticks(COUNTS, [str(count) for count in COUNTS])
    axes.set_xlabel("workers")
    axes.set_ylabel("times faster than one worker")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(color="#e8e8e8")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write_figure(path: Path = FIGURE) -> None:
    """Write the figure; the same bits each time."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "uwc", "svg.fonttype": "none"}):
        drawn(graphs()).savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    print("\n".join([*rows(), *chains()]))
    for name, (workers, seconds) in MEASURED.items():
        print(
            f"{name}, {workers} workers: {scheduled(graphs()[name], workers):.0f} s simulated, {seconds:.0f} s measured"
        )
    write_figure()


if __name__ == "__main__":
    main()
