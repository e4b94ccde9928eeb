"""The recorded step times of studies, the fit of the rates of the cost model to them, and its error.

python -m benchmarks.step_times                # fit, and print the errors
python -m benchmarks.step_times record ...     # add a run from a store to step_times.json
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from uwc.studies.config_file import load_config
from uwc.studies.cost import Counter, Work, shape_of
from uwc.studies.estimate import GPU_RATES, MACHINES, Machine, Rates
from uwc.studies.plan import make_plan
from uwc.studies.steps import Checkpoint

FILE = Path(__file__).with_name("step_times.json")
CPU = replace(MACHINES["cpu"], name="cpu core", float32=MACHINES["cpu"].float32 / 2, half=MACHINES["cpu"].half / 2)
"""One of the two cores."""
RATES = tuple(Rates.__dataclass_fields__)


@dataclass(frozen=True)
class Timed:
    """A step of a recorded run.

    Attributes:
        name, kind: its name and kind.
        inputs: the numbers of the steps in the run that it needs.
        seconds: its time; None if it was not finished.
        memory: bytes at the peak of its process or device; None if not recorded.
        work: what the model counts.
        counted_memory: bytes by the model.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    seconds: float | None
    memory: float | None
    work: Work
    counted_memory: float


@dataclass(frozen=True)
class Run:
    """A recorded run of a study.

    Attributes:
        study: its name.
        date: of the run.
        processor: the kind of processor.
        device, threads, dtype: where and how it ran.
        beside: what else ran on the device; empty if nothing did.
        parameters: of its models.
        steps: the steps, in topological order.
    """

    study: str
    date: str
    processor: str
    device: str
    threads: int
    dtype: str
    beside: str
    parameters: int
    steps: tuple[Timed, ...]

    @property
    def machine(self) -> Machine:
        """The part of the machine that a step had."""
        if self.device == "cuda":
            return MACHINES["h200"]
        return replace(CPU, float32=CPU.float32 * self.threads, half=CPU.half * self.threads)

    @property
    def timed(self) -> list[Timed]:
        """The steps with a time."""
        return [step for step in self.steps if step.seconds]

    def features(self) -> np.ndarray[Any, Any]:
        """[steps, rates] the features of the timed steps."""
        rows = [self.machine.features(step.work, dtype=self.dtype) for step in self.timed]
        return np.array([[row[name] for name in RATES] for row in rows])

    def seconds(self) -> np.ndarray[Any, Any]:
        """[steps] the recorded times."""
        return np.array([step.seconds for step in self.timed])


def recorded() -> list[Run]:
    """The runs in the file."""
    runs = []
    for run in json.loads(FILE.read_text(encoding="utf-8")):
        steps = tuple(
            Timed(name, kind, tuple(inputs), seconds, memory, Work(*work), counted)
            for name, kind, inputs, seconds, memory, work, counted in run.pop("steps")
        )
        runs.append(Run(**run, steps=steps))
    return runs


@dataclass(frozen=True)
class Fit:
    """Rates, and for each run the factor by which what ran beside it slowed it down; 1 for a run that was alone."""

    rates: Rates
    slower: Mapping[str, float]


def predicted(run: Run, rates: Rates) -> np.ndarray[Any, Any]:
    """[steps] the times of a run's timed steps by some rates, if it were alone."""
    times: np.ndarray[Any, Any] = run.features() @ np.array([getattr(rates, name) for name in RATES])
    return times


def slowdown(run: Run, rates: Rates) -> float:
    """The median ratio of recorded to predicted times of a run beside others; 1 for one that was alone."""
    if not run.beside:
        return 1.0
    found = predicted(run, rates)
    return float(np.median(run.seconds()[found > 0] / found[found > 0]))


def fit(runs: Sequence[Run]) -> Fit:
    """The non-negative rates with the least mean square of relative errors, each run with the same weight.

    The slowdown of a run beside others is fitted with them, alternately. Where no run trains in half precision,
    its rate is that of training.
    """
    slower, rates = {run.study: 1.0 for run in runs}, Rates(0, 0, 0, 0, 0, 0)
    for _ in range(40):
        rows, ones = [], []
        for run in runs:
            weight = len(run.timed) ** -0.5
            rows.append(run.features() * (weight * slower[run.study] / run.seconds())[:, None])
            ones.append(np.full(len(run.timed), weight))
        found = dict(zip(RATES, nnls(np.concatenate(rows), np.concatenate(ones))[0].tolist(), strict=True))
        if not any(run.features()[:, RATES.index("training_half")].any() for run in runs):
            found["training_half"] = found["training"]
        rates = Rates(**found)
        slower = {run.study: slowdown(run, rates) for run in runs}
    return Fit(rates, slower)


@dataclass(frozen=True)
class Errors:
    """Relative errors of a run's predicted times: the median and the largest of its steps, and that of the sum."""

    median: float
    largest: float
    of_sum: float


