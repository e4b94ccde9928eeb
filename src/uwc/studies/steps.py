"""Steps of a study: typed fields, a key that is a hash of them, and the kinds of steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel

from uwc.attacks.chain import Step as AttackStep
from uwc.attacks.data import AttackData
from uwc.attacks.registry import Texts, attacks
from uwc.code_digest import NoSource, code_digest, comes_from_package
from uwc.data.example import Example, fingerprint
from uwc.errors import AttackFailed, ConfigError, DataError, ModelError, TrainingDiverged
from uwc.io import IF_GIVEN, NOT_IN_KEY, digest, finite, in_key, write_json
from uwc.metrics.depth import DepthWork, KnownDrops, load_drops, save_drops
from uwc.metrics.evaluate import Work, save_sets, score_sets
from uwc.metrics.harness import evaluate_tasks
from uwc.metrics.registry import metrics, set_metrics
from uwc.metrics.samples import LeakSettings
from uwc.metrics.scored import needs_of
from uwc.metrics.tasks import Task, save_tasks
from uwc.models.endpoint import Served
from uwc.models.model import Loading, Model
from uwc.objectives.methods import FINE_TUNING, Method, WeightedTerm
from uwc.objectives.registry import terms, tricks
from uwc.objectives.rules import Rule
from uwc.objectives.spaces import Choices, Range
from uwc.registry import Entry
from uwc.results import Collapse, Part, Tuning
from uwc.studies.config import BuildConfig, RunConfig, StopConfig, training_settings
from uwc.studies.sections import FORGET_SETS, CalibrateConfig, SearchSettings, task_label
from uwc.training.settings import TrainingSettings

if TYPE_CHECKING:
    from uwc.models.served import ServedAnswers
    from uwc.studies.context import Context
    from uwc.studies.store import Store


STORE_VERSION = 18
"""Version of the steps' computations and files; incremented when a change of this package's code affects a number."""


class Outcome(Part):
    """The outcome of a step, besides its files."""

    status: Literal["done", "diverged", "failed"] = "done"
    message: str = ""
    """Why it diverged or failed."""
    parameters: int | None = None
    """Number of parameters of the scored or built model."""
    vocabulary: int | None = None
    dtype: str | None = None
    """The precision of a scored model's weights, where that is the checkpoint's own."""
    read_otherwise: tuple[str, ...] = ()
    """The differences of a given model's own tokenizer and prompt from the original's, which are used."""
    alpha: float | None = None
    """The calibrated mixture."""
    diverged: int | None = None
    """The step of the training whose loss or gradient was not finite."""
    stopped: int | None = None
    """The step after which early stopping ended the training."""
    collapse: Collapse | None = None


@dataclass(frozen=True)
class Step:
    """A step of a study; subclasses are frozen dataclasses of everything that their `run` reads.

    The key is a hash of the kind, all fields except those marked `NOT_IN_KEY`, and empty ones marked `IF_GIVEN`, the
    keys of the inputs, the store's version, and the code from outside this package that the step uses.

    Attributes:
        of: the identity of the step within its kind (role, run, attack).
        name: its name in messages.
    """

    kind: ClassVar[str]

    of: tuple[str, ...] = field(metadata=NOT_IN_KEY)
    name: str = field(metadata=NOT_IN_KEY)

    @property
    def id(self) -> str:
        """The step's identity in a study's results, such as ``attack/unlearned/npo/jailbreak``."""
        return "/".join([self.kind, *(quote(part, safe=" ,+@()") for part in self.of)])

    @property
    def inputs(self) -> dict[str, "Step"]:
        """Field -> the input step."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Step)}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All fields in the key except inputs, as plain data."""
        values = {f.name: value for f in fields(self) if in_key(f, value := getattr(self, f.name))}
        return {name: identity(value) for name, value in values.items() if not isinstance(value, Step)}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Field or set -> fingerprint of the examples that it reads."""
        found: dict[str, str] = {}
        for f in fields(self):
            _find_examples(f.name, getattr(self, f.name), found)
        return found

    @cached_property
    def code(self) -> dict[str, str]:
        """Name -> digest of the code from outside this package that it uses, of all functions of that name. Raises
        NoSource."""
        found: dict[str, set[str]] = {}
        for entry in self.uses():
            if not comes_from_package(entry.function):
                found.setdefault(entry.name, set()).add(code_digest(entry.function))
        return {name: " ".join(sorted(digests)) for name, digests in found.items()}

    @cached_property
    def not_cached(self) -> str:
        """Why the result must not be cached: code without a digest; empty if it may be."""
        lacking = [step.not_cached for step in self.inputs.values() if step.not_cached]
        try:
            _ = self.code
        except NoSource as error:
            return str(error)
        return lacking[0] if lacking else ""

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) over everything that determines the result."""
        content: dict[str, Any] = {
            "store_version": STORE_VERSION,
            "kind": self.kind,
            "settings": self.settings,
            "inputs": {name: step.key for name, step in self.inputs.items()},
        }
        if not self.not_cached and self.code:
            content["code"] = self.code
        return digest(content)

    def uses(self) -> Iterable[Entry[Any]]:
        """The registered functions whose code affects the result."""
        return ()

    def run(self, context: "Context", out: Path) -> Outcome:
        """Do the work, and write its files into the folder `out`."""
        raise NotImplementedError


