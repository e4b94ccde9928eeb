"""The steps of a study, made from its configuration and its benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from uwc.attacks.chain import Chain
from uwc.attacks.data import AttackData, split_by_subject
from uwc.attacks.evaluate import check_metrics, visible
from uwc.data.benchmark import FORGET, HOLDOUT, RETAIN, RETAIN_EVAL, Benchmark
from uwc.data.benchmarks import benchmarks
from uwc.data.example import Example, spread
from uwc.data.question_files import read_examples
from uwc.errors import ConfigError, DataError, UserError
from uwc.metrics.depth import UDS, depth_work
from uwc.metrics.evaluate import Scoring, Work
from uwc.metrics.harness import find_tasks
from uwc.metrics.registry import JUDGES, metrics
from uwc.metrics.samples import SAMPLES, reading_samples, require_no_judge, require_read
from uwc.metrics.scored import TEXTS, needs_of
from uwc.metrics.set_metrics import UTILITY_SETS
from uwc.metrics.suites import Given, chosen_metrics, in_all_wordings, metric_name, missing_need
from uwc.metrics.tasks import Task
from uwc.models.endpoint import Served, require_openai
from uwc.objectives.methods import Method
from uwc.registry import unknown_name
from uwc.results import JudgeInfo, ModelKey, RequestKind
from uwc.studies.config import RunConfig, StudyConfig
from uwc.studies.judging import judge_fingerprints, judge_infos, used_judges
from uwc.studies.needs import ChosenAttack, attack_section, chosen_attacks, measurable, needed_metrics
from uwc.studies.requests import PlannedRequest, PlannedRequests, scale_parts, sequence_parts, together
from uwc.studies.search_space import require_optuna, search_space, tuned_runs
from uwc.studies.sections import AttackConfig, ChainConfig, require_other_names
from uwc.studies.steps import (
    Attack,
    Build,
    Calibrate,
    Checkpoint,
    Depth,
    Evaluation,
    FineTune,
    Score,
    Step,
    Tune,
    Unlearn,
)
from uwc.studies.store import checkpoint_fingerprint
from uwc.training.settings import LAST_SEED, check_retain

S = TypeVar("S", bound=Step)

RETAIN_SHARE = 0.5
"""The attacker's share of the retain set's subjects, if all of it is used in unlearning."""


@dataclass(frozen=True)
class AttackSetup:
    """The data of a study's attacks; one attack scores all sets.

    Attributes:
        data: the attacker's data, and the scored examples, concatenated by set.
        sets: the scored examples of each set, a subset of those that the study scores.
    """

    data: AttackData
    sets: Mapping[str, tuple[Example, ...]]


def attack_setup(
    config: AttackConfig, benchmark: Benchmark, scored: Mapping[str, Sequence[Example]], *, seed: int
) -> AttackSetup:
    """The attacker's part of the benchmark, and the rest of the sets, to be scored.

    The attacker has some subjects of the forget set, the retain examples that were used in unlearning, and an unrelated
    set. None of their subjects or questions is scored.

    Args:
        config: the study's attacks.
        benchmark: the source of the examples.
        scored: every set that the study scores.
        seed: of the choice of the attacker's subjects.

    Raises:
        ConfigError: an unknown set is named.
        DataError: there are too few subjects, or the attacker's data overlap the scored examples.
    """
    for name in config.sets:
        if name not in scored:
            raise ConfigError(unknown_name("set in attack.sets", name, list(scored)))
    attacker = config.attacker
    train: list[Example] = []
    if attacker.forget_share:
        train, _ = split_by_subject(benchmark[FORGET], attacker.forget_share, seed=seed)
    retain = list(benchmark[RETAIN])
    if benchmark.retention == RETAIN and any(name.startswith(RETAIN) for name in config.sets):
        retain, _ = split_by_subject(retain, RETAIN_SHARE, seed=seed)
    owned = {e.id for e in (*train, *retain)}
    sets = {name: spread([e for e in scored[name] if e.id not in owned], config.examples) for name in config.sets}
    asked = [e for examples in sets.values() for e in examples]
    data = AttackData(
        asked,
        train=train,
        retain=spread(retain, attacker.retain_examples),
        unrelated=_unrelated(attacker.unrelated, benchmark),
        translations=_in_column(attacker.translations, "translation", asked) if attacker.translations else {},
        questions={name: _in_column(path, name, asked) for name, path in attacker.questions.items()},
        original=benchmark.training_examples(with_forget=True),
        forget=benchmark[FORGET],
    )
    return AttackSetup(data, sets)


def chain_metrics(
    metrics: Sequence[str], config: ChainConfig, setup: AttackSetup, *, depths: Sequence[int]
) -> list[str]:
    """The metrics that are sensitive to an attack, which is checked against the data and the models' depths.

    Raises:
        ConfigError: no metric is, a metric cannot be computed under attack, or a layer does not exist.
        DataError: data that it needs is missing.
    """
    chain: Chain = config.made()
    seen = visible(metrics, chain)
    check_metrics(seen or metrics, [chain], examples=setup.data.scored, reference=True, depth=True)
    try:
        chain.check_data(setup.data)
    except DataError as error:
        raise DataError(
            f"{error}; in a study the attacker's data come from the benchmark: a part of the forget set "
            "(attack.attacker.forget_share above 0), the retain set, and a further set (attack.attacker.unrelated); "
            "translations from the file attack.attacker.translations, and other forms from those of "
            "attack.attacker.questions"
        ) from None
    for depth in depths:
        chain.check_depth(depth)
    return seen


def _asked_models(chain: Chain) -> dict[str, dict[str, str]]:
    """Path -> the content of further models that an attack asks, as another attacker of evolved prompts."""
    return {name: checkpoint_fingerprint(name) for step in chain.steps for name in step.asked}


def _in_column(path: str, column: str, asked: Sequence[Example]) -> dict[str, str]:
    """Id -> the question in a column of a file, for the questions in the file."""
    known = {e.question: e.answer for e in read_examples(path, columns={"answer": column})}
    return {e.id: known[e.question] for e in asked if e.question in known}


def _unrelated(name: str | None, benchmark: Benchmark) -> Sequence[Example]:
    further = [split for split in benchmark.splits if split not in (FORGET, RETAIN, RETAIN_EVAL, HOLDOUT)]
    if name is None:
        return benchmark[further[0]] if further else ()
    if name not in benchmark.splits:
        raise ConfigError(unknown_name("set in attack.attacker.unrelated", name, list(benchmark.splits)))
    return benchmark[name]


SETS_OF: dict[RequestKind, str] = {"sequence": "request", "scale": "forget set"}
"""Kind of requests -> what each is called in messages."""

ORIGINAL, RETRAINED = ModelKey(role="original"), ModelKey(role="retrained")


@dataclass(frozen=True)
class PlannedModel:
    """A model of the study with its steps.

    Attributes:
        key: its identity.
        model: the step that makes or names it; for a calibrated model the calibration.
        score: the step with its scores.
        depth: the step with its states' effect on the original, where a metric reads it; None for the original.
    """

    key: ModelKey
    model: Step
    score: Step
    depth: Depth | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One unlearned model: its configuration and its steps."""

    config: RunConfig
    model: Step
    score: Score
    calibrate: Calibrate | None
    depth: Depth | None = None
    calibrated_depth: Depth | None = None

    @property
    def delivered(self) -> PlannedModel:
        """The model as delivered."""
        return PlannedModel(ModelKey(role="unlearned", run=self.config.label), self.model, self.score, self.depth)

    @property
    def calibrated(self) -> PlannedModel:
        """The calibrated mixture."""
        assert self.calibrate is not None
        key = ModelKey(role="calibrated", run=self.config.label)
        return PlannedModel(key, self.calibrate, self.calibrate, self.calibrated_depth)

    @property
    def models(self) -> list[PlannedModel]:
        """The model as delivered and, if there is one, the calibrated mixture."""
        return [self.delivered] if self.calibrate is None else [self.delivered, self.calibrated]


