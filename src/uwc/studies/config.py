"""A study's YAML file, validated: unknown keys, wrong types and unknown names are refused with the valid choices."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, ValidationError, model_validator

from uwc.calibration.measures import early_stopping_metrics
from uwc.data.benchmarks import benchmarks
from uwc.data.benchmarks.described import is_benchmark_file
from uwc.data.prompts import PromptTemplate
from uwc.errors import ConfigError
from uwc.metrics.samples import LeakSettings
from uwc.metrics.semantics import require_judges
from uwc.metrics.suites import entry_of, is_suite, require_suite
from uwc.models.model import DeviceName, Dtype, Loading, require_max_memory
from uwc.names import STORE, require_name
from uwc.objectives.methods import Constraint, Method, WeightedTerm, active_tricks, check_term, get_method
from uwc.objectives.registry import term_name
from uwc.objectives.rules import Contrast
from uwc.objectives.spaces import Value
from uwc.plugins import load_plugins
from uwc.published import published_benchmarks
from uwc.registry import unknown_name
from uwc.results import DIALECT
from uwc.studies.policy import Policy, load_policy
from uwc.studies.sections import (
    AttackConfig,
    CalibrateConfig,
    GenerationConfig,
    HarnessConfig,
    MetricName,
    ResourcesConfig,
    RobustnessConfig,
    Section,
    TuneConfig,
    first_problem,
    utility_metrics,
    with_seeds,
)
from uwc.training.settings import LAST_SEED, MOST, TrainingSettings, check_rule, check_stop

ORIGINAL, RETRAINED = "original", "retrained"


class BenchmarkConfig(Section):
    """A registered benchmark and its settings; the name may be the YAML file of a benchmark of one's own."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _file(cls, values: Any) -> Any:
        """A file in place of a name as the benchmark "file"."""
        if isinstance(values, Mapping) and is_benchmark_file(values.get("name")):
            settings = {"path": values["name"], **(values.get("settings") or {})}
            return {**values, "name": "file", "settings": settings}
        return values

    @model_validator(mode="after")
    def _known(self) -> "BenchmarkConfig":
        benchmarks.check(self.name, self.settings)
        return self


class PromptConfig(Section):
    """The prompt template; see `uwc.data.prompts.PromptTemplate`."""

    text: str = "Question: {question}\nAnswer:"
    separator: str = " "
    chat: bool = True
    system: str = ""
    date: Annotated[str | None, BeforeValidator(lambda day: str(day) if isinstance(day, datetime.date) else day)] = None
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    stop: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _valid(self) -> "PromptConfig":
        PromptTemplate(**self.model_dump())
        return self


class BuildConfig(Section):
    """Sizes of a small model with random weights; see `uwc.models.load.build_model`."""

    vocabulary: int = Field(1024, ge=258, le=1_000_000)
    hidden_size: int = Field(128, ge=2, le=65_536)
    layers: int = Field(4, ge=1, le=1000)
    heads: int = Field(4, ge=1, le=1024)
    context: int = Field(256, ge=8, le=1_000_000)
    initializer_range: float = Field(0.02, gt=0, le=10)


class LoadingConfig(Section):
    """Options of loading models, and the prompt."""

    dtype: Dtype = "float32"
    device: DeviceName = "auto"
    max_memory: dict[str, str | int] = Field(default_factory=dict)
    dequantize: bool = False
    trust_remote_code: bool = False
    prompt: PromptConfig = PromptConfig()

    @model_validator(mode="after")
    def _valid(self) -> "LoadingConfig":
        require_max_memory(self.max_memory, self.device)
        return self

    def loading(self) -> Loading:
        """The same for models."""
        prompt = PromptTemplate(**self.prompt.model_dump())
        most = self.max_memory or None
        return Loading(self.dtype, self.device, prompt, self.trust_remote_code, most, self.dequantize)


class ModelConfig(LoadingConfig):
    """The base model: a folder or hub name in `path`, or the sizes of a new one in `build`."""

    path: str | None = None
    build: BuildConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if (self.path is None) == (self.build is None):
            raise ConfigError("model: give either 'path' (a folder or hub name) or 'build' (sizes), and not both")
        return self


