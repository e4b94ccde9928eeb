"""Sections of a study's file: `attack:`, `calibrate:`, `robustness:`, and the validation that all sections share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.registry import Texts, attacks
from uwc.calibration.measures import Measure, ranking_metric, retention_measures, retention_names
from uwc.calibration.probed import Measured
from uwc.data.example import Example
from uwc.errors import ConfigError, listed, shortened
from uwc.metrics.harness import find_tasks, require_harness
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.set_metrics import UTILITY_SETS
from uwc.metrics.suites import Given, is_set_metric, metric_name, set_label, what_is_missing
from uwc.metrics.tasks import HarnessSettings
from uwc.metrics.tasks import Task as FoundTask
from uwc.models.endpoint import Concurrency, Endpoint, Retries, Seconds, Served, Variable
from uwc.names import require_name
from uwc.objectives.spaces import Parameter
from uwc.registry import unknown_name
from uwc.results import ENOUGH_MODELS, Retention
from uwc.strict_numbers import StrictNumbers, first_message
from uwc.training.settings import LAST_SEED, MOST

MetricName = Annotated[str, AfterValidator(metric_name)]
"""A metric by name or label, converted to its name; an unknown one is unchanged."""


class Section(StrictNumbers, BaseModel):
    """A section of a study's file: frozen; unknown keys, and truth values, texts and infinities as numbers, refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def first_problem(error: ValidationError, model: type) -> str:
    """The first validation error as one line that names the key and the valid ones."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    path = shortened(".".join(location), 150)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        inside = ".".join(location[:-1]) or "the top level"
        return f"{unknown_name(f'key (at {inside})', location[-1], _keys_at(model, location[:-1]))}"
    if problem["type"] == "missing":
        return f"the key {path!r} is missing"
    message = first_message(error)
    given = repr(problem["input"])
    given = given if len(given) <= 120 else f"{given[:117]}..."
    return f"{path} = {given}: {message}" if path else message


def _keys_at(model: Any, location: Sequence[str]) -> list[str]:
    """The keys that are valid at a place in the configuration."""
    if not (isinstance(model, type) and (issubclass(model, BaseModel) or is_dataclass(model))):
        inner = [a for a in get_args(model) if a not in (type(None), Ellipsis)]
        return _keys_at(inner[0], location) if inner else []
    fields = model.model_fields if issubclass(model, BaseModel) else model.__dataclass_fields__
    if not location:
        return list(fields)
    annotation = getattr(fields.get(location[0]), "annotation", None)
    rest = location[1:]
    while rest and rest[0].isdigit():
        rest = rest[1:]
    return _keys_at(annotation, rest) if annotation is not None else []


def with_seeds(unlearn: Any) -> Any:
    """The section `unlearn` with each run that trains repeated for every seed in ``seeds``, if given.

    The run ``npo`` with the seeds 0 and 1 becomes the runs ``npo@0`` and ``npo@1`` of the group ``npo``, with
    ``training: {seed: ...}``. A given checkpoint is not trained and not repeated. Malformed values are left to the
    later validation.
    """
    if not isinstance(unlearn, Mapping):
        return unlearn
    seeds, runs = unlearn.get("seeds"), unlearn.get("runs")
    if not isinstance(seeds, list | tuple) or not isinstance(runs, list | tuple):
        return unlearn
    if not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        return unlearn
    return {**unlearn, "seeds": (), "runs": [r for run in runs for r in _repeated(run, seeds)]}


def _repeated(run: Any, seeds: Any) -> list[Any]:
    label = (run.get("name") or run.get("method")) if isinstance(run, Mapping) else None
    if not label or run.get("checkpoint") is not None or not isinstance(run.get("training", {}), Mapping):
        return [run]
    return [
        {**run, "name": f"{label}@{seed}", "group": label, "training": {**run.get("training", {}), "seed": seed}}
        for seed in seeds
    ]


Sets = Mapping[str, Sequence[Example]]
StepKind = Literal["build", "finetune", "tune", "unlearn", "score", "depth", "calibrate", "attack"]


def task_label(given: str | Callable[..., Any]) -> str:
    """The name in tables of a task, or of a function that measures retention."""
    return given if isinstance(given, str) else str(getattr(given, "__name__", type(given).__name__))


class HarnessConfig(Section):
    """Settings of tasks of lm-evaluation-harness, in ``calibrate.tasks`` and ``score.tasks``; see `HarnessSettings`."""

    include_path: str | None = None
    limit: int | None = Field(None, ge=1)
    num_fewshot: int | None = Field(None, ge=0, le=1000)
    seed: int = Field(1234, ge=0, le=LAST_SEED)
    chat: bool | None = None
    batch_size: int = Field(8, ge=1, le=4096)

    def settings(self) -> HarnessSettings:
        """The same for the tasks."""
        return HarnessSettings(**self.model_dump())

    def require_used(self, tasks: Sequence[object]) -> None:
        """Raise ConfigError if there are settings, and no task."""
        given = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]
        if given and not any(isinstance(task, str) for task in tasks):
            keys = listed(f"harness.{key}" for key in given)
            raise ConfigError(
                f"{keys}: there is no task of lm-evaluation-harness that uses it; name one (calibrate.tasks, "
                "score.tasks) or leave it out"
            )


class StepResources(Section):
    """What a step takes of a machine, for SLURM and Ray.

    Attributes:
        gpus, cpus: numbers of devices and cores.
        memory_gb: memory in GB; what the cluster gives by default if None.
        hours: SLURM's limit of time; the partition's by default.
    """

    gpus: float = Field(0, ge=0, le=64)
    cpus: int = Field(1, ge=1, le=1024)
    memory_gb: float | None = Field(None, gt=0, le=100_000)
    hours: float | None = Field(None, gt=0, le=10_000)


class ResourcesConfig(StepResources):
    """Resources of all steps, and in `kinds` what differs for a kind of step."""

    kinds: dict[StepKind, StepResources] = Field(default_factory=dict)

    def of(self, kind: str) -> StepResources:
        """The resources of a step of this kind."""
        own: dict[str, dict[str, Any]] = {
            known: found.model_dump(exclude_unset=True) for known, found in self.kinds.items()
        }
        return StepResources(**{**self.model_dump(exclude={"kinds"}), **own.get(kind, {})})


class ServerConfig(Section):
    """A server of the OpenAI protocol that holds a model; see `Endpoint`.

    Attributes:
        url: the base URL, which usually ends in ``/v1``.
        model: the model's name at the server; its name in the study by default.
        extra: further fields of each request.
        concurrency, timeout, retries, key_variable: as those of `Endpoint`.
    """

    url: str
    model: str = ""
    extra: dict[str, Any] = Field(default_factory=dict)
    concurrency: Concurrency = Endpoint.concurrency
    timeout: Seconds = Endpoint.timeout
    retries: Retries = Endpoint.retries
    key_variable: Variable = Endpoint.key_variable

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of the model of that name in the study."""
        return Endpoint(**{**self.model_dump(), "model": self.model or name}, chat=False, seed=None)

    @model_validator(mode="after")
    def _valid(self) -> "ServerConfig":
        self.endpoint("model")
        return self