@dataclass(frozen=True)
class PlannedMember:
    """A model of the pools of the meta-evaluation."""

    knowing: bool
    model: FineTune
    score: Score
    depth: Depth | None = None


@dataclass(frozen=True)
class PlannedAttack:
    """One attack on one model."""

    model: PlannedModel
    chain: ChainConfig
    step: Attack


@dataclass(frozen=True)
class Plan:
    """The steps of a study.

    Attributes:
        config: the study.
        benchmark: its questions.
        scoring: the metrics and sets, the same for every model.
        left_out: metric of the suite -> its missing need.
        original: the model before unlearning.
        retrained: the model that was never trained on the forget set, if there is one.
        runs: the unlearned models.
        requests: the models of requests in sequence, and of forget sets that grow.
        pools: the models with and without the knowledge; none in a study without the section `robustness`.
        attack: the section `attack` with the attacks of the study's policies; None for a study without attacks.
        setup: the data of attacks; None for a study without attacks.
        unmet: the attacks of policies that cannot be carried out, each with the reason.
        attacks: every attack on every model, ordered by model.
        steps: all steps in topological order.
        judges: the judges of generated answers.
        tasks: the tasks of lm-evaluation-harness on which every model is scored.
    """

    config: StudyConfig
    benchmark: Benchmark
    scoring: Scoring
    left_out: Mapping[str, str]
    original: PlannedModel
    retrained: PlannedModel | None
    runs: tuple[PlannedRun, ...]
    requests: tuple[PlannedRequests, ...]
    pools: tuple[PlannedMember, ...]
    attack: AttackConfig | None
    setup: AttackSetup | None
    unmet: tuple[tuple[ChainConfig, str], ...]
    attacks: tuple[PlannedAttack, ...]
    steps: tuple[Step, ...]
    judges: tuple[JudgeInfo, ...] = ()
    tasks: tuple[Task, ...] = ()

    @property
    def sets(self) -> Mapping[str, Sequence[Example]]:
        """Set -> its questions, on which every model is scored."""
        return self.scoring.given.sets

    @property
    def attacked_metrics(self) -> tuple[str, ...]:
        """The metrics under attack; none in a study without attacks."""
        of_policies = (name for attack in self.attacks for name in attack.step.measured)
        return tuple(dict.fromkeys([*_attacked_metrics(self.config, self.scoring), *of_policies]))

    @property
    def references(self) -> list[PlannedModel]:
        """The original and, if there is one, the retrained model."""
        return [self.original] if self.retrained is None else [self.original, self.retrained]

    @property
    def models(self) -> list[PlannedModel]:
        """Every scored model: the references, and each run as delivered and calibrated."""
        return [*self.references, *(model for run in self.runs for model in run.models)]