class TermConfig(Section):
    """One term of a method composed in the file."""

    term: Annotated[str, BeforeValidator(term_name)]
    weight: float = 1.0
    settings: dict[str, Any] = Field(default_factory=dict)
    roles: dict[str, str] = Field(default_factory=dict)
    constraint: Constraint | None = None

    def weighted(self) -> WeightedTerm:
        """The term as methods hold it."""
        return WeightedTerm(self.term, self.weight, self.settings, self.roles, self.constraint)

    @model_validator(mode="after")
    def _known(self) -> "TermConfig":
        check_term(self.weighted())
        return self


class StopConfig(Section):
    """Early stopping: end the run once the forget score has come down to `at_most`; see `stop_at`."""

    at_most: float
    metric: MetricName = "extraction_strength"
    every: int = Field(10, ge=1, le=MOST)
    tau: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _known(self) -> "StopConfig":
        if self.metric not in early_stopping_metrics():
            raise ConfigError(unknown_name("metric to stop at", self.metric, early_stopping_metrics()))
        return self


class RunConfig(Section):
    """One unlearned model: by a named method, by its own `terms`, or a given `checkpoint`.

    Attributes:
        method: a registered method.
        name: the run's name; the method's name by default.
        terms: the run's own composition, in place of `method`.
        checkpoint: an unlearned model, instead of either: a folder, a hub name, or the folder of an adapter of the
            original's. It takes no training settings.
        group: runs that share it are one method with several seeds.
        weights: term -> coefficient, if it differs from the method's.
        settings: term -> its settings that differ from the defaults.
        roles: term -> declared role -> the role used for it, as in ``{npo: {forget: sampled}}``.
        rule: settings of the method's rule, as in ``{share: 0.25}``; with `name` another rule.
        tricks: trick -> value.
        training: settings that differ from `unlearn.training`.
        stop: early stopping, if it differs from `unlearn.stop`.
    """

    method: str | None = None
    name: str = ""
    terms: tuple[TermConfig, ...] = ()
    checkpoint: str | None = None
    group: str = ""
    weights: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    roles: dict[str, dict[str, str]] = Field(default_factory=dict)
    rule: dict[str, Any] = Field(default_factory=dict)
    tricks: dict[str, float] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    stop: StopConfig | None = None

    @property
    def label(self) -> str:
        """The run's name."""
        return self.name or str(self.method)

    @property
    def given(self) -> bool:
        """Whether the model is a given checkpoint."""
        return self.checkpoint is not None

    def changed(self, values: Mapping[str, Value]) -> "RunConfig":
        """The run with other values at some of its keys, such as ``training.lr``. Raises ValidationError."""
        data = self.model_dump(exclude_defaults=True)
        for key, value in values.items():
            *path, last = key.split(".")
            inner = data
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        return RunConfig.model_validate(data)

    def composition(self) -> Method:
        """The method with the run's weights, settings, roles and rule.

        Raises:
            ConfigError: a term that it does not have, or a rule or setting of it that is not valid.
        """
        if self.method is not None:
            method = get_method(self.method)
        else:
            composed = tuple(t.weighted() for t in self.terms)
            method = Method(self.label, "composed in the study's file", "", composed)
        names = [t.term for t in method.terms]
        for term in (*self.weights, *self.settings, *self.roles):
            if term not in names:
                raise ConfigError(unknown_name(f"term of {self.label!r}", term, names))
        changed = tuple(
            replace(
                t,
                weight=self.weights.get(t.term, t.weight),
                settings={**t.settings, **self.settings.get(t.term, {})},
                roles={**t.roles, **self.roles.get(t.term, {})},
            )
            for t in method.terms
        )
        return replace(method, terms=changed).with_rule(self.rule)

    @model_validator(mode="after")
    def _valid(self) -> "RunConfig":
        if (self.method is not None) + bool(self.terms) + self.given != 1:
            raise ConfigError(
                "each run needs either 'method' (a registered name) or 'terms' (a list) or 'checkpoint' (a model that "
                "is unlearned already), and one only"
            )
        if self.method is None and not self.name:
            raise ConfigError(f"a run with {'a checkpoint' if self.given else 'terms of its own'} needs a 'name'")
        for kind, name in (("run", self.name), ("group", self.group)):
            if name:
                require_name(kind, name, taken=(ORIGINAL, RETRAINED))
        if self.given:
            for key in ("weights", "settings", "roles", "rule", "tricks", "training", "stop"):
                if getattr(self, key):
                    raise ConfigError(f"run {self.label!r} is a given checkpoint and trains nothing; remove {key!r}")
            return self
        for term in self.composition().terms:
            check_term(term)
        active_tricks(self.composition(), self.tricks)
        return self


