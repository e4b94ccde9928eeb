"""The steps of a study: what each needs, and the key under which its result is kept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from uwc.data.benchmark import FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.benchmarks import benchmarks
from uwc.data.example import Example, fingerprint
from uwc.errors import ConfigError
from uwc.io import digest, plain
from uwc.metrics.evaluate import Scoring
from uwc.metrics.registry import JUDGES, metrics
from uwc.metrics.suites import SET_LABELS as SET_LABELS
from uwc.metrics.suites import Given, chosen_metrics, in_all_wordings
from uwc.studies.attack_setup import AttackSetup, attack_setup, chain_metrics
from uwc.studies.config import ORIGINAL, RETRAINED, RunConfig, StudyConfig
from uwc.studies.held import require_held
from uwc.studies.provenance import checkpoint_fingerprint

SCHEMA = 8
"""Version of what the steps compute; raised when a change of code moves a number."""

Kind = Literal["checkpoint", "build", "finetune", "unlearn", "score", "calibrate", "attack"]

MODEL = "model"
"""Where a step that makes a model keeps it."""

ATTACKED = "attacked.parquet"
"""Where an attack keeps the metrics' values under it."""

CALIBRATED = ", calibrated"
"""What follows a run's name where its calibrated model is attacked."""

DATA_SETTINGS = ("data", "forget", "retain", "refusals", "sets", "attacker", "translations")
"""The settings of a step that are fingerprints of questions and answers, not choices."""

ATTACKER_PARTS = ("train", "retain", "unrelated", "original")