def scored_sets(benchmark: Benchmark) -> dict[str, Sequence[Example]]:
    """The sets on which every model is scored; ``retain`` is the split on which retention is measured."""
    sets: dict[str, Sequence[Example]] = {
        "forget": benchmark[FORGET],
        "retain": benchmark[benchmark.retention],
        "holdout": benchmark[HOLDOUT],
    }
    further = {n: s for n, s in benchmark.splits.items() if n not in (FORGET, RETAIN, RETAIN_EVAL, HOLDOUT)}
    return in_all_wordings({**sets, **further})


def divided(benchmark: Benchmark, config: StudyConfig) -> tuple[Benchmark, Benchmark]:
    """The part of a benchmark that trials of a search for hyper-parameters are scored on, and the reported part.

    The forget set and every set that measures retention are divided by subject.

    Raises:
        ConfigError: a set has fewer than two subjects.
    """
    tune, calibrate = config.tune, config.calibration
    assert tune is not None
    names = UTILITY_SETS if calibrate.utility else calibrate.sets
    bases = {name.removesuffix("_paraphrased") for name in names}
    measured = {benchmark.retention if name == RETAIN else name for name in bases}
    parts: list[dict[str, tuple[Example, ...]]] = [{}, {}]
    for name, split in benchmark.splits.items():
        if name not in (FORGET, *measured):
            parts[1][name] = split
            continue
        try:
            owned = split_by_subject(split, tune.share, seed=tune.seed, owner="the trials")
        except DataError as error:
            raise ConfigError(f"tune.share: the set {name!r}: {error}") from None
        for part, examples in zip(parts, owned, strict=True):
            part[name] = tuple(examples)
    parts[0].setdefault(RETAIN, benchmark[RETAIN])
    trials, reported = (replace(benchmark, splits=part) for part in parts)
    return trials, reported