class SequenceConfig(Section):
    """Requests in sequence: the forget set in parts, which every run that trains unlearns one after another.

    Each request has the run's training settings, and starts from the model after the last one.

    Attributes:
        parts: the number of parts, of like numbers of subjects.
        splits: in place of `parts`, portions of the forget set that the benchmark names, or part -> its subjects.
    """

    parts: int | None = Field(None, ge=2, le=1000)
    splits: tuple[str, ...] | dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = ()

    @model_validator(mode="after")
    def _one_division(self) -> "SequenceConfig":
        if (self.parts is None) == (not self.splits):
            raise ConfigError(
                "unlearn.sequence: give either 'parts' (a number) or 'splits' (portions of the forget set by name, or "
                "the subjects of each)"
            )
        if self.splits and len(self.splits) < 2:
            raise ConfigError("unlearn.sequence: one part is not a sequence; name at least two in 'splits'")
        _require_different("unlearn.sequence.splits", list(self.splits))
        for name in self.splits:
            require_name("part of the forget set", name)
        return self


def _require_different(key: str, values: Sequence[int | str]) -> None:
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise ConfigError(f"{key}: {twice[0]!r} is named twice; remove one")


class UnlearnConfig(Section):
    """The unlearning runs and their common training settings; `seeds` repeats every method with each of them.

    Attributes:
        sequence: also unlearn the forget set in parts, one request after another.
        scale: also unlearn forget sets that grow, at once: shares of the forget set relative to the first, as in
            ``[1, 2, 4]`` for a quarter, a half and all of its subjects; or portions that the benchmark names.
        chosen_on: the questions on which the runs' settings were chosen: those of the study ("reported"), on which they
            look better than on others, or "other" ones; unknown by default.
    """

    training: dict[str, Any] = Field(default_factory=dict)
    stop: StopConfig | None = None
    seeds: tuple[NonNegativeInt, ...] = ()
    chosen_on: Literal["reported", "other"] | None = None
    sequence: SequenceConfig | None = None
    scale: tuple[Annotated[int, Field(ge=1, le=1000)] | str, ...] = ()
    runs: tuple[RunConfig, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _one_run_a_seed(cls, values: Any) -> Any:
        return with_seeds(values)

    def settings_of(self, run: RunConfig, *, seed: int) -> TrainingSettings:
        """The run's training settings: its own over the common ones over the defaults."""
        return training_settings({"seed": seed, **self.training, **run.training}, where=f"run {run.label!r}")

    def stop_of(self, run: RunConfig) -> StopConfig | None:
        """The run's early stopping; the common one applies to the runs that can stop early."""
        return run.stop or (self.stop if run.composition().stops_early else None)

    @model_validator(mode="after")
    def _valid(self) -> "UnlearnConfig":
        labels = [run.label for run in self.runs]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"two unlearning runs are called {label!r}; give each a 'name' of its own")
        training_settings(self.training, where="unlearn.training")  # also what every run overrides
        numbers = [share for share in self.scale if isinstance(share, int)]
        if len(self.scale) == 1 or len(numbers) not in (0, len(self.scale)) or numbers != sorted(numbers):
            raise ConfigError(
                "unlearn.scale: give at least two forget sets, each larger than the one before it, as in [1, 2, 4], or "
                "portions of the forget set by name"
            )
        _require_different("unlearn.scale", self.scale)
        for key in ("sequence", "scale"):
            if getattr(self, key) and all(run.given for run in self.runs):
                raise ConfigError(f"unlearn.{key}: all runs are given checkpoints, which train nothing; leave it out")
        for run in self.runs:
            if run.given:
                continue
            method, settings = run.composition(), self.settings_of(run, seed=0)
            check_rule(method, settings, where=f"run {run.label!r}")
            if run.stop is not None:
                check_stop(method, where=f"run {run.label!r}")
            if settings.lora is not None and settings.lora.save == "adapter":
                raise ConfigError(
                    f"run {run.label!r}: a study keeps whole models; set lora.save to merged, or use uwc unlearn"
                )
            if isinstance(method.rule, Contrast):
                raise ConfigError(
                    f"run {run.label!r} gives two models that answer as one, which have no weights to mix for "
                    "calibration; make it with `uwc unlearn`, and score it with `uwc score`"
                )
        return self


