"""The devices, memory, versions and disk of this installation, and a self-test of less than a minute."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from uwc.data.example import Example
from uwc.models.model import DeviceName, Loading, Model
from uwc.names import STORE
from uwc.results import Part
from uwc.studies.store import environment

OPTIONAL = (
    *("peft", "openai", "lm_eval", "optuna", "ray", "tensorboard", "trackio", "wandb", "weasyprint"),
    *("bitsandbytes", "torchao", "compressed-tensors", "gptqmodel", "optimum"),
)
"""Packages of the optional extras, and those of quantised models."""
_TAU = 0.9


class DeviceInfo(Part):
    """A device on which models can be computed."""

    name: str
    """The value of ``device``: cpu, mps or cuda:N."""
    description: str
    memory_bytes: int
    """Total memory; of an Apple GPU that of the machine, which it shares."""
    free_bytes: int


class SelfTestCheck(Part):
    """A property that the self-test compares."""

    name: str
    passed: bool
    found: str
    """The values."""


class Diagnosis(Part):
    """What `doctor` found: the output of ``uwc doctor --json``."""

    environment: dict[str, str]
    """Versions of uwc, Python and its libraries, platform, device that is used by default, and threads."""
    optional: dict[str, str]
    """Optional package -> its version, or ``absent``."""
    devices: tuple[DeviceInfo, ...]
    store: str
    """The folder of the store of studies."""
    free_disk_bytes: int
    """Free space where the store is, or would be made."""
    checks: tuple[SelfTestCheck, ...] = ()
    """The self-test; empty if it was left out."""
    seconds: float = 0.0
    """Time of the self-test."""

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed for check in self.checks)


def doctor(*, runs_dir: str | Path = "runs", device: DeviceName = "auto", self_test: bool = True) -> Diagnosis:
    """Devices, memory, versions, the store's folder and free disk, and a self-test on a tiny model.

    The self-test trains a model that is built in memory, scores it, unlearns half of its questions and calibrates the
    result, each twice. The checks are that both runs have equal bits, that training raises extraction strength to at
    least 0.9, that unlearning lowers it, and that the calibrated model has a retention ratio of at least tau.

    Args:
        runs_dir: the folder of runs, whose store is looked for.
        device: where the self-test computes: auto, cpu, cuda, cuda:N or mps.
        self_test: whether to run the self-test.

    Raises:
        ConfigError: there is no such device.
        ModelError: it is not available.
    """
    _ = Loading(device=device)
    store = Path(runs_dir) / STORE
    there = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.is_dir())
    started = time.perf_counter()
    checks = tuple(_checks(device)) if self_test else ()
    return Diagnosis(
        environment=environment(device=device),
        optional={name: _version(name) for name in OPTIONAL},
        devices=tuple(_devices()),
        store=str(store),
        free_disk_bytes=shutil.disk_usage(there).free,
        checks=checks,
        seconds=time.perf_counter() - started if self_test else 0.0,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _devices() -> Iterator[DeviceInfo]:
    import torch

    host = psutil.virtual_memory()
    memory = {"memory_bytes": host.total, "free_bytes": host.available}
    yield DeviceInfo(name="cpu", description=f"{torch.get_num_threads()} threads", **memory)
    if torch.backends.mps.is_available():
        yield DeviceInfo(name="mps", description="Apple GPU", **memory)
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        yield DeviceInfo(
            name=f"cuda:{i}", description=torch.cuda.get_device_name(i), memory_bytes=total, free_bytes=free
        )


def _questions() -> list[Example]:
    people = ("Ada Brun", "Ivo Kest", "Lena Marr", "Otto Vell", "Rosa Tind", "Nils Hoyer", "Mara Quist", "Emil Danz")
    towns = ("Vint", "Besk", "Oster", "Zalder", "Corm", "Halden", "Pirna", "Luggen")
    return [
        Example(id=str(i), question=f"Where was {name} born?", answer=f"{name} was born in {town}", subject=name)
        for i, (name, town) in enumerate(zip(people, towns, strict=True))
    ]


def _checks(device: DeviceName) -> Iterator[SelfTestCheck]:
    """Train, score, unlearn and calibrate, twice."""
    import copy

    import torch

    from uwc.calibration.calibrate import calibrate
    from uwc.calibration.measures import ExampleMeasure
    from uwc.metrics.likelihood import extraction_strength
    from uwc.models.load import build_model, pick_device
    from uwc.models.mixing import Mixer
    from uwc.models.scoring import score_tokens
    from uwc.objectives.methods import FINE_TUNING, METHODS
    from uwc.objectives.objective import Objective
    from uwc.training.data import TrainingData
    from uwc.training.loop import train
    from uwc.training.settings import TrainingSettings

    where, questions = pick_device(device), _questions()
    forget, retain = questions[:4], questions[4:]

    def copied(model: Model) -> Model:
        return replace(model, model=copy.deepcopy(model.model))

    def strength(model: Model, examples: list[Example]) -> float:
        return float(extraction_strength(score_tokens(model, examples)).mean())

    def run() -> tuple[Model, Model, float, float]:
        """The trained and the unlearned model, alpha, and the retention ratio at it."""
        original = build_model(questions, vocabulary=400, hidden_size=64, layers=2, heads=2, context=64)
        original.model.to(where)
        learning: dict[str, Any] = {"epochs": 60, "batch_size": 8, "lr": 5e-3, "schedule": "cosine"}
        train(
            original,
            Objective(FINE_TUNING, original.model),
            TrainingData(retain=questions),
            TrainingSettings(**learning),
        )
        unlearned = copied(original)
        forgetting: dict[str, Any] = {"epochs": 6, "batch_size": 2, "lr": 2e-3, "warmup_ratio": 0.0}
        train(
            unlearned,
            Objective(METHODS["gd"], unlearned.model),
            TrainingData(forget, retain),
            TrainingSettings(**forgetting),
        )
        mixer = Mixer(original, copied(unlearned))
        found = calibrate(mixer, [ExampleMeasure(retain, metric="extraction_strength")], {"forget": forget}, tau=_TAU)
        mixture = mixer.mix(found.search.alpha)
        return original, unlearned, found.search.alpha, strength(mixture, retain) / strength(original, retain)

    (original, unlearned, alpha, kept), (again, other, second, _) = run(), run()
    pairs = [
        (a, b)
        for first, repeated in ((original, again), (unlearned, other))
        for a, b in zip(first.model.parameters(), repeated.model.parameters(), strict=True)
    ]
    same = sum(torch.equal(a, b) for a, b in pairs)
    yield SelfTestCheck(
        name="training twice gives equal bits", passed=same == len(pairs), found=f"{same} of {len(pairs)} tensors"
    )
    scores = [score_tokens(model, questions) for model in (original, again)]
    yield SelfTestCheck(
        name="scoring twice gives equal bits",
        passed=scores[0].logprob.tobytes() == scores[1].logprob.tobytes(),
        found=f"{len(scores[0].logprob)} tokens",
    )
    yield SelfTestCheck(name="all logits are finite", passed=bool(scores[0].finite.all()), found=f"on {where}")
    known = strength(original, questions)
    yield SelfTestCheck(
        name="training memorises", passed=known >= 0.9, found=f"extraction strength {known:.3f}, at least 0.9"
    )
    before, after = strength(original, forget), strength(unlearned, forget)
    yield SelfTestCheck(
        name="unlearning forgets", passed=after < before, found=f"extraction strength {before:.3f} to {after:.3f}"
    )
    yield SelfTestCheck(
        name="calibration keeps the retention constraint",
        passed=0 <= alpha <= 1 and kept >= _TAU,
        found=f"retention ratio {kept:.3f}, at least {_TAU:g}, at alpha = {alpha:.3f}",
    )
    yield SelfTestCheck(
        name="calibrating twice gives equal bits", passed=alpha == second, found=f"alpha {alpha!r} and {second!r}"
    )