def identity(value: Any) -> Any:
    """A value as plain data for a key: examples by their fingerprint, everything else by its content.

    Raises:
        TypeError: a type without a rule.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Step):
        return value.key
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Example) for item in value):
            return fingerprint(value)
        return [identity(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: identity(item) for f in fields(value) if in_key(f, item := getattr(value, f.name))}
    raise TypeError(f"a step cannot be keyed by a {type(value).__qualname__}")


def _find_examples(name: str, value: Any, found: dict[str, str]) -> None:
    if isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Example):
        found[name] = fingerprint(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _find_examples(str(key), item, found)
    elif is_dataclass(value) and not isinstance(value, type | Step):
        for f in fields(value):
            if in_key(f, item := getattr(value, f.name)):
                _find_examples(f.name, item, found)


Examples = Sequence[Example]
Sets = Mapping[str, Examples]

MODEL = "model"
"""The sub-folder with the model of a step."""
LOG, EFFECTS = "log.json", "effects.json"
ATTACKED = "attacked.parquet"
TRIALS = "trials.json"
SERVED = "served.json"
"""What the comparison of a server's model with the checkpoint found."""


@dataclass(frozen=True)
class Evaluation:
    """The scoring of a model.

    Attributes:
        work: the sets and their needs.
        judges: judge -> the fingerprint of its files.
        judge_paths: judge -> its folder or hub name.
        tasks: the tasks of lm-evaluation-harness.
    """

    work: Work
    judges: Mapping[str, Mapping[str, str]]
    judge_paths: Mapping[str, str] = field(metadata=NOT_IN_KEY)
    tasks: tuple[Task, ...] = field(default=(), metadata=IF_GIVEN)

    @property
    def judged(self) -> list[Entry[Any]]:
        """The metrics whose values are stored: the judged ones, and that by which samples leak."""
        names = dict.fromkeys(metric for judged in self.work.judged.values() for metric in judged)
        leaks = [] if self.work.leaks is None else [self.work.leaks.metric]
        return [*(metrics.get(name) for name in names), *leaks]

    def run(
        self,
        model: Model,
        original: Model,
        context: "Context",
        loading: Loading,
        out: Path,
        *,
        answered: "ServedAnswers | None" = None,
    ) -> None:
        """Score a model on every set, and write the scores to a folder; `answered` gives its greedy answers."""
        judges = context.judges(self.judge_paths, loading)
        save_sets(score_sets(model, self.work, original=original, judges=judges, answered=answered), out)
        if self.tasks:
            save_tasks(evaluate_tasks(self.tasks, model), out)


@dataclass(frozen=True)
class Checkpoint(Step):
    """A given model, identified by the hashes of its files; it needs no work.

    Attributes:
        path: a folder or hub name.
        trust: whether its Python code may run.
        files: its files -> SHA-256, or its revision on the hub.
        base: for an adapter the model that it is attached to.
    """

    kind: ClassVar[str] = "checkpoint"

    path: str = field(metadata=NOT_IN_KEY)
    trust: bool
    files: Mapping[str, str]
    base: Step | None = None


