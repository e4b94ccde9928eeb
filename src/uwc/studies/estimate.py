"""The cost of a study before it runs: operations, hours, disk and memory, and what would save most."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from uwc.errors import ConfigError
from uwc.registry import unknown_name
from uwc.studies.config import StudyConfig
from uwc.studies.cost import Cost, Counter, Work, shape_of, total
from uwc.studies.plan import Plan
from uwc.studies.steps import Attack, Calibrate, Checkpoint, Depth, Score, Step

HERE = "here"
"""The machine that is measured."""
LEAST_SHARE = 0.01
"""The least share of the hours of what is named as worth leaving out."""


@dataclass(frozen=True)
class Rates:
    """How many times longer work takes than by the peak of the machine, and fixed times.

    Attributes:
        training, training_half, scoring, decoding: factors on the time by the peak.
        a_pass: seconds a pass through one block.
        a_step: seconds a step of a study.
    """

    training: float
    training_half: float
    scoring: float
    decoding: float
    a_pass: float
    a_step: float


CPU_RATES = Rates(training=0.605, training_half=1.01, scoring=0.558, decoding=2.01, a_pass=0.0, a_step=0.1)
"""Fitted to the recorded step times of three studies; see ``benchmarks/step_times.py``."""
GPU_RATES = Rates(training=2.5, training_half=2.5, scoring=2.2, decoding=2.0, a_pass=2.5e-4, a_step=1.0)
"""Assumed, not fitted: 40 % of the peak in training, as reported for large models (arXiv:2407.21783, 38 to 43 %)."""


@dataclass(frozen=True)
class Machine:
    """A device, by its peaks.

    Attributes:
        name: its name.
        device: "cpu" or "cuda".
        float32, half: operations a second of matrix products in float32 and in bfloat16.
        bandwidth: bytes a second of its memory.
        memory: bytes; None if not known.
    """

    name: str
    device: Literal["cpu", "cuda"]
    float32: float
    half: float
    bandwidth: float
    memory: float | None = None

    @property
    def rates(self) -> Rates:
        """Those of its kind of device."""
        return CPU_RATES if self.device == "cpu" else GPU_RATES

    def features(self, work: Work, *, dtype: str) -> dict[str, float]:
        """Name in `Rates` -> seconds by the peaks, ``operations / peak + bytes / bandwidth``, or a count."""
        peak = self.float32 if dtype == "float32" else self.half
        return {
            "training": work.training / peak + work.training_bytes / self.bandwidth,
            "training_half": work.training_half / self.half,
            "scoring": work.scoring / peak + work.scoring_bytes / self.bandwidth,
            "decoding": work.decoding / peak + work.decoding_bytes / self.bandwidth,
            "a_pass": work.passes,
            "a_step": work.steps,
        }

    def seconds(self, work: Work, *, dtype: str) -> float:
        """The time of some work: the sum of its features times the rates, and what takes the same time anywhere."""
        rates = asdict(self.rates)
        counted = sum(rates[name] * value for name, value in self.features(work, dtype=dtype).items())
        return float(counted + work.seconds)

    def devices(self, memory: float) -> int:
        """The number of such devices that hold so many bytes; 1 on a CPU."""
        return 1 if self.memory is None or self.device == "cpu" else max(1, ceil(memory / self.memory))


MACHINES: dict[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("cpu", "cpu", 74e9, 161e9, 19e9),  # measured: 2 cores of an AMD EPYC of the fourth generation
        Machine("rtx4090", "cuda", 82.6e12, 165e12, 1.01e12, 24e9),
        Machine("l40s", "cuda", 91.6e12, 362e12, 0.864e12, 48e9),
        Machine("a100", "cuda", 19.5e12, 312e12, 2.04e12, 80e9),
        Machine("h100", "cuda", 67e12, 989e12, 3.35e12, 80e9),
        Machine("h200", "cuda", 67e12, 989e12, 4.8e12, 141e9),
    )
}
"""Peaks of dense matrix products, bandwidth and memory from the makers' data sheets, except those of ``cpu``."""