class GenerationConfig(Section):
    """Servers that give greedy answers in scoring, in place of generation here.

    Attributes:
        endpoint: one server: of the only unlearned model, under the name `model`; without `model` of all models, under
            their names in the study.
        endpoints: model -> its server; a run's name, original or retrained.
        check: the number of questions on which a server's model is compared with the checkpoint.
        margin: the most by which the logit of a server's token may be below the greatest one, in nats, where the
            answers differ.
    """

    endpoint: ServerConfig | None = None
    endpoints: dict[str, ServerConfig] = Field(default_factory=dict)
    check: int = Field(4, ge=1, le=10_000)
    margin: float = Field(0.25, ge=0, le=10)

    def served(self, references: Sequence[str], runs: Sequence[str]) -> dict[str, Served]:
        """Model -> how it is asked.

        Args:
            references: the names of the original and the retrained model, if there is one.
            runs: the names of the unlearned models as delivered.

        Raises:
            ConfigError: there is no such model, or more than one for one server's model.
        """
        names = [*references, *runs]
        for name in self.endpoints:
            if name not in names:
                raise ConfigError(f"generation.endpoints: {unknown_name('model', name, names)}")
        found = {name: (server, f"generation.endpoints.{name}") for name, server in self.endpoints.items()}
        if self.endpoint is not None:
            if self.endpoint.model and len(runs) > 1:
                raise ConfigError(
                    f"generation.endpoint: it has one model, {self.endpoint.model!r}, and the study has {len(runs)} "
                    f"unlearned ones ({listed(runs)}); name each in generation.endpoints, or leave 'model' out if the "
                    "server knows all models of the study by their names"
                )
            found = dict.fromkeys(runs if self.endpoint.model else names, (self.endpoint, "generation.endpoint"))
        asked = {name: (server.endpoint(name), options) for name, (server, options) in found.items()}
        return {
            name: Served(endpoint.model, endpoint.extra, self.check, self.margin, endpoint, options)
            for name, (endpoint, options) in asked.items()
        }

    @model_validator(mode="after")
    def _one_form(self) -> "GenerationConfig":
        if (self.endpoint is None) == (not self.endpoints):
            raise ConfigError("generation: give either 'endpoint' (one server) or 'endpoints' (by model)")
        return self