@dataclass(frozen=True)
class Step:
    """One piece of work.

    Attributes:
        name: unique within a study, for people.
        kind: which function does it; "checkpoint" is a model that the user brought, and needs no work.
        settings: everything that can change its result, as plain data; for a checkpoint also its path, which cannot.
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
    """A study's steps in an order in which they can be run, and what they work on.

    Attributes:
        config: the study's configuration.
        benchmark: its questions.
        scoring: what every model is scored by.
        left_out: metric of the suite -> what it needs that the study does not have.
        steps: the steps.
        attacks: what attacks score and have, in a study with attacks.
    """

    config: StudyConfig
    benchmark: Benchmark
    scoring: Scoring
    left_out: Mapping[str, str]
    steps: tuple[Step, ...]
    attacks: AttackSetup | None = None

    @property
    def attacked_metrics(self) -> tuple[str, ...]:
        """The metrics that are measured under attack; none in a study without attacks."""
        return _attacked_metrics(self.config, self.scoring)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(s for s in self.steps if s.name == name)


def scored_sets(benchmark: Benchmark) -> dict[str, Sequence[Example]]:
    """The sets every model is scored on. Retention is measured on what the unlearner never saw, where there is such."""
    sets: dict[str, Sequence[Example]] = {
        "forget": benchmark[FORGET],
        "retain": benchmark[benchmark.retention],
        "holdout": benchmark[HOLDOUT],
    }
    further = {n: s for n, s in benchmark.splits.items() if n not in (FORGET, RETAIN, RETAIN_EVAL, HOLDOUT)}
    return in_all_wordings({**sets, **further})


def _scoring(config: StudyConfig, benchmark: Benchmark) -> tuple[Scoring, dict[str, str]]:
    """What every model of a study is scored by, and the metrics of the suite that are left out, with the reason.

    Raises:
        ConfigError: a metric needs what the study does not have, or models are ranked by another one.
    """
    score = config.score
    models = {"original", *score.judges.given(), *(["retrained"] if config.retrained else [])}
    given = Given(scored_sets(benchmark), frozenset(models), score.max_new_tokens)
    try:
        names, left_out = chosen_metrics(score.suite, score.metrics, given)
    except ConfigError as error:
        raise ConfigError(f"score: {error}") from None
    ranked_by = config.calibration.ranked_by
    if config.calibrate is not None and ranked_by not in names:
        raise ConfigError(f"calibrate: models are ranked by {ranked_by!r}; add it to score.metrics, or set rank_by")
    return Scoring(given, names, seed=config.seed, complete=True), left_out


def _attacked_metrics(config: StudyConfig, scoring: Scoring) -> tuple[str, ...]:
    if config.attack is None:
        return ()
    hidden = {*JUDGES, "gradient_norms", "similar_from"}
    facts = {name: metrics.get(name).facts for name in scoring.of_examples}
    visible = [name for name, of in facts.items() if not hidden & set(of["needs"]) and "only" not in of]
    return config.attack.measured(scoring.metrics, visible=visible)


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
    scoring, left_out = _scoring(config, benchmark)
    if config.calibrate is not None:
        require_held(
            config.calibrate, scored_sets(benchmark), benchmark=benchmark.name,
            max_new_tokens=config.score.max_new_tokens,
        )  # fmt: skip
    attacks = None
    if config.attack is not None:
        attacks = attack_setup(config.attack, benchmark, scored_sets(benchmark), seed=config.seed)
    steps = tuple(_Planner(config, benchmark, scoring, attacks).steps())
    return Plan(config, benchmark, scoring, left_out, steps, attacks)


def unlearned_step_name(run: RunConfig) -> str:
    """What the step is called that makes an unlearned model, or names the one that is given."""
    return f"{'checkpoint' if run.given else 'unlearn'} {run.label}"


def attack_step_name(chain: str, model: str) -> str:
    """What the step is called that carries out an attack on a model of the study."""
    return f"attack {model} with {chain}"


class _Planner:
    def __init__(
        self, config: StudyConfig, benchmark: Benchmark, scoring: Scoring, attacks: AttackSetup | None
    ) -> None:
        self.config = config
        self.benchmark = benchmark
        self.scoring = scoring
        self.attacks = attacks
        self.model = {
            "dtype": config.model.dtype, "device": config.model.device, "prompt": config.model.prompt.model_dump(),
        }  # fmt: skip
        self.sets = {name: fingerprint(examples) for name, examples in scoring.given.sets.items()}

    def steps(self) -> list[Step]:
        """Every step, inputs before those that read them."""
        steps: list[Step] = []
        base = self._base()
        original = self._finetuned(base, with_forget=True) if self.config.finetune else base
        retrained = self._retrained(base)
        for step in (base, original, retrained):
            if step is not None and step not in steps:
                steps.append(step)
        steps.append(self._score("score original", original, original))
        if retrained is not None:
            steps.append(self._score("score retrained", retrained, original))
        for run in self.config.unlearn.runs:
            unlearned = self._unlearn(run, original)
            steps += [unlearned, self._score(f"score {run.label}", unlearned, original)]
            if self.config.calibrate is not None:
                steps.append(self._calibrate(run, unlearned, original))
        return [*steps, *self._attacks({s.name: s for s in steps}, original)]

    def _base(self) -> Step:
        build = self.config.model.build
        if build is None:
            return self._checkpoint("base model", str(self.config.model.path))
        texts = fingerprint(self.benchmark.training_examples(with_forget=True))
        return _step(
            "build model", "build", {**build.model_dump(), **self.model, "data": texts, "seed": self.config.seed}
        )

    def _checkpoint(self, name: str, path: str, base: Step | None = None) -> Step:
        """A model that the user brought, known by its files wherever they lie; an adapter's folder has a base."""
        from uwc.models.adapters import adapter_config  # heavy: only for checkpoints

        trust = self.config.model.trust_remote_code
        adapted = base is not None and adapter_config(path) is not None
        settings = {"trust": trust, "files": checkpoint_fingerprint(path, with_base=not adapted)}
        step = _step(name, "checkpoint", settings, **({"base": base} if base and adapted else {}))
        return replace(step, settings={**step.settings, "path": path})

    def _finetuned(self, base: Step, *, with_forget: bool) -> Step:
        assert self.config.finetune is not None
        settings = {
            **self.model,
            "training": asdict(self.config.finetune),
            "data": fingerprint(self.benchmark.training_examples(with_forget=with_forget)),
            "with_forget": with_forget,
        }
        name = f"fine-tune {ORIGINAL if with_forget else RETRAINED}"
        return _step(name, "finetune", settings, base=base)

    def _retrained(self, base: Step) -> Step | None:
        if isinstance(self.config.retrained, str):
            return self._checkpoint("retrained model", self.config.retrained)
        return self._finetuned(base, with_forget=False) if self.config.retrained else None

    def _unlearn(self, run: RunConfig, original: Step) -> Step:
        if run.checkpoint is not None:
            return self._checkpoint(unlearned_step_name(run), run.checkpoint, original)
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
        return _step(unlearned_step_name(run), "unlearn", settings, original=original)

    def _score(self, name: str, model: Step, original: Step) -> Step:
        return _step(name, "score", {**self.model, **self._scoring()}, model=model, original=original)

    def _scoring(self) -> dict[str, Any]:
        """All that decides what a model is scored by, the content of the judges among it."""
        judges = self.config.score.judges.given()
        content = {name: checkpoint_fingerprint(path) for name, path in judges.items() if self._judged_by(name)}
        return {"sets": self.sets, **self.scoring.plain(), **({"judges": content} if content else {})}

    def _judged_by(self, judge: str) -> bool:
        return any(judge in metrics.get(name).facts["needs"] for name in self.scoring.of_examples)

    def _calibrate(self, run: RunConfig, unlearned: Step, original: Step) -> Step:
        settings = {**self.model, **self._scoring(), "calibrate": self.config.calibration.settings()}
        return _step(f"calibrate {run.label}", "calibrate", settings, model=unlearned, original=original)

    def _attacks(self, named: Mapping[str, Step], original: Step) -> list[Step]:
        """The attacks on one model after those on another, at the end, so that one model at a time is in memory."""
        config, setup = self.config.attack, self.attacks
        if config is None or setup is None:
            return []
        depths = self._depths() if any(chain.made().names_layers for chain in config.chains) else []
        measured = _attacked_metrics(self.config, self.scoring)
        chains = [(c, chain_metrics(measured, c, setup, depths=depths)) for c in config.chains]
        data = {
            "sets": {name: fingerprint(examples) for name, examples in setup.sets.items()},
            "attacker": {part: fingerprint(getattr(setup.data, part)) for part in ATTACKER_PARTS},
            "translations": digest(dict(setup.data.translations)),
        }
        steps = []
        for label, model in attacked_models(self.config).items():
            for chain, seen in chains:
                settings = {
                    **self.model, **data, "max_new_tokens": self.config.score.max_new_tokens, "metrics": seen,
                    "chain": [[s.entry.name, dict(s.settings)] for s in chain.made().steps],
                }  # fmt: skip
                name = attack_step_name(chain.label, label)
                steps.append(_step(name, "attack", settings, model=named[model], original=original))
        return steps

    def _depths(self) -> list[int]:
        """The number of blocks of the models, from their configurations alone."""
        if self.config.model.build is not None:
            return [self.config.model.build.layers]
        from uwc.models.loading import depth_of

        paths = [self.config.model.path, self.config.retrained]
        trust = self.config.model.trust_remote_code
        return [depth_of(path, trust_remote_code=trust) for path in paths if isinstance(path, str)]


def attacked_models(config: StudyConfig) -> dict[str, str]:
    """Name -> the step that makes it, for each model that is attacked."""
    if config.attack is None:
        return {}
    runs = config.unlearn.runs
    steps: dict[str, dict[str, str]] = {
        "unlearned": {run.label: unlearned_step_name(run) for run in runs},
        "calibrated": {f"{run.label}{CALIBRATED}": f"calibrate {run.label}" for run in runs},
        ORIGINAL: {ORIGINAL: f"fine-tune {ORIGINAL}" if config.finetune else "base model"},
        RETRAINED: {RETRAINED: "retrained model" if isinstance(config.retrained, str) else f"fine-tune {RETRAINED}"},
    }
    kinds = config.attack.attacked_models(retrained=bool(config.retrained))
    return {name: step for kind in dict.fromkeys(kinds) for name, step in steps[kind].items()}


def _step(name: str, kind: Kind, settings: Mapping[str, Any], **inputs: Step) -> Step:
    settings = plain(settings)
    content = {"schema": SCHEMA, "kind": kind, "settings": settings, "inputs": {r: s.key for r, s in inputs.items()}}
    return Step(name, kind, settings, inputs, digest(content))