def machine_of(name: str) -> Machine:
    """A machine of the table, or this one, measured. Raises ConfigError if there is none of the name."""
    if name == HERE:
        return measured_here()
    if name not in MACHINES:
        raise ConfigError(unknown_name("machine", name, [*MACHINES, HERE]))
    return MACHINES[name]


def measured_here() -> Machine:
    """This machine: the best of several matrix products in float32 and bfloat16, and of reads of memory."""
    import time

    import torch

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"

    def best(work: Callable[[], Any]) -> float:
        found = []
        for _ in range(8):
            started = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - started)
        return min(found)

    size = 8192 if device == "cuda" else 1024

    def peak(dtype: "torch.dtype") -> float:
        matrix = torch.ones(size, size, device=device, dtype=dtype)
        return 2 * size**3 / best(lambda: matrix @ matrix)

    numbers = torch.ones(1 << (28 if device == "cuda" else 25), device=device)
    bandwidth = numbers.nbytes / best(numbers.sum)
    memory = float(torch.cuda.get_device_properties(0).total_memory) if device == "cuda" else None
    return Machine(HERE, device, peak(torch.float32), peak(torch.bfloat16), bandwidth, memory)


@dataclass(frozen=True)
class KindCost:
    """The cost of the steps of a kind, or of all.

    Attributes:
        kind: the kind; of attacks with the name of the chain.
        steps: their number.
        tflop: 10^12 operations.
        hours: of one device, times the devices that the memory needs.
        share: of the hours of the study.
        disk_gb: 10^9 bytes of results.
        memory_gb: 10^9 bytes at the peak, of one step.
        devices: the devices that hold this.
    """

    kind: str
    steps: int
    tflop: float
    hours: float
    share: float
    disk_gb: float
    memory_gb: float
    devices: int