def make_plan(config: StudyConfig) -> Plan:
    """The steps of a study. Reads the benchmark, but neither loads nor trains a model.

    Raises:
        ConfigError: the study needs something that the benchmark does not have.
        DataError: the benchmark's files are missing or malformed.
        ModelError: a checkpoint of the study does not exist.
    """
    entry = benchmarks.get(config.benchmark.name)
    settings = benchmarks.check(config.benchmark.name, config.benchmark.settings)
    whole: Benchmark = entry.function(**settings)
    trials, benchmark = (None, whole) if config.tune is None else divided(whole, config)
    sets = scored_sets(benchmark)
    scoring, left_out = _scoring(config, sets, benchmark.metrics)
    if config.calibrate is not None:
        config.calibrate.check(sets, benchmark=benchmark.name, max_new_tokens=config.score.max_new_tokens)
    require_other_names(config.score.tasks, sets, where="score.tasks")
    attack = attack_section(config, scoring.given)
    setup = None if attack is None else _setup(attack, benchmark, sets, seed=config.seed)
    return _Planner(config, benchmark, scoring, attack, setup, whole=whole, trials=trials).plan(left_out)


def _setup(
    attack: AttackConfig, benchmark: Benchmark, sets: Mapping[str, Sequence[Example]], *, seed: int
) -> AttackSetup:
    """The data of attacks; for attacks of policies alone without forget questions of the attacker's if there are too
    few subjects for that."""
    subjects = {example.subject or example.id for example in benchmark[FORGET]}
    if not attack.chains and len(subjects) < 2:
        attack = attack.model_copy(update={"attacker": attack.attacker.model_copy(update={"forget_share": 0.0})})
    return attack_setup(attack, benchmark, sets, seed=seed)


def _scoring(
    config: StudyConfig, sets: Mapping[str, Sequence[Example]], own: Sequence[str]
) -> tuple[Scoring, dict[str, str]]:
    """The metrics of every model, and the metrics of the suite that are left out, with the reason.

    They include the metric of the ranking, that of utility, and those of the policies that can be measured.

    Raises:
        ConfigError: a need of a metric is not met.
    """
    score = config.score
    models = {"original", *set(score.judges.given()) & set(JUDGES), *(["retrained"] if config.retrained else [])}
    given = Given(sets, frozenset(models), score.max_new_tokens, score.samples, sets_of=score.sets)
    ranked_by = () if config.calibrate is None else (config.calibration.ranked_by,)
    utility = () if config.robustness is None else (config.utility,)
    named = score.metrics or (() if score.suite else own)
    suite = score.suite or (None if named else "core")
    try:
        names, left_out = chosen_metrics(suite, (*named, *ranked_by, *utility, *needed_metrics(config, given)), given)
        scoring = Scoring(given, names, _settings(score.settings, names), seed=config.seed, complete=True)
    except ConfigError as error:
        raise ConfigError(f"score: {error}") from None
    require_read(score.samples, names)
    _require_settings_hold(config, scoring)
    _require_sets_hold(config, scoring)
    return scoring, left_out


def _require_sets_hold(config: StudyConfig, scoring: Scoring) -> None:
    """Raise ConfigError if sets are named for metrics that cannot be measured on them, or that other parts of the study
    need on further sets."""
    given, calibration, attack = scoring.given, config.calibration, config.attack
    under_attack = () if attack is None else _attacked_metrics(config, scoring)
    for name, of in config.score.sets.items():
        where = f"score.sets: {name!r}"
        if name not in scoring.of_examples:
            kind = "is of whole sets" if name in scoring.of_sets else "is not measured; name it in score.metrics"
            raise ConfigError(f"{where} {kind}, or leave it out here")
        for of_set in of:
            if of_set not in given.sets:
                raise ConfigError(f"{where}: {unknown_name('set', of_set, list(given.sets))}")
            if lacking := missing_need(name, of_set, given):
                raise ConfigError(f"{where} cannot be measured on {of_set!r}: it needs {lacking}")
        if not of:
            raise ConfigError(f"{where} has no set; leave the metric out of score.metrics, or name a set")
        ranked = config.calibrate is not None and name == calibration.ranked_by
        needed = {
            "models are ranked by it there": (FORGET,) if ranked else (),
            "its faithfulness is measured there": (FORGET,) if config.robustness else (),
            "utility is measured there": ("retain",) if config.robustness and name == config.utility else (),
            "attacks measure it there": attack.sets if attack is not None and name in under_attack else (),
        }
        for why, sets in needed.items():
            for of_set in sets:
                if of_set in given.sets and given.leaves_out(name, of_set):
                    raise ConfigError(f"{where} leaves out {of_set!r}, and {why}; add it")