def harness_config(given: Mapping[str, Any] | HarnessConfig | None) -> HarnessConfig:
    """Validated settings of tasks. Raises ConfigError, naming the key and the valid ones."""
    if isinstance(given, HarnessConfig):
        return given
    try:
        return HarnessConfig(**(given or {}))
    except ValidationError as error:
        raise ConfigError(f"harness: {first_problem(error, HarnessConfig)}") from None


def require_other_names(tasks: Sequence[object], sets: Iterable[str], *, where: str) -> None:
    """Raise ConfigError if a task is called as a set of questions is, since tasks are sets of their own in results, or
    if two have one name and metric."""
    labels = [task for task in tasks if isinstance(task, str)]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"{where} names one twice: {listed(labels)}; remove one")
    taken = set(sets)
    for label in labels:
        if (name := label.partition(":")[0]) in taken:
            raise ConfigError(f"{where}: the task {name!r} has the name of a set of questions; rename one of them")


Task = Annotated[str | Callable[[Any], float], PlainSerializer(task_label)]
"""A task of lm-evaluation-harness by name, or a function from a model to a number; written as its label."""

FORGET_SETS = ("forget", "forget_paraphrased")


class CalibrateConfig(Section):
    """The retention constraint, and the metric of the ranking.

    Attributes:
        tau: the least retention ratio.
        metric: the retention metric, on each of `sets`; ``model_utility`` is one number for three sets.
        sets: the benchmark's sets of the retention constraint, each separately; none for the `tasks` alone.
        tasks: tasks of lm-evaluation-harness in the retention constraint: ``mmlu``, ``arc_easy:acc_norm``, with the
            settings of the section `harness`; in Python also functions from a model to a number, higher is better.
        rank_by: the metric of the forget set that models are ranked by; `metric` if possible, else extraction strength.
        scan, resolution: of the search for alpha.
    """

    tau: float = Field(0.95, gt=0, le=1)
    metric: MetricName = "extraction_strength"
    sets: tuple[str, ...] = ("retain",)
    tasks: tuple[Task, ...] = ()
    rank_by: MetricName | None = None
    scan: int = Field(8, ge=1, le=10_000)
    resolution: float = Field(1 / 128, ge=1e-6, lt=1)

    @property
    def ranked_by(self) -> str:
        """The metric that models are ranked by."""
        return ranking_metric(self.metric, self.rank_by)

    @property
    def utility(self) -> bool:
        """Whether the metric is one number for several sets."""
        return is_set_metric(self.metric)

    def found_tasks(self, harness: HarnessSettings) -> tuple[FoundTask, ...]:
        """The tasks of lm-evaluation-harness, with their questions; see `find_tasks`."""
        return find_tasks([t for t in self.tasks if isinstance(t, str)], harness, where="calibrate.tasks")

    def measures(self, sets: Sets, *, max_new_tokens: int, found: Sequence[FoundTask] = ()) -> list[Measure]:
        """The retention measures, on the sets that the study scores; `found` are those of `found_tasks`."""
        by_label = {task.label: task for task in found}
        further = [by_label[task] if isinstance(task, str) else task for task in self.tasks]
        return retention_measures(
            sets, metric=self.metric, keep=self.sets, further=further, max_new_tokens=max_new_tokens
        )

    def described(self, measured: Sequence[Measured] = ()) -> Retention:
        """The retention constraint in results; `measured` are the measures of a calibration, which tell how the
        uncertainty of each is known."""
        label = str((set_metrics if self.utility else metrics).get(self.metric).facts["label"])
        sets = [label] if self.utility else [f"{set_label(name)} {label}" for name in self.sets]
        known = not self.utility or "of_means" in set_metrics.get(self.metric).facts
        labels = (*sets, *map(task_label, self.tasks))
        functions = tuple(task_label(task) for task in self.tasks if not isinstance(task, str))
        silent: tuple[str, ...] = (*(() if known else sets), *functions)
        by_error: tuple[str, ...] = ()
        if measured:
            pairs = list(zip(labels, measured, strict=True))
            silent = tuple(name for name, measure in pairs if not measure.inputs and not measure.by_error)
            by_error = tuple(name for name, measure in pairs if measure.by_error)
        return Retention(
            tau=self.tau,
            measures=labels,
            without_interval=silent,
            by_standard_error=by_error,
            rank_by=self.ranked_by,
        )

    def check(self, sets: Sets, *, benchmark: str, max_new_tokens: int) -> None:
        """Check the retention constraint against the study's questions.

        Args:
            sets: the sets that the study scores.
            benchmark: the benchmark's name in messages.
            max_new_tokens: the most tokens of a generated answer.

        Raises:
            ConfigError: a set is missing, or does not meet the metric's needs.
            UserError: a task is named, and lm-evaluation-harness is not installed.
        """
        kept = [name for name in sets if name not in FORGET_SETS]
        for name in self.sets:
            if name not in kept:
                raise ConfigError(f"calibrate: {unknown_name('retain set', name, kept)}")
        if self.utility and (missing := [name for name in UTILITY_SETS if name not in sets]):
            raise ConfigError(
                f"calibrate: the metric {self.metric!r} needs the sets {' and '.join(missing)}, which {benchmark} does "
                "not have; take another retention metric, or give them"
            )
        asked = {(self.ranked_by, "forget"): {"forget": sets["forget"]}}
        if self.utility:
            asked[self.metric, "retain"] = {name: sets[name] for name in UTILITY_SETS}
        else:
            asked |= {(self.metric, name): {"forget": sets[name]} for name in self.sets}
        for (metric, name), given in asked.items():
            if lacking := what_is_missing(metric, Given(given, max_new_tokens=max_new_tokens)):
                named = lacking.replace("'forget'", repr(name))
                raise ConfigError(f"calibrate: the metric {metric!r} needs {named}")
        require_other_names(self.tasks, sets, where="calibrate.tasks")
        if any(isinstance(task, str) for task in self.tasks):
            require_harness()

    @model_validator(mode="after")
    def _known(self) -> "CalibrateConfig":
        if self.metric not in retention_names():
            raise ConfigError(unknown_name("retention metric", self.metric, retention_names()))
        ranking_metric(self.metric, self.rank_by)
        if not self.sets and not self.tasks:
            raise ConfigError("calibrate: there is no retention constraint; name sets, tasks or both")
        for names, what in ((self.sets, "sets"), (self.tasks, "tasks")):
            if len(set(named := list(map(task_label, names)))) < len(named):
                raise ConfigError(f"calibrate: {what} names one twice: {listed(named)}; remove one")
        if self.utility and self.sets != ("retain",):
            raise ConfigError(f"calibrate: {self.metric!r} is one number for sets of its own; leave 'sets' out")
        return self