@dataclass(frozen=True)
class Build(Step):
    """A small model with random weights, and a tokenizer trained on some texts."""

    kind: ClassVar[str] = "build"

    build: BuildConfig
    loading: Loading
    texts: Examples
    seed: int

    def run(self, context: "Context", out: Path) -> Outcome:
        """Make the model."""
        from uwc.models.load import build_model, parameter_count, save_model

        model = build_model(list(self.texts), template=self.loading.template, seed=self.seed, **self.build.model_dump())
        save_model(model, out / MODEL)
        return Outcome(parameters=parameter_count(model.model))


@dataclass(frozen=True)
class FineTune(Step):
    """A model fine-tuned on the benchmark's answers."""

    kind: ClassVar[str] = "finetune"

    base: Step
    loading: Loading
    training: TrainingSettings
    answers: Examples

    def run(self, context: "Context", out: Path) -> Outcome:
        """Train."""
        from uwc.models.load import save_model
        from uwc.objectives.objective import Objective
        from uwc.training.data import TrainingData
        from uwc.training.loop import TrainingLog, train

        model = replace(context.model(self.base, self.loading), name=self.of[-1])
        with context.trackers.run(self.name, self.settings) as run:
            log = train(
                model,
                Objective(FINE_TUNING, model.model),
                TrainingData(retain=self.answers),
                self.training,
                checkpoints=context.store.checkpoints(self),
                log=TrainingLog(on_step=run.step),
            )
        save_model(model, out / MODEL)
        write_json(out / LOG, log.steps)
        return Outcome()


@dataclass(frozen=True)
class Tune(Step):
    """A search for the hyper-parameters of a run; see `uwc.studies.tuning.search`.

    Attributes:
        config: the run.
        common: the training settings that runs share.
        seed: of the trainings.
        search: the number of trials, when they are pruned, and the sampler.
        space: key of the run -> the values to try.
        forget: the questions that trials forget and are scored on.
        retain, refusals: further data of trainings.
        sets: the sets of the retention constraint, and the forget sets.
        retention: the constraint, and the metric of the score.
        tasks: tasks of lm-evaluation-harness in the constraint.
        max_new_tokens: the most tokens of a generated answer.
    """

    kind: ClassVar[str] = "tune"

    original: Step
    loading: Loading
    config: RunConfig
    common: Mapping[str, Any]
    seed: int
    search: SearchSettings
    space: Mapping[str, Range | Choices]
    forget: Examples
    retain: Examples
    refusals: tuple[str, ...]
    sets: Sets
    retention: CalibrateConfig
    tasks: tuple[Task, ...]
    max_new_tokens: int

    def uses(self) -> Iterable[Entry[Any]]:
        """The terms and tricks that trials may have, and the metrics of the score and of the constraint."""
        names = {self.retention.metric, self.retention.ranked_by}
        searched = {key.partition(".")[2] for key in self.space if key.startswith("tricks.")}
        return [
            *(terms.get(t.term) for t in self.config.composition().terms),
            *(tricks.get(name) for name in sorted({*self.config.tricks, *searched})),
            *(entry for registry in (metrics, set_metrics) for entry in registry if entry.name in names),
            *(Entry(task_label(task), task, "") for task in self.retention.tasks if not isinstance(task, str)),
        ]

    def run(self, context: "Context", out: Path) -> Outcome:
        """Carry out the trials."""
        from uwc.studies.tuning import search

        write_json(out / TRIALS, search(self, context).model_dump(mode="json"))
        return Outcome()

    def found(self, store: "Store") -> Tuning:
        """The stored trials."""
        return Tuning.model_validate_json((store.folder(self) / TRIALS).read_text())

    def best(self, store: "Store") -> RunConfig:
        """The run with the best values."""
        return self.config.changed(self.found(store).best_trial.values)

    def training(self, run: RunConfig, *, seed: int) -> TrainingSettings:
        """The training settings of a run of the search; the seed takes precedence over all."""
        return training_settings({**self.common, **run.training, "seed": seed}, where=f"run {run.label!r}")


