"""The steps of a study: what each needs, and the key under which its result is kept."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from uwc.data.benchmark import FORGET, HELDOUT, RETAIN, Benchmark
from uwc.data.benchmarks import benchmarks
from uwc.data.example import Example, fingerprint, paraphrased
from uwc.errors import ConfigError
from uwc.metrics.registry import INPUTS
from uwc.metrics.scoring import EXTRAS, TEXTS, needs_of
from uwc.metrics.suites import any_perturbed
from uwc.studies.config import GOLD, ORIGINAL, RunConfig, StudyConfig
from uwc.studies.provenance import checkpoint_fingerprint, digest, plain

SCHEMA = 3
"""Version of what the steps compute; raised when a change of code moves a number."""

Kind = Literal["checkpoint", "build", "finetune", "unlearn", "score", "calibrate"]

MODEL = "model"
"""Where a step that makes a model keeps it."""

PROBES = "probes.parquet"
"""Where a calibration keeps the values of its probes."""

DATA_SETTINGS = ("data", "forget", "retain", "refusals", "sets")
"""The settings of a step that are fingerprints of questions and answers, not choices."""

SET_LABELS = {
    "forget": "forget",
    "forget_paraphrased": "forget, paraphrased",
    "retain": "retain",
    "retain_paraphrased": "retain, paraphrased",
    "heldout": "held out",
}


@dataclass(frozen=True)
class Step:
    """One piece of work.

    Attributes:
        name: unique within a study, for people.
        kind: which function does it; "checkpoint" is a model that the user brought, and needs no work.
        settings: everything that can change its result, as plain data.
        inputs: role -> the step whose result it reads.
        key: hash of kind, settings, the inputs' keys and the schema version.
    """

    name: str
    kind: Kind
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Step"]
    key: str

    @property
    def data(self) -> dict[str, Any]:
        """The fingerprints of the questions and answers that it reads."""
        return {name: self.settings[name] for name in DATA_SETTINGS if name in self.settings}


@dataclass(frozen=True)
class Plan:
    """A study's steps in an order in which they can be run, and what they work on."""

    config: StudyConfig
    benchmark: Benchmark
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(s for s in self.steps if s.name == name)


def scored_sets(benchmark: Benchmark) -> dict[str, list[Example]]:
    """The sets every model is scored on. Retention is measured on what the unlearner never saw, where there is such."""
    forget, retain = list(benchmark[FORGET]), list(benchmark[benchmark.retention])
    sets = {
        "forget": forget,
        "forget_paraphrased": paraphrased(forget),
        "retain": retain,
        "retain_paraphrased": paraphrased(retain),
        "heldout": list(benchmark[HELDOUT]),
    }
    further = {n: list(s) for n, s in benchmark.splits.items() if n not in (FORGET, RETAIN, HELDOUT, "retain_eval")}
    return {name: examples for name, examples in (sets | further).items() if examples}


def make_plan(config: StudyConfig) -> Plan:
    """The steps of a study. Reads the benchmark, but neither loads nor trains a model.

    Raises:
        ConfigError: the study needs something that the benchmark does not have.
        DataError: the benchmark's files are missing or malformed.
        ModelError: a checkpoint that the study names is not there.
    """
    entry = benchmarks.get(config.benchmark.name)
    settings = benchmarks.check(config.benchmark.name, config.benchmark.settings)
    benchmark: Benchmark = entry.function(**settings)
    wrong_answers = any(any_perturbed(examples) for examples in scored_sets(benchmark).values())
    for metric in config.score.metrics:
        if "perturbed" in needs_of([metric]) and not wrong_answers:
            raise ConfigError(f"score: the metric {metric!r} needs {INPUTS['perturbed']}")
    return Plan(config, benchmark, tuple(_Planner(config, benchmark).steps()))