ModelKind = Literal["unlearned", "calibrated", "original", "retrained"]
RANK_BY = "rank_by"
"""A placeholder among the metrics of attacks: the metric of the ranking."""


class ChainConfig(Section):
    """An attack or a chain of attacks; in a file also as a word: ``relearn+probe``.

    Attributes:
        chain: the attacks' names, in order.
        name: its name in results; the attacks' names joined by ``+`` by default.
        settings: attack -> its settings that differ from the defaults.
    """

    chain: tuple[str, ...] = Field(min_length=1)
    name: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The chain's name in results."""
        return self.name or "+".join(self.chain)

    def made(self) -> Chain:
        """The chain, with complete settings."""
        return make_chain(self.chain, self.settings)

    @property
    def steps(self) -> tuple[tuple[str, dict[str, Any]], ...]:
        """Each attack with its complete settings: equal for two chains that do the same, whatever their names."""
        return tuple((step.entry.name, dict(step.settings)) for step in self.made().steps)

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, given: Any) -> Any:
        return _from_word(given)

    @model_validator(mode="after")
    def _makes_sense(self) -> "ChainConfig":
        for attack, given in self.settings.items():
            if attack not in self.chain or not isinstance(given, dict):
                raise ConfigError(
                    f"attack {self.label!r}: settings are given by attack, and {attack!r} = {given!r} is not; "
                    f"write {{{self.chain[0]}: {{setting: value}}}}; its attacks: {', '.join(self.chain)}"
                )
        if self.name:
            require_name("attack", self.name)
        self.made()
        return self