@dataclass(frozen=True)
class Unlearn(Step):
    """An unlearned model.

    Attributes:
        evaluated: the questions on which early stopping measures retention; none if it does not.
        tuned: the search for its settings; None if they are its own.
    """

    kind: ClassVar[str] = "unlearn"

    original: Step
    loading: Loading
    terms: tuple[WeightedTerm, ...]
    rule: Rule | None
    tricks: Mapping[str, float]
    training: TrainingSettings
    stop: StopConfig | None
    forget: Examples
    retain: Examples
    refusals: tuple[str, ...]
    evaluated: Examples = ()
    tuned: "Tune | None" = field(default=None, metadata=IF_GIVEN)

    def uses(self) -> Iterable[Entry[Any]]:
        """The terms and tricks."""
        return [*(terms.get(t.term) for t in self.terms), *(tricks.get(name) for name in self.tricks)]

    def chosen(self, store: "Store") -> "Unlearn":
        """The step with the settings that it is trained with: its own, or the best values that its search found."""
        if self.tuned is None:
            return self
        run = self.tuned.best(store)
        method, training = run.composition(), self.tuned.training(run, seed=self.training.seed)
        return replace(self, terms=method.terms, rule=method.rule, tricks=run.tricks, training=training, tuned=None)

    @property
    def method(self) -> Method:
        """The composition that it is unlearned with, by the name of the run."""
        return Method(self.of[-1], "", "", self.terms, self.rule)

    def check(self, depth: int) -> None:
        """Refuse what cannot be trained, before any model is loaded.

        Args:
            depth: the number of the model's blocks.

        Raises:
            UserError: as `uwc.training.unlearn.check_unlearning`.
        """
        from uwc.training.data import TrainingData
        from uwc.training.unlearn import check_unlearning

        data, where = TrainingData(self.forget, self.retain, self.refusals), f"run {self.of[-1]!r}"
        try:
            check_unlearning(self.method, data, self.training, tricks=self.tricks, model=depth, where=where)
        except (ConfigError, DataError, ModelError) as error:
            raise type(error)(str(error) if str(error).startswith(where) else f"{where}: {error}") from None

    def run(self, context: "Context", out: Path) -> Outcome:
        """Unlearn the forget set. Divergence is a result: the weights of the last finite step are kept."""
        from uwc.models.load import save_model
        from uwc.objectives.objective import Objective
        from uwc.training.data import TrainingData
        from uwc.training.unlearn import unlearn

        model, chosen = context.model(self.original, self.loading), self.chosen(context.store)
        method = chosen.method
        with context.trackers.run(self.name, chosen.settings) as run:
            done = unlearn(
                model,
                method,
                TrainingData(self.forget, self.retain, self.refusals),
                chosen.training,
                tricks=chosen.tricks,
                frozen=context.frozen(self.original, self.loading, Objective(method, model.model), chosen.training),
                checkpoints=context.store.checkpoints(self),
                stop=self._stop_rule(context),
                on_step=run.step,
            )
            diverged = None if done.diverged is None else done.diverged.step
            run.end(stopped=done.log.stopped, diverged=diverged, collapse=done.collapse)
        write_json(out / LOG, finite(done.log.steps))  # fp16 logs an infinite gradient for a step it skips
        if done.log.effects:
            write_json(out / EFFECTS, finite(done.log.effects))
        save_model(done.model, out / MODEL)
        return Outcome(
            status="done" if done.diverged is None else "diverged",
            message="" if done.diverged is None else str(done.diverged),
            diverged=diverged,
            stopped=done.log.stopped,
            collapse=done.collapse,
        )

    def _stop_rule(self, context: "Context") -> Any:
        from uwc.calibration.calibrate import stop_at

        if self.stop is None:
            return None
        original = context.original(self.original, self.loading) if self.stop.tau is not None else None
        return stop_at(forget=self.forget, retain=self.evaluated, original=original, **self.stop.model_dump())