def errors(run: Run, rates: Rates) -> Errors:
    """The errors of a run; one beside others has its own slowdown."""
    found = predicted(run, rates) * slowdown(run, rates)
    relative = np.abs(found / run.seconds() - 1)
    return Errors(float(np.median(relative)), float(relative.max()), float(found.sum() / run.seconds().sum() - 1))


def memory_errors(run: Run) -> Errors | None:
    """The same of the memory; None if it was not recorded."""
    pairs = np.array([(step.counted_memory, step.memory) for step in run.timed if step.memory])
    if not len(pairs):
        return None
    relative = np.abs(pairs[:, 0] / pairs[:, 1] - 1)
    most = float(pairs[:, 0].max() / pairs[:, 1].max() - 1)
    return Errors(float(np.median(relative)), float(relative.max()), most)


def table(runs: Sequence[Run]) -> list[str]:
    """The rows of the errors in docs/scaling.md."""
    cpu = [run for run in runs if run.device == "cpu"]
    whole = fit(cpu).rates
    rows = [
        "| study | processor | steps | slower by | median error | largest | of the sum | left out: median "
        "| of the sum | memory: median | of the largest |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        rates = whole if run.device == "cpu" else GPU_RATES
        found, memory = errors(run, rates), memory_errors(run)
        without = (
            errors(run, fit([other for other in cpu if other is not run]).rates)
            if run in cpu and len(cpu) > 1
            else None
        )
        cells = [
            f"`{run.study}`",
            f"{run.processor}, {run.threads} thread{'s' if run.threads > 1 else ''}" if run in cpu else run.processor,
            str(len(run.timed)),
            f"{slowdown(run, rates):.1f} x" if run.beside else "",
            f"{found.median:.0%}",
            f"{found.largest:.0%}",
            f"{found.of_sum:+.0%}",
            "" if without is None else f"{without.median:.0%}",
            "" if without is None else f"{without.of_sum:+.0%}",
            "" if memory is None else f"{memory.median:.0%}",
            "" if memory is None else f"{memory.of_sum:+.0%}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def counted(study: str, overrides: Sequence[str], *, device: str) -> list[Timed]:
    """The steps of a study with what the model counts, without times."""
    plan = make_plan(load_config(study, overrides=overrides))
    counter = Counter(plan, shape_of(plan), device=device)
    steps = [step for step in plan.steps if not isinstance(step, Checkpoint)]
    number = {step.key: i for i, step in enumerate(steps)}
    found = []
    for step in steps:
        cost = counter.cost(step)
        inputs = tuple(number[s.key] for s in step.inputs.values() if s.key in number)
        found.append(Timed(step.name, step.kind, inputs, None, None, cost.work, cost.memory))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["fit", "record"], default="fit")
    parser.add_argument("--study", help="of the run to record")
    parser.add_argument("--store", type=Path, help="its store, with the times of one run")
    parser.add_argument("--run", type=Path, help="its run.json, in place of the store")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes to the study's file")
    parser.add_argument("--date")
    parser.add_argument("--processor")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--beside", default="", help="what else ran on the device")
    options = parser.parse_args()
    runs = recorded() if FILE.is_file() else []
    if options.what == "record":
        runs.append(_record(options))
        _save(runs)
    found = fit([run for run in runs if run.device == "cpu"])
    print(found)
    print("\n".join(table(runs)))


def _record(options: argparse.Namespace) -> Run:
    config, manifests = load_config(options.study, overrides=options.set), dict[str, Any]()
    if options.run is not None:
        found = json.loads(options.run.read_text(encoding="utf-8"))["steps"]
    else:
        files = options.store.glob("*/manifest.json")
        found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for made in found:
        if made["name"] in manifests:
            raise SystemExit(f"{made['name']!r} was run twice; name the run.json of one run with --run")
        manifests[made["name"]] = made
    steps = []
    for step in counted(options.study, options.set, device=options.device):
        made = manifests.get(step.name)
        steps.append(replace(step, seconds=made and made["seconds"], memory=made and made.get("peak_bytes")))
    return Run(
        options.study,
        options.date,
        options.processor,
        options.device,
        options.threads,
        config.model.dtype,
        options.beside,
        shape_of(make_plan(config)).parameters,
        tuple(steps),
    )


def _save(runs: Sequence[Run]) -> None:
    def brief(value: float | None) -> float | None:
        return value if value is None else float(f"{value:.4g}")

    def works(work: Work) -> list[float | None]:
        return [brief(value) for value in asdict(work).values()]

    texts = []
    for run in runs:
        head = json.dumps({key: value for key, value in asdict(replace(run, steps=())).items() if key != "steps"})
        rows = [
            [s.name, s.kind, s.inputs, *map(brief, (s.seconds, s.memory)), works(s.work), brief(s.counted_memory)]
            for s in run.steps
        ]
        texts.append(f'{head[:-1]}, "steps": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}")
    FILE.write_text("[\n" + ",\n".join(texts) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