class JudgesConfig(Section):
    """The judges of generated answers, each a folder or hub name.

    Attributes:
        encoder: a sentence encoder, for semantic similarity.
        entailment: a model of natural-language inference, for entailment.
        contradiction: the same, usually the same model, for the rates of forgetting and retention (KFR, KRR).
        classifier: a classifier of gibberish, for fluency.
        clean: its label that means that a text is clean, by default "clean".
        language_model: a causal language model, for verdicts and the perplexity of generated answers.
        checked: the judge.json of `uwc judge`, with the agreement of a judge with labels.
    """

    encoder: str | None = None
    entailment: str | None = None
    contradiction: str | None = None
    classifier: str | None = None
    clean: str | None = None
    language_model: str | None = None
    checked: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _label_of_classifier(self) -> "JudgesConfig":
        require_judges(self.given())
        return self

    def given(self) -> dict[str, Any]:
        """Judge -> its path, of those that were given, and the options that were given."""
        return {name: value for name, value in self.model_dump().items() if value not in (None, ())}


def _metric_or_suite(given: Any) -> str:
    try:
        return str(given) if is_suite(given) else entry_of(given).name
    except ConfigError as error:
        raise ValueError(error) from None  # with its key


MetricOrSuite = Annotated[str, BeforeValidator(_metric_or_suite)]


class ScoreConfig(Section):
    """The metrics. Needs that are not met are refused before anything is computed.

    Attributes:
        metrics: metrics by name or label, and suites; a function in Python.
        suite: core, tofu, muse, lume, membership or all; core if neither a suite nor metrics are named.
        settings: metric -> its settings that differ from the defaults; for metrics that neither attacks nor the
            calibration measure, which read the defaults.
        sets: metric of single examples -> the sets on which it is measured, for slow metrics such as leak_at_k and uds;
            all sets that meet its needs by default.
        max_new_tokens: the most tokens of a generated answer; 0 generates none.
        judges: the judges of generated answers.
        tasks: tasks of lm-evaluation-harness, ``mmlu`` or ``mmlu:acc_norm``, on which every model is scored, with the
            settings of the section `harness`.
        samples: settings of sampling answers, and which of them leak, for metrics such as leak_at_k.
    """

    metrics: tuple[MetricOrSuite, ...] = ()
    suite: str | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    sets: dict[MetricName, tuple[str, ...]] = Field(default_factory=dict)
    max_new_tokens: int = Field(64, ge=0, le=MOST)
    judges: JudgesConfig = JudgesConfig()
    tasks: tuple[str, ...] = ()
    samples: LeakSettings = LeakSettings()

    @model_validator(mode="after")
    def _known(self) -> "ScoreConfig":
        require_suite(self.suite)
        if self.samples != LeakSettings():
            _ = self.samples.metric
        return self


def _policies(given: Any) -> Any:
    """Policies from names, files and mappings; a single one may stand for a list."""
    listed = given if isinstance(given, list | tuple) else [given]
    wrong = [source for source in listed if not isinstance(source, str | Path | Mapping | Policy)]
    if wrong:
        raise ConfigError(
            f"check: {wrong[0]!r} is not a policy; give the name of a shipped one, a YAML file or its content"
        )
    return tuple(map(load_policy, listed))