@dataclass(frozen=True)
class Score(Step):
    """A model scored on every set.

    Attributes:
        served: the server that gives its greedy answers; None if they are generated here.
    """

    kind: ClassVar[str] = "score"

    model: Step
    original: Step
    loading: Loading
    evaluation: Evaluation
    served: Served | None = field(default=None, metadata=IF_GIVEN)

    def uses(self) -> Iterable[Entry[Any]]:
        """The metrics whose values are stored."""
        return self.evaluation.judged

    def run(self, context: "Context", out: Path) -> Outcome:
        """Score the model."""
        from uwc.models.batching import dtype_of
        from uwc.models.load import parameter_count

        reference = context.original(self.original, self.loading)
        same = self.model.key == self.original.key
        model = reference if same else context.model(self.model, self.loading, original=self.original)
        answered = self._answers(context)
        try:
            if answered is not None:
                self._check(answered, model, out)
            with context.keeping(self):
                self.evaluation.run(model, reference, context, self.loading, out, answered=answered)
        finally:
            if answered is not None:
                answered.close()
        return Outcome(
            parameters=parameter_count(model.model),
            vocabulary=len(model.tokenizer),
            dtype=str(dtype_of(model)).removeprefix("torch.") if self.loading.dtype == "auto" else None,
            read_otherwise=context.read_otherwise(self.model, self.original),
        )

    def _answers(self, context: "Context") -> "ServedAnswers | None":
        from uwc.models.served import ServedAnswers

        return None if self.served is None else ServedAnswers(self.served, context.store.checkpoints(self))

    def _check(self, answers: "ServedAnswers", model: Model, out: Path) -> None:
        """Compare the server's model with the checkpoint, and write what was found."""
        work = self.evaluation.work
        asked = work.sets[FORGET_SETS[0]]
        found = answers.require_same_model(model, asked, max_new_tokens=work.max_new_tokens)
        write_json(out / SERVED, {"equal": found.equal, "gaps": list(found.gaps)})


@dataclass(frozen=True)
class Calibrate(Step):
    """The calibrated mixture of an unlearned model with the original, scored on every set.

    Attributes:
        tasks: the tasks of lm-evaluation-harness in the retention constraint.
    """

    kind: ClassVar[str] = "calibrate"

    unlearned: Step
    original: Step
    loading: Loading
    evaluation: Evaluation
    retention: CalibrateConfig
    tasks: tuple[Task, ...] = field(default=(), metadata=IF_GIVEN)

    def uses(self) -> Iterable[Entry[Any]]:
        """The metrics of the retention constraint and of the ranking, those that judges are asked for, and measures."""
        names = {self.retention.metric, self.retention.ranked_by}
        kept = [entry for registry in (metrics, set_metrics) for entry in registry if entry.name in names]
        measures = [Entry(task_label(task), task, "") for task in self.retention.tasks if not isinstance(task, str)]
        return [*kept, *self.evaluation.judged, *measures]

    def run(self, context: "Context", out: Path) -> Outcome:
        """Find the mixture, and score it."""
        from uwc.calibration.calibrate import calibrate

        config, sets = self.retention, self.evaluation.work.sets
        max_new_tokens = self.evaluation.work.max_new_tokens
        mixing = context.mixing(self.original, self.unlearned, self.loading)
        with context.keeping(self):
            found = calibrate(
                mixing,
                config.measures(sets, max_new_tokens=max_new_tokens, found=self.tasks),
                {name: sets[name] for name in FORGET_SETS if name in sets},
                tau=config.tau,
                metric=config.ranked_by,
                scan=config.scan,
                resolution=config.resolution,
                max_new_tokens=max_new_tokens,
            )
            found.save(out)
            original = context.original(self.original, self.loading)
            self.evaluation.run(mixing.mix(found.alpha), original, context, self.loading, out)
        return Outcome(alpha=found.alpha)


@dataclass(frozen=True)
class Depth(Step):
    """What the original loses with a model's states at each of its blocks; see `uwc.models.patching.patched_drops`.

    That of the retrained model is computed once for all models of a study.

    Attributes:
        model: the model that gives the states; for a calibration its mixture.
    """

    kind: ClassVar[str] = "depth"

    model: Step
    original: Step
    loading: Loading
    work: DepthWork

    def run(self, context: "Context", out: Path) -> Outcome:
        """Compute the drops on every set."""
        original = context.original(self.original, self.loading)
        model = _loaded(self.model, self.original, self.loading, context)
        with context.keeping(self):
            save_drops(out, self.work.drops(original, model))
        return Outcome()