class AttackerConfig(Section):
    """The attacker's data, which are never scored.

    Attributes:
        forget_share: the share of the forget set's subjects that the attacker knows; the others are scored.
        retain_examples: the number of the attacker's retain examples, evenly spaced; all if null.
        unrelated: the unrelated set; the first further split of the benchmark if null.
        translations: a file with the columns ``question`` and ``translation``, for the attack `translation`.
        questions: form -> a file with the columns ``question`` and that of the form's name, for the attack `rewritten`.
    """

    forget_share: float = Field(0.2, ge=0, lt=1)
    retain_examples: int | None = Field(None, ge=1, le=MOST)
    unrelated: str | None = None
    translations: str | None = None
    questions: dict[str, str] = Field(default_factory=dict)


class AttackConfig(Section):
    """Attacks on the models of a study.

    Attributes:
        chains: the attacks; none for those of the study's policies alone.
        settings: attack -> its settings in every chain with it; a chain's own settings override them.
        models: unlearned, calibrated, original, retrained; by default all unlearned models, the original and, as the
            control, the retrained model if there is one.
        metrics: metrics among the study's; all of these by default. ``rank_by`` is the metric of the ranking and, for
            an attack on decoding, also rouge_l.
        sets: the sets that are scored under attack.
        examples: the number of examples of each set, evenly spaced; all if null.
        texts: the texts under attack that are kept: of the worst variant of each question (true), of every one
            (``all``), or none (false).
        attacker: the attacker's data.
    """

    chains: tuple[ChainConfig, ...]
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    models: tuple[ModelKind, ...] | None = None
    metrics: tuple[MetricName, ...] | None = None
    sets: tuple[str, ...] = Field(("forget", "retain"), min_length=1)
    examples: int | None = Field(None, ge=2, le=MOST)
    texts: Texts = True
    attacker: AttackerConfig = AttackerConfig()

    @model_validator(mode="before")
    @classmethod
    def _settings_of_chains(cls, given: Any) -> Any:
        """The chains with the common settings of their attacks."""
        if not isinstance(given, dict) or not isinstance(common := given.get("settings"), dict):
            return given
        chains = given.get("chains")
        return {**given, "chains": [_with_settings(c, common) for c in chains]} if isinstance(chains, list) else given

    @model_validator(mode="after")
    def _settings_are_used(self) -> "AttackConfig":
        for attack, given in self.settings.items():
            if all(attack not in chain.chain for chain in self.chains):
                made = ", ".join(chain.label for chain in self.chains)
                raise ConfigError(
                    f"attack.settings: there are settings of {attack!r}, which is not among the attacks: {made}; "
                    "remove them"
                )
            attacks.check(attack, given)  # also what every chain overrides
        return self

    @model_validator(mode="after")
    def _one_name_each(self) -> "AttackConfig":
        labels = [chain.label for chain in self.chains]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(f"attack: two attacks are called {label!r}; give each a 'name' of its own")
        return self

    def attacked_models(self, *, retrained: bool) -> tuple[ModelKind, ...]:
        """The attacked models. Raises ConfigError if the retrained model is among them, and there is none."""
        if self.models is None:
            return ("unlearned", "original", "retrained") if retrained else ("unlearned", "original")
        if "retrained" in self.models and not retrained:
            raise ConfigError(
                "attack: models names retrained, and the study has no retrained model; set retrained: true or its path"
            )
        return self.models

    def measured(self, scored: Sequence[str], *, visible: Sequence[str], ranked_by: str) -> tuple[str, ...]:
        """The metrics under attack: those that were named, else all of the study that attacks can change.

        Args:
            scored: the metrics that the study scores.
            visible: those of them that can be measured under attack.
            ranked_by: the metric that models are ranked by.

        Raises:
            ConfigError: a named metric is not scored.
        """
        if self.metrics is None:
            return tuple(visible)
        named = [
            name for metric in self.metrics for name in ([metric] if metric != RANK_BY else self._ranking(ranked_by))
        ]
        for metric in named:
            if metric not in scored:
                raise ConfigError(
                    f"attack: the metric {metric!r} is not among score.metrics ({', '.join(scored)}), which give its "
                    "value before the attack; add it there"
                )
        return tuple(dict.fromkeys(named))

    def _ranking(self, ranked_by: str) -> list[str]:
        """The metrics of ``rank_by``."""
        changes_text = any(chain.made().steps[-1].entry.facts["kind"] == "decoding" for chain in self.chains)
        return [ranked_by, *(["rouge_l"] if changes_text else [])]