class _Planner:
    def __init__(self, config: StudyConfig, benchmark: Benchmark) -> None:
        self.config = config
        self.benchmark = benchmark
        self.model = {
            "dtype": config.model.dtype, "device": config.model.device, "prompt": config.model.prompt.model_dump(),
        }  # fmt: skip
        self.sets = {name: fingerprint(examples) for name, examples in scored_sets(benchmark).items()}

    def steps(self) -> list[Step]:
        """Every step, inputs before those that read them."""
        steps: list[Step] = []
        base = self._base()
        original = self._finetuned(base, with_forget=True) if self.config.finetune else base
        gold = self._gold(base)
        for step in (base, original, gold):
            if step is not None and step not in steps:
                steps.append(step)
        steps.append(self._score("score original", original, original))
        if gold is not None:
            steps.append(self._score("score gold", gold, original))
        for run in self.config.unlearn.runs:
            unlearned = self._unlearn(run, original)
            steps += [
                unlearned,
                self._score(f"score {run.label}", unlearned, original),
                self._calibrate(run, unlearned, original),
            ]
        return steps

    def _base(self) -> Step:
        build = self.config.model.build
        if build is None:
            return self._checkpoint("base model", str(self.config.model.path))
        texts = fingerprint(self.benchmark.training_examples(with_forget=True))
        return _step(
            "build model", "build", {**build.model_dump(), **self.model, "data": texts, "seed": self.config.seed}
        )

    def _checkpoint(self, name: str, path: str) -> Step:
        trust = self.config.model.trust_remote_code
        return _step(name, "checkpoint", {"path": path, "trust": trust, "files": checkpoint_fingerprint(path)})

    def _finetuned(self, base: Step, *, with_forget: bool) -> Step:
        assert self.config.finetune is not None
        settings = {
            **self.model,
            "training": {**asdict(self.config.finetune)},
            "data": fingerprint(self.benchmark.training_examples(with_forget=with_forget)),
            "with_forget": with_forget,
        }
        name = f"fine-tune {ORIGINAL if with_forget else GOLD}"
        return _step(name, "finetune", settings, base=base)

    def _gold(self, base: Step) -> Step | None:
        if isinstance(self.config.gold, str):
            return self._checkpoint("gold model", self.config.gold)
        return self._finetuned(base, with_forget=False) if self.config.gold else None

    def _unlearn(self, run: RunConfig, original: Step) -> Step:
        method = run.composition()
        if "refusals" in method.answer_pools and not self.benchmark.refusals:
            raise ConfigError(f"run {run.label!r} teaches refusals, and the benchmark has none; give it 'refusals'")
        settings = {
            **self.model,
            "terms": [asdict(t) for t in method.terms],
            "tricks": dict(run.tricks),
            "training": asdict(self.config.unlearn.settings_of(run, seed=self.config.seed)),
            "stop": self.config.unlearn.stop_of(run),
            "forget": fingerprint(self.benchmark[FORGET]),
            "retain": fingerprint(self.benchmark[RETAIN]),
            "refusals": digest(list(self.benchmark.refusals)),
        }
        return _step(f"unlearn {run.label}", "unlearn", settings, original=original)

    def _score(self, name: str, model: Step, original: Step) -> Step:
        return _step(name, "score", {**self.model, **self._scoring()}, model=model, original=original)

    def _scoring(self) -> dict[str, Any]:
        score = self.config.score
        needs = (needs_of(score.metrics) & EXTRAS) | (set(TEXTS) if score.max_new_tokens else set())
        return {"sets": self.sets, "max_new_tokens": score.max_new_tokens, "needs": sorted(needs)}

    def _calibrate(self, run: RunConfig, unlearned: Step, original: Step) -> Step:
        settings = {**self.model, **self._scoring(), "calibrate": self.config.calibrate.model_dump()}
        return _step(f"calibrate {run.label}", "calibrate", settings, model=unlearned, original=original)


def _step(name: str, kind: Kind, settings: Mapping[str, Any], **inputs: Step) -> Step:
    settings = plain(settings)
    content = {"schema": SCHEMA, "kind": kind, "settings": settings, "inputs": {r: s.key for r, s in inputs.items()}}
    return Step(name, kind, settings, inputs, digest(content))