@dataclass(frozen=True)
class Saving:
    """Something that a study can do without.

    Attributes:
        what: the work.
        how: the key to change.
        hours, share: those that are saved, each taken alone.
    """

    what: str
    how: str
    hours: float
    share: float


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a study on a machine.

    Attributes:
        study: its name.
        machine: the machine.
        parameters: of each of its models.
        kinds: by kind of step, the most hours first.
        total: of all; the memory is that of the largest step.
        path_hours: the hours of the longest chain of steps that need each other: no number of workers is faster.
        leave_out: what saves most, first.
    """

    study: str
    machine: Machine
    parameters: int
    kinds: tuple[KindCost, ...]
    total: KindCost
    path_hours: float
    leave_out: tuple[Saving, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class _Counted:
    """A step with its cost, and the seconds of a device for each part."""

    step: Step
    cost: Cost
    parts: Mapping[str, float]
    devices: int

    @property
    def hours(self) -> float:
        """The hours of all devices."""
        return self.of(self.parts)

    def of(self, parts: Iterable[str]) -> float:
        """The hours of all devices for some parts."""
        return self.devices * sum(self.parts.get(part, 0.0) for part in parts) / 3600


def estimate(plan: Plan, machine: Machine, steps: Sequence[Step] | None = None) -> Estimate:
    """The cost of a study's steps.

    A step that needs more memory than a device has is placed on several that work one after the other; all of them
    count.

    Args:
        plan: the plan.
        machine: where it would run.
        steps: the steps to count, such as those that are missing; all if None.

    Raises:
        ConfigError: the sizes of the model cannot be read.
    """
    shape, counted = shape_of(plan), list[_Counted]()
    counter = Counter(plan, shape, device=machine.device)
    for step in plan.steps if steps is None else steps:
        if isinstance(step, Checkpoint):
            continue
        cost = counter.cost(step)
        seconds = {part: machine.seconds(work, dtype=counter.dtype) for part, work in cost.parts.items()}
        counted.append(_Counted(step, cost, seconds, machine.devices(cost.memory)))
    by_kind: dict[str, list[_Counted]] = {}
    for each in counted:
        by_kind.setdefault(kind_of_step(each.step), []).append(each)
    whole = _cost("all", counted, sum(each.hours for each in counted))
    kinds = [_cost(kind, found, whole.hours) for kind, found in by_kind.items()]
    return Estimate(
        plan.config.name,
        machine,
        shape.parameters,
        tuple(sorted(kinds, key=lambda kind: -kind.hours)),
        whole,
        path({each.step.id: each.hours / each.devices for each in counted}, plan.steps),
        tuple(_savings(counted, plan.config, whole.hours)),
    )


def kind_of_step(step: Step) -> str:
    """The kind of a step, for an attack with the name of its chain."""
    return f"attack {step.of[-1]}" if isinstance(step, Attack) else step.kind


def path(times: Mapping[str, float], steps: Sequence[Step]) -> float:
    """The longest sum of times along steps that need each other: the time with any number of workers.

    Args:
        times: id of a step -> its time; 0 if it is not there.
        steps: in topological order.
    """
    ends: dict[str, float] = {}
    for step in steps:
        begin = max((ends.get(s.id, 0.0) for s in step.inputs.values()), default=0.0)
        ends[step.id] = begin + times.get(step.id, 0.0)
    return max(ends.values(), default=0.0)


def _cost(kind: str, counted: Sequence[_Counted], whole: float) -> KindCost:
    work, hours = total(each.cost.work for each in counted), sum(each.hours for each in counted)
    return KindCost(
        kind,
        len(counted),
        work.flops / 1e12,
        hours,
        hours / whole if whole else 0.0,
        work.disk / 1e9,
        max((each.cost.memory for each in counted), default=0.0) / 1e9,
        max((each.devices for each in counted), default=1),
    )


_PARTS = {
    "texts": ("generated texts", "score.max_new_tokens"),
    "samples": ("sampled answers", "score.samples.count, or the sets in score.sets"),
    "letters": ("answers by letter", "score.metrics"),
    "shortest prefixes": ("shortest similar prefixes", "score.metrics"),
    "gradient norms": ("gradient norms", "score.metrics"),
}
"""Part of scoring that metrics may do without -> what it is, and the key."""


def _savings(counted: Sequence[_Counted], config: StudyConfig, whole: float) -> list[Saving]:
    """What can be left out, the most hours first."""
    found: list[tuple[str, str, float]] = []
    for kind in dict.fromkeys(kind_of_step(each.step) for each in counted if isinstance(each.step, Attack)):
        hours = sum(each.hours for each in counted if kind_of_step(each.step) == kind)
        found.append((kind, "attack.chains", hours))
    scored = [each for each in counted if isinstance(each.step, Score | Calibrate)]
    for part, (what, key) in _PARTS.items():
        found.append((what, key, sum(each.of([part]) for each in scored)))
    chosen: dict[tuple[str, str], Callable[[Step], bool]] = {
        ("calibration", "calibrate: null"): lambda step: _needs(step, Calibrate),
        ("effects of states by block", "the metric uds"): lambda step: _needs(step, Depth),
        ("models of the pools", "robustness"): lambda step: step.of[0] == "pool",
        ("requests in sequence", "unlearn.sequence"): lambda step: step.of[0] == "sequence",
        ("forget sets that grow", "unlearn.scale"): lambda step: step.of[0] == "scale",
    }
    first: dict[str, str] = {}
    for run in config.unlearn.runs:
        first.setdefault(run.group, run.label)
    further = {run.label for run in config.unlearn.runs if run.group and first[run.group] != run.label}
    if further:
        chosen["seeds beyond the first", "unlearn.seeds"] = lambda step: not further.isdisjoint(step.of)
    for (what, key), left in chosen.items():
        found.append((what, key, sum(each.hours for each in counted if left(each.step))))
    rows = [Saving(what, key, hours, hours / whole if whole else 0.0) for what, key, hours in found]
    return sorted((row for row in rows if row.share >= LEAST_SHARE), key=lambda row: -row.hours)


def _needs(step: Step, kind: type[Step]) -> bool:
    """Whether a step is of a kind, or reads the result of one; attacks need the retrained model's drops only."""
    read = [s for name, s in step.inputs.items() if not (kind is Depth and name == "depth")]
    return isinstance(step, kind) or any(isinstance(s, kind) for s in read)