class SearchSettings(Section):
    """How hyper-parameters are searched.

    Attributes:
        trials: of each run, pruned ones included; the first has the run's own settings where these are in its space.
        prune_at: share of a trial's training after which it is scored, and ended if its score is worse than the median
            of the earlier trials' at that point; null prunes none, and methods that forget after the last step are
            never pruned.
        sampler: "tpe" (tree-structured Parzen estimator) or "random".
        seed: of the choice of subjects and of the sampler.
    """

    trials: int = Field(10, ge=2, le=100_000)
    prune_at: float | None = Field(0.5, gt=0, lt=1)
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = Field(0, ge=0, le=LAST_SEED)


class TuneConfig(SearchSettings):
    """The search for the hyper-parameters of runs, with the same number of trials for each.

    A trial is unlearned from some subjects of the forget set, and its score is the residual forget score on them: that
    of the mixture with the original at which the retention constraint holds on a part of the retained subjects. Neither
    these subjects nor those are reported on: with the best settings, a run is trained and reported on the others.

    Attributes:
        runs: the tuned runs, by name or group; all that train by default.
        share: of the subjects of the forget set, and of each set that measures retention, that trials are scored on.
        space: run or group -> key of a run -> the values to try, besides or in place of those that its method declares
            (`uwc list methods`); null for a key that is not searched.
    """

    runs: tuple[str, ...] = ()
    share: float = Field(0.3, gt=0, lt=1)
    space: dict[str, dict[str, Parameter | None]] = Field(default_factory=dict)

    @property
    def settings(self) -> SearchSettings:
        """Those of the search alone."""
        return SearchSettings(**{name: getattr(self, name) for name in SearchSettings.model_fields})