def _loaded(step: Step, original: Step, loading: Loading, context: "Context") -> Model:
    """The model of a step; for a calibration its mixture."""
    if not isinstance(step, Calibrate):
        return context.model(step, loading, original=original)
    alpha = context.store.outcome(step).alpha
    assert alpha is not None
    return context.mixing(step.original, step.unlearned, loading).mix(alpha)


@dataclass(frozen=True)
class Attack(Step):
    """A model under every variant of a chain of attacks.

    Attributes:
        model: the model; for a calibration its mixture.
        attack: each attack of the chain with its complete settings.
        measured: the metrics.
        data: the attacker's data, and the scored examples, concatenated by set.
        sets: set -> its scored examples.
        texts: the texts under attack that are kept.
        leaks: settings of sampling answers; None if no metric reads samples.
        depth: the drops of the retrained model; None if no metric reads those of the attacked one.
        others: the content of further models that the attack asks, by path.
    """

    kind: ClassVar[str] = "attack"

    model: Step
    original: Step
    loading: Loading
    attack: tuple[tuple[str, Mapping[str, Any]], ...]
    measured: tuple[str, ...]
    data: AttackData
    sets: Sets
    max_new_tokens: int
    texts: Texts = True
    leaks: LeakSettings | None = field(default=None, metadata=IF_GIVEN)
    depth: Depth | None = field(default=None, metadata=IF_GIVEN)
    others: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata=IF_GIVEN)

    def uses(self) -> Iterable[Entry[Any]]:
        """The attacks and the metrics."""
        leaks = [] if self.leaks is None else [self.leaks.metric]
        used = [entry for name, given in self.attack for entry in AttackStep(attacks.get(name), given).used]
        return [*used, *(metrics.get(m) for m in self.measured), *leaks]

    def run(self, context: "Context", out: Path) -> Outcome:
        """Attack and score. Divergence of relearning and failure of an attack are results."""
        from uwc.attacks.chain import make_chain
        from uwc.attacks.evaluate import attacked_values, save_variants

        needs_reference = "reference" in needs_of(self.measured)
        reference = context.original(self.original, self.loading) if needs_reference else None
        model = self._model(context)
        chain = make_chain([name for name, _ in self.attack], dict(self.attack))
        try:
            with context.keeping(self):
                variants = attacked_values(
                    model,
                    self.data,
                    chain,
                    self.measured,
                    max_new_tokens=self.max_new_tokens,
                    reference=reference,
                    texts=self.texts,
                    leaks=self.leaks,
                    known=self._known(context),
                )
        except (TrainingDiverged, AttackFailed) as error:
            status = "diverged" if isinstance(error, TrainingDiverged) else "failed"
            return Outcome(status=status, message=str(error))
        save_variants(out / ATTACKED, variants, self.sets)
        return Outcome()

    def _known(self, context: "Context") -> KnownDrops | None:
        """The drops of the retrained model on the scored examples."""
        if self.depth is None:
            return None
        work = self.depth.work
        drops = load_drops(context.store.folder(self.depth), self.sets)
        rows = {name: {example.id: i for i, example in enumerate(work.sets[name])} for name in self.sets}
        known = [drops[name][[rows[name][e.id] for e in examples]] for name, examples in self.sets.items()]
        return KnownDrops(context.original(self.original, self.loading), work.span, np.concatenate(known))

    def _model(self, context: "Context") -> Model:
        """The model with an adapter merged, cached for the other attacks on it; drops the one before."""
        from uwc.models.adapters import merge_adapter

        if self.model.key == self.original.key:
            return context.original(self.original, self.loading)

        def load() -> Any:
            return merge_adapter(_loaded(self.model, self.original, self.loading, context))

        key = ("attacked", self.model.key)
        context.cache.keep(("original", self.original.key), key)
        model: Model = context.cache.get(key, load)
        return model