def _settings(given: Mapping[str, Mapping[str, Any]], measured: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """The settings of metrics by name. Raises ConfigError if one is not measured, so that they have no effect."""
    found = {metric_name(name): settings for name, settings in given.items()}
    for name in found:
        if name not in measured:
            raise ConfigError(
                f"settings: {name!r} is not measured; name it in score.metrics, or leave its settings out"
            )
    return found


def _require_settings_hold(config: StudyConfig, scoring: Scoring) -> None:
    """Raise ConfigError if attacks, the calibration or a policy measure a metric with settings of its own: they read
    its defaults, and its values would not be comparable."""
    calibration = config.calibration
    reading = {
        "attacks measure": _attacked_metrics(config, scoring),
        "the calibration measures": (calibration.ranked_by, calibration.metric) if config.calibrate else (),
        "a policy measures": needed_metrics(config, scoring.given),
    }
    for name in scoring.settings:
        for who, names in reading.items():
            if name in names:
                raise ConfigError(
                    f"score.settings: {who} {name!r} with its defaults, so that its numbers would not be comparable; "
                    "leave its settings out, or measure another metric there (attack.metrics, calibrate.rank_by)"
                )


def _attacked_metrics(config: StudyConfig, scoring: Scoring) -> tuple[str, ...]:
    """The metrics that are measured under attack; none in a study without attacks."""
    if config.attack is None or not config.attack.chains:
        return ()
    hidden = {*JUDGES, SAMPLES, "gradient_norms", "similar_from", *(["depth"] if UDS in scoring.settings else [])}
    facts = {name: metrics.get(name).facts for name in scoring.of_examples}
    visible = [name for name, of in facts.items() if not hidden & set(of["needs"]) and "only" not in of]
    ranked_by = config.calibration.ranked_by
    measured = config.attack.measured(scoring.metrics, visible=visible, ranked_by=ranked_by)
    require_no_judge(config.score.samples, measured)
    return measured


def _served(config: StudyConfig, work: Work) -> dict[str, Served]:
    """The models whose greedy answers come from servers.

    Raises:
        ConfigError: no answers are generated, or the study does not have such a model.
        UserError: the package openai is not installed.
    """
    if config.generation is None:
        return {}
    if not any(set(TEXTS) & set(needs) for needs in work.needs.values()):
        raise ConfigError(
            "generation: no answers are generated, so that it has no effect; set score.max_new_tokens to more than 0, "
            "or leave it out"
        )
    require_openai()
    references = ["original", *(["retrained"] if config.retrained else [])]
    return config.generation.served(references, [run.label for run in config.unlearn.runs])


class _Planner:
    def __init__(
        self,
        config: StudyConfig,
        benchmark: Benchmark,
        scoring: Scoring,
        attack: AttackConfig | None,
        setup: AttackSetup | None,
        *,
        whole: Benchmark,
        trials: Benchmark | None,
    ) -> None:
        self.config, self.benchmark, self.scoring = config, benchmark, scoring
        self.whole, self.trials = whole, trials
        self.searches: dict[str, Tune] = {}
        self.made: dict[str, Step] = {}
        self.attack, self.setup = attack, setup
        self.unmet: list[tuple[ChainConfig, str]] = []
        model, paths = config.model, config.score.judges.given()
        self.loading = replace(model.loading(), trust_remote_code=False)  # each checkpoint says so itself
        used = used_judges(paths, scoring)
        fingerprints = judge_fingerprints(used)
        self.judges = judge_infos(paths, scoring, fingerprints)
        harness = config.harness.settings()
        scored = find_tasks(config.score.tasks, harness, where="score.tasks")
        self.evaluation = Evaluation(scoring.work(), fingerprints, used, scored)
        self.kept = () if config.calibrate is None else config.calibrate.found_tasks(harness)
        self.by_block = depth_work(scoring)
        self.served = _served(config, self.evaluation.work)

    def plan(self, left_out: Mapping[str, str]) -> Plan:
        base = self.base()
        original = self.finetuned(base, ORIGINAL) if self.config.finetune else base
        retrained = self.retrained(base)
        references = [self.reference(ORIGINAL, original, original)]
        if retrained is not None:
            references.append(self.reference(RETRAINED, retrained, original))
        runs = tuple(self.run(run, original) for run in self.config.unlearn.runs)
        requests = tuple(self.requests(runs, original))
        pools = tuple(self.pools(base, original))
        attacks = tuple(self.attacks(references, runs, original))
        steps = [
            base,
            *(r.model for r in references),
            *(r.score for r in references),
            *(r.depth for r in references if r.depth is not None),
            *self.searches.values(),
            *(s for run in runs for m in run.models for s in (m.model, m.score, m.depth) if s is not None),
            *(s for asked in requests for m in asked.models for s in (m.model, m.score, m.calibrate) if s is not None),
            *(s for member in pools for s in (member.model, member.score, member.depth) if s is not None),
            *(a.step for a in attacks),
        ]
        return Plan(
            self.config,
            self.benchmark,
            self.scoring,
            left_out,
            references[0],
            references[1] if retrained is not None else None,
            runs,
            requests,
            pools,
            self.attack,
            self.setup,
            tuple(self.unmet),
            attacks,
            tuple({step.id: step for step in steps}.values()),
            self.judges,
            self.evaluation.tasks,
        )

    def base(self) -> Step:
        build = self.config.model.build
        if build is None:
            name = "base model" if self.config.finetune else "original model"
            return self.checkpoint(("original",), name, str(self.config.model.path))
        texts = self.whole.training_examples(with_forget=True)
        return Build(("base",), "build model", build, self.loading, texts, self.config.seed)

    def checkpoint(self, of: tuple[str, ...], name: str, path: str, base: Step | None = None) -> Checkpoint:
        """A given model; an adapter has a base."""
        from uwc.models.adapters import adapter_config  # heavy: only for checkpoints

        adapted = base is not None and adapter_config(path) is not None
        files = checkpoint_fingerprint(path, with_base=not adapted)
        return Checkpoint(of, name, path, self.config.model.trust_remote_code, files, base if adapted else None)

    def finetuned(self, base: Step, key: ModelKey) -> FineTune:
        assert self.config.finetune is not None
        answers = self.whole.training_examples(with_forget=key == ORIGINAL)
        return FineTune((key.role,), f"fine-tune {key.role}", base, self.loading, self.config.finetune, answers)

    def pools(self, base: Step, original: Step) -> Iterator[PlannedMember]:
        """The models of both pools: the seeds follow that of `finetune`, and the lengths take turns."""
        if self.config.robustness is None:
            return
        pools, training = self.config.robustness.pools, self.config.finetune
        assert training is not None
        for pool, count in (("knowing", pools.knowing), ("ignorant", pools.ignorant)):
            answers = self.whole.training_examples(with_forget=pool == "knowing")
            for number in range(count):
                of, name = ("pool", f"{pool} {number + 1}"), f"{pool} {number + 1}"
                changed = replace(
                    training,
                    seed=(training.seed + number + 1) % (LAST_SEED + 1),
                    epochs=training.epochs * pools.epochs[number % len(pools.epochs)],
                )
                model = FineTune(of, f"fine-tune {name}", base, self.loading, changed, answers)
                score = Score(of, f"score {name}", model, original, self.loading, self.evaluation)
                depth = self.depth(of, name, model, original)
                yield PlannedMember(pool == "knowing", model, score, depth)

    def retrained(self, base: Step) -> Step | None:
        if isinstance(self.config.retrained, str):
            return self.checkpoint(("retrained",), "retrained model", self.config.retrained)
        return self.finetuned(base, RETRAINED) if self.config.retrained else None

    def reference(self, key: ModelKey, model: Step, original: Step) -> PlannedModel:
        depth = self.depth(_of(key), key.label, model, original) if key == RETRAINED else None
        return PlannedModel(key, model, self.score(key, model, original), depth)

    def score(self, key: ModelKey, model: Step, original: Step) -> Score:
        served = self.served.get(key.run or key.role)
        return Score(_of(key), f"score {key.label}", model, original, self.loading, self.evaluation, served)

    def depth(self, of: tuple[str, ...], label: str, model: Step, original: Step) -> Depth | None:
        if self.by_block is None:
            return None
        return Depth(of, f"depth of {label}", model, original, self.loading, self.by_block)

    def run(self, run: RunConfig, original: Step) -> PlannedRun:
        key = ModelKey(role="unlearned", run=run.label)
        model = self.unlearned(run, key, original)
        mixed = ModelKey(role="calibrated", run=run.label)
        calibrate = self.calibrated(_of(mixed), run.label, model, original)
        calibrated_depth = None if calibrate is None else self.depth(_of(mixed), mixed.label, calibrate, original)
        score, depth = self.score(key, model, original), self.depth(_of(key), key.label, model, original)
        return PlannedRun(run, model, score, calibrate, depth, calibrated_depth)

    def calibrated(self, of: tuple[str, ...], label: str, model: Step, original: Step) -> Calibrate | None:
        if self.config.calibrate is None:
            return None
        name, retention = f"calibrate {label}", self.config.calibrate
        return Calibrate(of, name, model, original, self.loading, self.evaluation, retention, self.kept)

    def unlearned(self, run: RunConfig, key: ModelKey, original: Step) -> Step:
        if run.checkpoint is not None:
            return self.checkpoint(_of(key), f"checkpoint {run.label}", run.checkpoint, original)
        return self.trained(_of(key), run, f"unlearn {run.label}", original, original, self.benchmark[FORGET])

    def trained(
        self, of: tuple[str, ...], run: RunConfig, name: str, start: Step, original: Step, forget: Sequence[Example]
    ) -> Unlearn:
        """A run from the model `start`; its search, if there is one, is from the study's original."""
        method = run.composition()
        if "refusals" in method.answer_pools and not self.benchmark.refusals:
            raise ConfigError(f"run {run.label!r} teaches refusals, and the benchmark has none; give it 'refusals'")
        stop, settings = self.config.unlearn.stop_of(run), self.config.unlearn.settings_of(run, seed=self.config.seed)
        check_retain(settings, self.whole[RETAIN], where=f"run {run.label!r}")
        return Unlearn(
            of,
            name,
            start,
            self.loading,
            method.terms,
            method.rule,
            run.tricks,
            settings,
            stop,
            forget,
            self.whole[RETAIN],
            self.refusals(method),
            self.benchmark[self.benchmark.retention] if stop is not None and stop.tau is not None else (),
            self.search(run, original),
        )

    def requests(self, runs: Sequence[PlannedRun], original: Step) -> Iterator[PlannedRequests]:
        """The models of every run that trains, after each request."""
        unlearn, seed = self.config.unlearn, self.config.seed
        trained = [run for run in runs if not run.config.given]
        kinds: dict[RequestKind, dict[str, tuple[Example, ...]]] = {}
        if unlearn.sequence is not None:
            kinds["sequence"] = sequence_parts(unlearn.sequence, self.benchmark, seed=seed)
        if unlearn.scale:
            kinds["scale"] = scale_parts(unlearn.scale, self.benchmark, seed=seed)
        for kind, parts in kinds.items():
            for run in trained:
                models = tuple(self.requested(kind, run, parts, original))
                yield PlannedRequests(kind, run.config.label, parts, models)

    def requested(
        self, kind: RequestKind, run: PlannedRun, parts: Mapping[str, tuple[Example, ...]], original: Step
    ) -> Iterator[PlannedRequest]:
        names, last = list(parts), original
        for number, name in enumerate(names, start=1):
            known = {part: parts[part] for part in (names[:number] if kind == "scale" else (name,))}
            forget = together(known, self.benchmark)
            if forget == self.benchmark[FORGET]:
                yield PlannedRequest(tuple(names[:number]), run.model, run.score, run.calibrate)
                continue
            label = run.config.label
            of, title = (kind, name, label), f"{label}, {SETS_OF[kind]} {name}"
            model = self.once(self.trained(of, run.config, f"unlearn {title}", last, original, forget))
            score = self.once(Score(of, f"score {title}", model, original, self.loading, self.evaluation))
            calibrate = self.calibrated(of, title, model, original)
            calibrate = None if calibrate is None else self.once(calibrate)
            yield PlannedRequest(tuple(names[:number]), model, score, calibrate)
            last = model if kind == "sequence" else original

    def once(self, step: S) -> S:
        """The first step that was made with the key, as a sequence and a scale may begin with the same part."""
        return cast("S", self.made.setdefault(step.key, step))

    def refusals(self, method: Method) -> tuple[str, ...]:
        """The refusals, for a method that trains on them."""
        return self.whole.refusals if "refusals" in method.answer_pools else ()

    def search(self, run: RunConfig, original: Step) -> Tune | None:
        """The search for the settings of a run, one for all seeds of a group; None if they are its own."""
        tune, unlearn, trials = self.config.tune, self.config.unlearn, self.trials
        if tune is None or trials is None or run not in tuned_runs(tune, unlearn):
            return None
        label = run.group or run.label
        if label not in self.searches:
            require_optuna()
            sets, calibrate = scored_sets(trials), self.config.calibration
            calibrate.check(sets, benchmark=trials.name, max_new_tokens=self.config.score.max_new_tokens)
            names = (FORGET, *(UTILITY_SETS if calibrate.utility else calibrate.sets))
            own = {key: value for key, value in run.training.items() if key != "seed"}
            self.searches[label] = Tune(
                (label,),
                f"tune {label}",
                original,
                self.loading,
                run.model_copy(update={"name": label, "group": "", "training": own}),
                unlearn.training,
                self.config.seed,
                tune.settings,
                search_space(tune, unlearn, run),
                trials[FORGET],
                self.whole[RETAIN],
                self.refusals(run.composition()),
                {name: sets[name] for name in names},
                calibrate,
                self.kept,
                self.config.score.max_new_tokens,
            )
        return self.searches[label]

    def attacks(
        self, references: Sequence[PlannedModel], runs: Sequence[PlannedRun], original: Step
    ) -> Iterator[PlannedAttack]:
        """All attacks, ordered by model, so that one model at a time is in memory."""
        config, setup = self.attack, self.setup
        if config is None or setup is None:
            return
        chosen = self.chosen(setup)
        known = next((model.depth for model in references if model.depth is not None), None)
        without_forget = replace(setup.data, forget=())
        for model in self.attacked(config, references, runs):
            for chain, measured in chosen:
                relearned = any("forget" in step.entry.facts["needs"] for step in chain.made().steps)
                step = Attack(
                    (*_of(model.key), chain.label),
                    f"attack {model.key.label} with {chain.label}",
                    model.model,
                    original,
                    self.loading,
                    chain.steps,
                    measured,
                    setup.data if relearned else without_forget,
                    setup.sets,
                    self.config.score.max_new_tokens,
                    config.texts,
                    self.config.score.samples if reading_samples(measured) else None,
                    known if "depth" in needs_of(measured) else None,
                    _asked_models(chain.made()),
                )
                yield PlannedAttack(model, chain, step)

    def chosen(self, setup: AttackSetup) -> list[tuple[ChainConfig, tuple[str, ...]]]:
        """The attacks with their metrics; one that only a policy names is left out if it cannot be carried out."""
        chosen = chosen_attacks(self.config, self.scoring.given)
        depths = self.depths() if any(attack.chain.made().names_layers for attack in chosen) else []
        measured = _attacked_metrics(self.config, self.scoring)
        found = []
        for attack in chosen:
            try:
                seen = self.seen(attack, measured, setup, depths)
            except UserError as error:
                if attack.own:
                    raise
                self.unmet.append((attack.chain, str(error)))
                continue
            found.append((attack.chain, seen))
        return found

    def seen(
        self, attack: ChosenAttack, measured: Sequence[str], setup: AttackSetup, depths: Sequence[int]
    ) -> tuple[str, ...]:
        """The metrics under an attack: the study's, if it names the attack, and those of policies."""
        own = chain_metrics(measured, attack.chain, setup, depths=depths) if attack.own else []
        needed = measurable(attack, setup.data.scored)
        if not attack.own:
            chain_metrics(needed or attack.metrics, attack.chain, setup, depths=depths)
        return tuple(dict.fromkeys([*own, *needed]))

    def attacked(
        self, config: AttackConfig, references: Sequence[PlannedModel], runs: Sequence[PlannedRun]
    ) -> list[PlannedModel]:
        """The attacked models, in the order of the study's roles."""
        roles = config.attacked_models(retrained=bool(self.config.retrained))
        by_role: dict[str, list[PlannedModel]] = {
            "unlearned": [run.delivered for run in runs],
            "calibrated": [run.calibrated for run in runs if run.calibrate is not None],
            **{reference.key.role: [reference] for reference in references},
        }
        return [model for role in dict.fromkeys(roles) for model in by_role[role]]

    def depths(self) -> list[int]:
        """The number of blocks of the models, from their configurations alone."""
        if self.config.model.build is not None:
            return [self.config.model.build.layers]
        from uwc.models.load import depth_of

        paths = [self.config.model.path, self.config.retrained]
        trust = self.config.model.trust_remote_code
        return [depth_of(path, trust_remote_code=trust) for path in paths if isinstance(path, str)]


def _of(key: ModelKey) -> tuple[str, ...]:
    return (key.role, key.run) if key.run else (key.role,)