class StudyConfig(Section):
    """A whole study. Without `finetune` the model was trained on the data before. `retrained`: also train, or name,
    a model that is never trained on the forget set. `tune`: search for the hyper-parameters of the runs.
    `calibrate: null`: the unlearned models are scored as delivered, and not ranked. `robustness`: measure the
    faithfulness and robustness of the metrics. `harness`: settings of tasks of lm-evaluation-harness. `generation`:
    servers that give greedy answers in place of generation here. `check`: policies, shipped ones by name, YAML
    files or their content, under each of which every unlearned model is checked as delivered. `plugins`: Python
    files that register metrics, losses, attacks or benchmarks, executed before names are checked. `published`: a
    benchmark whose published scores the report shows for comparison; by default the study's own, if there are any.
    `keep_paths`: keep absolute paths in the results and reports."""

    name: str
    title: str = ""
    seed: int = Field(0, ge=0, le=LAST_SEED)
    benchmark: BenchmarkConfig
    model: ModelConfig
    finetune: TrainingSettings | None = None
    retrained: bool | str = False
    unlearn: UnlearnConfig
    tune: TuneConfig | None = None
    score: ScoreConfig = ScoreConfig()
    generation: GenerationConfig | None = None
    calibrate: CalibrateConfig | None = CalibrateConfig()
    harness: HarnessConfig = HarnessConfig()
    attack: AttackConfig | None = None
    robustness: RobustnessConfig | None = None
    check: Annotated[tuple[Policy, ...], BeforeValidator(_policies)] = ()
    published: str | None = None
    resources: ResourcesConfig = ResourcesConfig()
    plugins: tuple[str, ...] = ()
    keep_paths: bool = False

    @property
    def calibration(self) -> CalibrateConfig:
        """The calibration; the defaults with `calibrate: null`, whose metric is that of the first table."""
        return self.calibrate or CalibrateConfig()

    @property
    def utility(self) -> str:
        """The metric of utility in the meta-evaluation."""
        return (self.robustness and self.robustness.utility) or self.calibration.metric

    @model_validator(mode="before")
    @classmethod
    def _plugins_first(cls, given: Any) -> Any:
        """Execute the plug-ins, whose names the sections may use."""
        plugins = given.get("plugins") if isinstance(given, Mapping) else None
        if isinstance(plugins, list | tuple) and all(isinstance(path, str) for path in plugins):
            load_plugins(plugins)
        return given

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        require_name("study", self.name, taken=(STORE,))
        if self.published is not None and self.published not in published_benchmarks():
            raise ConfigError(unknown_name("benchmark with published scores", self.published, published_benchmarks()))
        if self.finetune is not None and self.finetune.retain is not None:
            raise ConfigError("finetune: retain is for the trainings of unlearn, and has no effect here; leave it out")
        if self.finetune is None and self.model.build is not None:
            raise ConfigError("a model with random weights (model.build) knows no answers; give 'finetune' settings")
        if self.finetune is None and self.retrained is True:
            raise ConfigError(
                "retrained: true trains a retrained model, which needs 'finetune'; or give the path of one"
            )
        if self.tune is not None and self.calibrate is None:
            raise ConfigError("tune: trials are ranked by the calibrated forget score, which needs 'calibrate'")
        self.harness.require_used((*self.score.tasks, *(self.calibrate.tasks if self.calibrate else ())))
        names = [policy.name for policy in self.check]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"check: two policies are called {name!r}; give each a name of its own")
        if self.attack is not None:
            if not self.attack.chains and not self.check:
                raise ConfigError("attack.chains = []: there is no attack; name at least one, or set attack to null")
            kinds = self.attack.attacked_models(retrained=bool(self.retrained))
            if "calibrated" in kinds and self.calibrate is None:
                raise ConfigError(
                    "attack: models names calibrated, and with calibrate: null no model is calibrated; leave one of "
                    "the two out"
                )
        if self.robustness is not None:
            if self.finetune is None:
                raise ConfigError("robustness: the models of its pools are trained, which needs 'finetune'")
            if self.utility not in utility_metrics():
                known = unknown_name("metric of utility", self.utility, utility_metrics())
                raise ConfigError(f"robustness.utility: {known}")
            self.robustness.check(self.attack, retrained=bool(self.retrained), runs=len(self.unlearn.runs))
        return self


def training_settings(values: Mapping[str, Any], *, where: str) -> TrainingSettings:
    """Validated training settings. Raises ConfigError, naming `where`, the key and the valid ones."""
    try:
        return TrainingSettings(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, TrainingSettings)}") from None


def stop_settings(values: Mapping[str, Any], *, where: str) -> StopConfig:
    """Validated settings of early stopping. Raises ConfigError, naming `where`, the key and the valid ones."""
    try:
        return StopConfig(**values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error, StopConfig)}") from None


def study_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a study's file, with a description of every section."""
    return {"$schema": DIALECT, **StudyConfig.model_json_schema(), "title": "study"}