class PoolsConfig(Section):
    """Two pools of models, fine-tuned with and without the forget set, for the faithfulness of metrics.

    Each has a seed of its own, and otherwise the settings of `finetune`.

    Attributes:
        knowing: the number of models that are fine-tuned with the forget set.
        ignorant: the number of models that are fine-tuned without it.
        epochs: shares of the epochs of `finetune`, which the models of each pool have in turn: fewer epochs make models
            that know less, and are harder to separate.
    """

    knowing: int = Field(ge=2, le=1000)
    ignorant: int = Field(ge=2, le=1000)
    epochs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((1.0,), min_length=1)


def utility_metrics() -> list[str]:
    """The metrics of retention that are high where answers are known, which can be a model's utility."""
    facts = {name: (set_metrics if is_set_metric(name) else metrics).get(name).facts for name in retention_names()}
    return [name for name, of in facts.items() if of["higher_remembers"]]


class RobustnessConfig(Section):
    """The meta-evaluation of metrics: faithfulness, and robustness to relearning and to quantization.

    Attributes:
        pools: the models with and without the knowledge.
        relearning: the attack after which changes are compared with those of the retrained model.
        quantization: the attack before and after which the metric is compared.
        utility: the metric whose mean on the retain set, or value if it is one of whole sets, is a model's utility; the
            metric of the retention constraint by default.
        least_utility: the least share of the original's utility with which an unlearned model counts.
    """

    pools: PoolsConfig
    relearning: str = "relearn_forget"
    quantization: str = "quantization_nf4"
    utility: MetricName | None = None
    least_utility: float = Field(0.8, gt=0, le=1)

    def check(self, attack: AttackConfig | None, *, retrained: bool, runs: int) -> None:
        """Check the meta-evaluation against the rest of a study.

        Raises:
            ConfigError: an attack, a model or a set that it needs is missing, or the runs are too few.
        """
        if attack is None or not attack.chains:
            raise ConfigError("robustness: the study has no attacks; name some in attack.chains, or remove the section")
        if runs < ENOUGH_MODELS:
            raise ConfigError(
                f"robustness needs at least {ENOUGH_MODELS} unlearned models, and the study has {runs}; add runs or "
                "seeds, or remove the section"
            )
        chains = {chain.label: chain for chain in attack.chains}
        for key in ("relearning", "quantization"):
            if (name := getattr(self, key)) not in chains:
                known = unknown_name("attack", name, list(chains))
                raise ConfigError(f"robustness.{key}: {known}; add it to attack.chains")
            if not chains[name].made().touches_weights:
                raise ConfigError(f"robustness.{key}: the attack {name!r} does not change weights; name one that does")
        if not retrained:
            raise ConfigError(
                "robustness: relearning is compared with that of a retrained model; set retrained: true or its path"
            )
        missing = {"unlearned", "retrained"} - set(attack.attacked_models(retrained=True))
        if missing or FORGET_SETS[0] not in attack.sets:
            raise ConfigError(
                "robustness: the unlearned models and the retrained one are compared under attack on the forget set; "
                "add them to attack.models, and forget to attack.sets"
            )


def _from_word(given: Any) -> Any:
    """``relearn+probe`` as a chain; other values are unchanged."""
    if isinstance(given, str):
        return {"chain": given.split("+")}
    if isinstance(given, dict) and isinstance(given.get("chain"), str):
        return {**given, "chain": given["chain"].split("+")}
    return given


def _with_settings(chain: Any, common: Mapping[str, Any]) -> Any:
    """A chain in a file with the common settings of its attacks; other values are unchanged."""
    read = _from_word(chain)
    if not isinstance(read, dict) or not isinstance(read.get("chain"), list | tuple):
        return chain
    own = read.get("settings") or {}
    if not isinstance(own, dict):
        return chain
    both = {a: {**s, **own.get(a, {})} if isinstance(s, dict) else s for a, s in common.items() if a in read["chain"]}
    return {**read, "settings": {**own, **both}}
