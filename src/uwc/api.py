"""The public functions: they check and convert their arguments, and call the function of each verb.

Every model is a folder, a hub name or a `Model` in memory; every data set a file, a list of `Example`, a pandas
DataFrame or a `datasets.Dataset`; every metric, attack and retention measure a name or a function.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, fields, replace
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeAlias, TypeVar

from pydantic import ValidationError

from uwc import __version__, answers, progress
from uwc.attacks.chain import Chain, make_chain
from uwc.attacks.data import AttackData, Attacker
from uwc.attacks.evaluate import (
    answer_rows,
    attack_model,
    budget_curves,
    check_metrics,
    curve_chains,
    describe,
    metric_values,
)
from uwc.attacks.registry import Texts, attack_name
from uwc.attacks.registry import attacks as attack_registry
from uwc.attacks.strongest import Search, candidates, cross_fitting, every_attack, own_part, read_budget
from uwc.calibration import calibrate as calibration
from uwc.calibration.calibrate import stop_at
from uwc.data.benchmark import DEFAULT_REFUSALS
from uwc.data.example import Example, after_shots, require_disjoint
from uwc.data.labels import read_labels
from uwc.data.outputs import OpenedOutputs
from uwc.data.question_files import Columns, LeftOut, Questions, examples_of, sets_of
from uwc.data.question_files import load_questions as load_questions
from uwc.errors import ConfigError, listed, reporting_full_disk
from uwc.io import PARTIAL, require_writable, write_bytes, written_whole
from uwc.metrics import evaluate
from uwc.metrics.compat import compat_of
from uwc.metrics.depth import Drops, depth_profiles, depth_work, with_depth
from uwc.metrics.harness import evaluate_tasks, find_tasks, require_chat_template
from uwc.metrics.leaks import leak_curves
from uwc.metrics.one_sided import AuditSettings
from uwc.metrics.registry import JUDGES
from uwc.metrics.samples import LeakSettings, require_no_judge, require_read
from uwc.metrics.scored import NOT_FINITE, needs_of
from uwc.metrics.secrets import secret_counts
from uwc.metrics.semantics import Judges, require_judges
from uwc.metrics.suites import (
    Given,
    chosen_metrics,
    in_all_wordings,
    metric_info,
    metric_name,
    question_warnings,
    rate_warnings,
    set_info,
)
from uwc.metrics.tasks import FILE as TASKS_FILE
from uwc.metrics.tasks import PREFIX as TASK_METRIC
from uwc.metrics.tasks import TaskScore, save_tasks, task_differences
from uwc.models.adapters import AdapterMixer
from uwc.models.checkpoint_files import KINDS, MODEL_FILES, contents
from uwc.models.chunks import FOLDER as CHUNKS
from uwc.models.chunks import keeping
from uwc.models.endpoint import Endpoint
from uwc.models.load import depth_of, save_model
from uwc.models.mixing import Mixer, Mixing
from uwc.models.mixtures import open_mixing, require_free, save_mixture
from uwc.models.model import DeviceName, Dtype, Loading, MaxMemory, Model, ModelLike, Prompt, name_of
from uwc.models.processes import dividing
from uwc.models.selection import Select
from uwc.names import require_names
from uwc.objectives.methods import Method, WeightedTerm, check_term, get_method
from uwc.objectives.registry import term_name
from uwc.reports.answers_page import PAGE, SIBLING, write_answers_page
from uwc.results import (
    ES,
    Answered,
    AttackResults,
    Attacks,
    AuditResults,
    CalibrationResults,
    Diff,
    ModelKey,
    Result,
    Scores,
    StrongestResults,
    StudyResults,
    UnlearnResult,
    Warning,
)
from uwc.studies import diff as study_diff
from uwc.studies.config import StopConfig, StudyConfig, TermConfig, stop_settings, training_settings
from uwc.studies.gather import logged
from uwc.studies.judging import judge_infos, unchecked
from uwc.studies.run import Runner
from uwc.studies.sections import (
    CalibrateConfig,
    HarnessConfig,
    first_problem,
    harness_config,
    require_other_names,
)
from uwc.studies.steps import STORE_VERSION
from uwc.tracking import Trackers
from uwc.training.callbacks import StopRule
from uwc.training.checkpoint import remove_checkpoint
from uwc.training.data import TrainingData
from uwc.training.distributed import main_process_writes
from uwc.training.settings import TrainingSettings, check_rule, check_stop
from uwc.training.unlearn import check_unlearning, trainable
from uwc.training.unlearn import require_free as require_output
from uwc.training.unlearn import unlearn as unlearn_model
from uwc.workflows import auditing, studies
from uwc.workflows.collecting import Under, with_attacks
from uwc.workflows.model_card import model_card
from uwc.workflows.texts import System, read_systems, system_of, text_scores, with_text_answers
from uwc.workflows.texts import measure as measure_texts

Sets: TypeAlias = "Questions | Mapping[str, Questions]"
"""Questions, or several sets of them by name."""
P = ParamSpec("P")
R = TypeVar("R")
Metric = str | Callable[..., Any]
"""A metric by name, label ("ES", "PPL") or as a function, or a suite: core, tofu, muse, lume, membership, all."""
Settings = Mapping[str, Mapping[str, Any]]
"""Name of a metric or attack -> its settings that differ from the defaults."""
Term = WeightedTerm | Mapping[str, Any] | Callable[..., Any]
"""A term of a method: with its weight, as a study's ``terms:`` has it, or as a function (see `uwc.loss`)."""

Harness: TypeAlias = "HarnessConfig | Mapping[str, Any] | None"
"""Settings of tasks of lm-evaluation-harness, see `uwc.metrics.tasks.HarnessSettings`."""

CONTROL = ModelKey(role="retrained")


class Retention(CalibrateConfig):
    """The retention constraint, and the metric of the ranking.

    Attributes:
        tau: the least ratio of every measure to the original's value.
        metric: the retention metric, in its own direction, on each of `sets`; ``model_utility`` is one number.
        sets: the sets of the constraint, each of which must satisfy it; by default all that are given. An empty tuple
            leaves `tasks` only.
        tasks: further measures: tasks of lm-evaluation-harness by name (``"mmlu"``), or functions from a model to a
            number of which more is better.
        rank_by: the metric of the forget set that models are ranked by; `metric` if it can be, else extraction
            strength.
        scan, resolution: of the search for alpha.

    Raises:
        ConfigError: a value is impossible, or a name unknown.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(f"Retention: {first_problem(error, CalibrateConfig)}") from None


def load_model(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a causal language model of transformers, or an adapter with its base.

    Args:
        path: a folder or hub name.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        ModelError: there is no such model, or it cannot be used; the message says why.
    """
    return Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(path).load(path)


def _long(function: Callable[P, R]) -> Callable[P, R]:
    """A function with the argument `output_dir` that continues where a killed run ended, and divides its work between
    the processes of a launcher."""

    @wraps(function)
    def run(*args: P.args, **settings: P.kwargs) -> R:
        given = settings.get("output_dir")
        folder = Path(given) / CHUNKS if isinstance(given, str | Path) else None
        with dividing(), keeping(folder, f"{__version__} {STORE_VERSION}"):
            return function(*args, **settings)

    return run


@_long
def score(
    model: ModelLike | System | Endpoint,
    data: "Sets | None" = None,
    *,
    metrics: Metric | Sequence[Metric] = "core",
    tasks: str | Sequence[str] = (),
    harness: Harness = None,
    original: ModelLike | System | None = None,
    retrained: ModelLike | System | None = None,
    compare: ModelLike | None = None,
    under: Under | None = None,
    attacker: Attacker | None = None,
    judges: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    samples: "Mapping[str, Any] | LeakSettings | None" = None,
    shots: Questions = (),
    compat: str | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> Scores:
    """Score a model on questions and, where they have paraphrases, on those; or texts that were generated elsewhere.

    Args:
        model: the model; or `uwc.Outputs` or a `uwc.Endpoint`, of whose texts the metrics of texts are computed.
        data: the questions, which are the set called "forget"; or several sets by name: forget, retain, holdout,
            real_authors, world_facts, verbatim, or any other. Texts may have theirs in their own rows; a model that is
            scored on `tasks` needs none.
        metrics: names, labels, suites or functions.
        tasks: tasks of lm-evaluation-harness, ``"mmlu"`` or ``"mmlu:acc_norm"``, on which a model is scored too; each
            is a set of its own.
        harness: settings of the tasks: include_path, limit, num_fewshot, seed, chat, batch_size.
        original: the model before unlearning, for metrics that compare with it; for texts its `Outputs`, for paired
            differences.
        retrained: a model that was never trained on the data, for forget quality, PrivLeak and the unlearning depth
            score; for texts its `Outputs`.
        compare: another model, for paired differences on the same examples.
        under: name of an attack -> the `Outputs` under it; or, for an endpoint, the attack, such as
            ``{"chain": "jailbreak", "settings": {"jailbreak": {"kinds": ["role play"]}}}``.
        attacker: the attacker's data, for an endpoint; as retained examples by default the set "retain".
        judges: name of a judge, "encoder", "entailment", "contradiction", "classifier" or "language_model" -> a path or
            a function; also "clean" (the label of a classifier that means that a text is clean) and "checked" (results
            of `uwc.check_judge` or their files); see `uwc.metrics.semantics.Judges`.
        settings: metric -> its settings that differ from the defaults.
        samples: the fields of `uwc.metrics.samples.LeakSettings` that differ from the defaults, for metrics of sampled
            answers such as leak_at_k.
        shots: solved questions that go before each question.
        compat: "open-unlearning" or "uwc-official": that code's definitions and prompt.
        columns: field -> column, where files or tables name them otherwise, see `uwc.data.question_files.sets_of`.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        max_new_tokens: the most tokens of a generated answer.
        seed: of the bootstrap.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original (else the model of `compare`) is.
        output_dir: a folder for ``score.json``, the token scores and texts by set, and ``answers.parquet``.
        overwrite: replace what the folder has of another model.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        log_to: trackers that get the results: wandb, tensorboard, trackio.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Returns:
        Each metric's average on each set with n, standard error and interval; ``answers`` has texts and values by
        example, also of the model of `compare`.

    Raises:
        UserError: a model or an example cannot be used, or a need of a metric is not met.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize)
    trackers = Trackers(log_to, folder=output_dir)
    asked_tasks, of_harness = _listed(tasks), harness_config(harness)
    of_harness.require_used(asked_tasks)
    if isinstance(model, System | Endpoint):
        if compare is not None or shots or compat is not None or asked_tasks or samples is not None:
            raise ConfigError(
                "compare, shots, compat, samples and tasks are for models; the texts of the original are given as "
                "original"
            )
        return _score_texts(
            model,
            None if data is None else _by_name(data),
            before=system_of("original", original),
            retrained=system_of("retrained", retrained),
            under=under or {},
            attacker=attacker,
            metrics=_listed(metrics),
            judges=judges or {},
            settings=settings,
            columns=columns,
            skip_invalid=skip_invalid,
            seed=seed,
            output_dir=output_dir,
            overwrite=overwrite,
            keep_paths=keep_paths,
            trackers=trackers,
            device=device,
        )
    if (data is None and not asked_tasks) or under or attacker is not None:
        raise ConfigError(
            "give the questions of a model as data, and attacks on it to uwc.attack; under and attacker are for "
            "texts and servers: leave them out"
        )
    original, retrained = _checkpoint("original", original), _checkpoint("retrained", retrained)
    loading.used_by(model, original, retrained, compare)
    Scores.prepare(output_dir, overwrite=overwrite, model=name_of(model))
    invalid: LeftOut = [] if skip_invalid else None
    sets = {} if data is None else sets_of(_by_name(data), columns, left_out=invalid)
    require_other_names(asked_tasks, in_all_wordings(sets), where="tasks")
    solved = examples_of(shots, name="shots", left_out=invalid)
    require_judges(judges or {})
    wordings = in_all_wordings(sets)
    old = [] if output_dir is None else _older_files(Path(output_dir), wordings, tasks=bool(asked_tasks))
    by_judge = {name: judge for name, judge in (judges or {}).items() if name in JUDGES}
    models = {"original": original, "retrained": retrained, **by_judge}
    leaks = _leak_settings(samples)
    available = frozenset(n for n, m in models.items() if m is not None)
    given = Given(wordings, available, max_new_tokens, leaks)
    names, left_out = ([], {}) if data is None else chosen_metrics(None, _listed(metrics), given)
    require_read(leaks, names)
    found_tasks = find_tasks(asked_tasks, of_harness.settings(), where="tasks")
    by_name = {metric_name(name): of_metric for name, of_metric in (settings or {}).items()}
    scoring = evaluate.Scoring(given, names, by_name, compat=compat_of(compat), seed=seed)
    for name, lacking in left_out.items():
        progress.note(f"{name} left out: it needs {lacking}")
    warnings = _warned([*question_warnings(sets), *rate_warnings(given.sets, names), *_on_rows(invalid)])
    judged_by = judge_infos(judges or {}, scoring)
    warnings += _warned(unchecked(judged_by))
    first = None if own_tokenizer else original if original is not None else compare
    reading = None if first is None else loading.reading(first)
    if of_harness.chat:
        for read in [loading.reading(m) for m in (model, compare) if m is not None] if reading is None else [reading]:
            require_chat_template(read.tokenizer)
    _require_models(model, original, compare, retrained)
    asked = Judges.load(judges or {}, device=device)

    def loaded(which: ModelLike) -> Model:
        read = loading.load(which, reading, base=original)
        return read.rewritten(after_shots(solved)) if solved else read

    reference = None if original is None else loaded(original)

    by_block = depth_work(scoring)

    def scored(which: ModelLike | None, *, control: bool = False) -> tuple[evaluate.ScoredSets, Drops, list[TaskScore]]:
        if which is None:
            return {}, {}, []
        read = loaded(which)
        of_sets = evaluate.score_sets(read, scoring.work(control=control), original=reference, judges=asked)
        drops = {} if by_block is None or reference is None else by_block.drops(reference, read, scoring.compat)
        return of_sets, drops, [] if control else evaluate_tasks(found_tasks, read)

    (ours, changed, our_tasks), (theirs, other_changed, their_tasks) = scored(model), scored(compare)
    unseen, known, _ = scored(retrained, control=True)
    if by_block is not None:
        ours = with_depth(ours, by_block.span, known=known, changed=changed)
        theirs = with_depth(theirs, by_block.span, known=known, changed=other_changed)
        unseen = with_depth(unseen, by_block.span, known=known, changed=known)
    found = evaluate.evaluate(ours, scoring, retrained=unseen)
    if lost := evaluate.not_finite_in_words(found):
        warnings += _warned([Warning(code="not_finite", text=f"{NOT_FINITE} on {lost}; load it in a higher precision")])
    scores = Scores(
        uwc_version=__version__,
        model=name_of(model),
        sets={name: set_info(name, examples) for name, examples in given.sets.items()}
        | {task.name: task.info for task in found_tasks},
        metrics={name: metric_info(name) for name in scoring.metrics} | {t.metric_name: t.info for t in our_tasks},
        scores=(*found, *(task.score(seed=seed) for task in our_tasks)),
        compared_with="" if compare is None else name_of(compare),
        differences=(
            *evaluate.paired_differences(theirs, ours, scoring),
            *task_differences(their_tasks, our_tasks, seed),
        ),
        secrets=tuple(secret_counts(ours, ModelKey(role="unlearned", run=name_of(model)))),
        judges=judged_by,
        leaks=tuple(leak_curves(ours, ModelKey(role="unlearned", run=name_of(model)), leaks, seed=seed)),
        depth=tuple(depth_profiles(ours, ModelKey(role="unlearned", run=name_of(model)), scoring)),
        left_out=left_out,
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    )
    scores = scores.without_paths(output_dir, keep=keep_paths)
    answered = [evaluate.answer_rows(ours, scoring, key=ModelKey(role="unlearned"), name=scores.model)]
    if theirs:
        key = ModelKey(role="original" if compare == original else "unlearned")
        other = scores.compared_with + " (compared with)" * (scores.compared_with == scores.model)
        answered.append(evaluate.answer_rows(theirs, scoring, key=key, name=other))
    scores = scores.with_answers(answers.joined(answered))

    def save(folder: Path) -> None:
        evaluate.save_sets(ours, folder)
        if our_tasks:
            save_tasks(our_tasks, folder)

    _save_scores(scores, output_dir, old, save)
    trackers.results(scores)
    return scores


def _score_texts(
    texts: System | Endpoint,
    questions: Mapping[str, Questions] | None,
    *,
    before: System | None,
    retrained: System | None,
    under: Under,
    attacker: Attacker | None,
    metrics: Sequence[Metric],
    judges: Mapping[str, Any],
    settings: Settings | None,
    columns: Columns | None,
    skip_invalid: bool,
    seed: int,
    output_dir: str | Path | None,
    overwrite: bool,
    keep_paths: bool,
    trackers: Trackers,
    device: DeviceName,
) -> Scores:
    """`score` of texts."""
    Scores.prepare(output_dir, overwrite=overwrite, model=texts.name)
    old = [] if output_dir is None else _older_files(Path(output_dir), ())
    require_judges(judges)
    texts, further = with_attacks(texts, under, attacker=attacker, folder=output_dir)
    load = cache(partial(Judges.load, judges, device=device))
    measured = partial(measure_texts, metrics=metrics, settings=settings, judges=judges, load=load, seed=seed)
    systems = read_systems(
        texts,
        questions,
        before=before,
        retrained=retrained,
        under=further,
        columns=columns,
        skip_invalid=skip_invalid,
        ready=measured,
    )
    found = measured(systems)
    scores = text_scores(found).without_paths(output_dir, keep=keep_paths)
    scores = with_text_answers(scores, found)
    _save_scores(scores, output_dir, old)
    trackers.results(scores)
    return scores


def _save_scores(
    scores: Scores, folder: str | Path | None, replaces: Sequence[str], more: Callable[[Path], None] | None = None
) -> None:
    """Write scores and their page of answers into a folder, and `more` files before them."""
    if folder is None:
        return
    with main_process_writes() as writes:
        if writes:
            _write_scores(scores, folder, replaces, more)


def _write_scores(
    scores: Scores, folder: str | Path, replaces: Sequence[str], more: Callable[[Path], None] | None
) -> None:
    with reporting_full_disk(Path(folder)), _written(Scores, folder, replaces=replaces) as hidden:
        if more is not None:
            more(hidden)
        scores.save(hidden)
        _write_answers_page(scores, hidden, f"Answers of {scores.model}")


def _checkpoint(name: str, given: ModelLike | System | None) -> ModelLike | None:
    """Another model. Raises ConfigError for texts."""
    if isinstance(given, System):
        raise ConfigError(f"{name} are texts, and the scored system is a model; give a model")
    return given


@_long
def calibrate(
    original: ModelLike,
    unlearned: ModelLike,
    *,
    forget: Questions,
    retain: Sets = (),
    retention: CalibrateConfig | Mapping[str, Any] | None = None,
    harness: Harness = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    curve: bool = True,
    seed: int = 0,
    save: str | Path | None = None,
    command: str = "",
    shown: Callable[[CalibrationResults], None] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> CalibrationResults:
    """Find the largest mixture of an unlearned model with its original that satisfies the retention constraint.

    The numbers are equal to those of `uwc.compare` on the same models and files. Source: arXiv:2406.09179.

    Args:
        original: the model before unlearning.
        unlearned: the unlearned model, or the folder of an adapter on the original.
        forget: questions that should be forgotten.
        retain: questions on which retention is measured; or several sets by name, each of which must satisfy the
            constraint.
        retention: the retention constraint: a `Retention`, or its fields.
        harness: settings of its tasks of lm-evaluation-harness: include_path, limit, num_fewshot, seed, chat,
            batch_size.
        columns: field -> column, where files or tables name them otherwise.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        max_new_tokens: the most tokens of a generated answer, for metrics that read them, and for the texts in
            ``answers``: with `curve` and `output_dir`, the answers to the forget questions of the original, the
            unlearned and the calibrated model, which takes three passes of generation over them; 0 for none.
        curve: probe the whole grid of mixtures with all questions, as the score at exactly tau, the tau curve and the
            intervals through alpha need; otherwise only alpha is searched, in a third of the time.
        seed: of the bootstrap.
        save: a folder for the calibrated model and its card; None does not write it.
        command: the command or call that the card names.
        output_dir: a folder for ``calibration.json``, ``answers.parquet`` and the values of the probes; None does not
            write them.
        overwrite: replace what the folders have of another model.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        log_to: trackers that get the results: wandb, tensorboard, trackio.
        shown: called with the results before the mixture is saved.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        UserError: the models cannot be mixed, the data overlap, or the original does not know the retain data.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(original, unlearned)
    trackers = Trackers(log_to, folder=output_dir)
    CalibrationResults.prepare(
        output_dir, overwrite=overwrite, original=name_of(original), unlearned=name_of(unlearned)
    )
    if save is not None:
        require_writable(Path(save))
    kept = _by_name(retain, "retain")
    invalid: LeftOut = [] if skip_invalid else None
    sets = sets_of({"forget": forget, **kept}, columns, left_out=invalid)
    questions = {name: examples for name, examples in sets.items() if name == "forget" or examples}
    constraint = _constraint(retention, tuple(name for name in kept if name in questions))
    for name in constraint.sets:
        require_disjoint(questions["forget"], questions.get(name, ()), names=("forget", name))
    constraint.check(questions, benchmark="retain", max_new_tokens=max_new_tokens)
    of_harness = harness_config(harness)
    of_harness.require_used(constraint.tasks)
    found_tasks = constraint.found_tasks(of_harness.settings())
    if of_harness.chat:
        require_chat_template(loading.reading(original).tokenizer)
    measures = constraint.measures(questions, max_new_tokens=max_new_tokens, found=found_tasks)
    asked = {name: questions[name] for name in ("forget", *constraint.sets)}
    warnings = _warned([*question_warnings(asked), *_on_rows(invalid)])
    mixing = _mixing(original, unlearned, loading)
    if save is not None:
        require_free(mixing, Path(save), overwrite=overwrite)
    found = calibration.calibrate(
        mixing,
        measures,
        {"forget": questions["forget"]},
        tau=constraint.tau,
        metric=constraint.ranked_by,
        scan=constraint.scan,
        resolution=constraint.resolution,
        curve=curve,
        max_new_tokens=max_new_tokens,
    )
    results = CalibrationResults(
        uwc_version=__version__,
        original=name_of(original),
        unlearned=name_of(unlearned),
        sets={name: set_info(name, examples) for name, examples in questions.items()},
        calibration=found.record(seed=seed),
        scores=found.scores(seed=seed),
        invalid_rows=tuple(invalid or ()),
        warnings=(*warnings, *found.warnings),
    ).without_paths(output_dir, keep=keep_paths)
    new_tokens = max_new_tokens if curve and output_dir is not None else 0
    results = results.with_answers(
        calibration.answer_rows(
            found, mixing, questions, names=(results.original, results.unlearned), max_new_tokens=new_tokens
        )
    )
    with main_process_writes() as writes:
        if writes and output_dir is not None:
            with reporting_full_disk(Path(output_dir)), _written(CalibrationResults, output_dir) as hidden:
                results.save(hidden)
                found.save(hidden)
                _write_answers_page(results, hidden, f"Answers of {results.unlearned}", constraint.ranked_by)
        if writes and shown is not None:
            shown(results)
        if writes and save is not None:
            made_by = command or f"uwc.calibrate({results.original!r}, {results.unlearned!r}, ...)"
            _save_calibrated(mixing, results, Path(save), made_by)
    trackers.results(results)
    return results


@_long
def attack(
    model: ModelLike,
    data: Sets,
    attacks: Metric | Sequence[Metric],
    *,
    attacker: Attacker | None = None,
    control: ModelLike | None = None,
    original: ModelLike | None = None,
    metrics: Metric | Sequence[Metric] = ("extraction_strength",),
    settings: Settings | None = None,
    samples: "Mapping[str, Any] | LeakSettings | None" = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    texts: Texts = True,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> AttackResults:
    """Score a model before and under attacks, each carried out separately; the model is not changed.

    Args:
        model: the model.
        data: the questions that are scored, which are the set called "forget"; or several sets by name.
        attacks: attacks and chains of them, such as ``"relearn+probe"``, or functions (see `uwc.attack_method`).
        attacker: the attacker's data; none by default.
        control: a model that was never trained on the data; what an attack elicits from it is not a leak.
        original: the model before unlearning, for metrics that compare with it.
        metrics: names, labels or functions.
        settings: attack -> setting -> value, where it differs from the default.
        samples: settings of sampling answers, as `score` takes them.
        columns: field -> column, where files or tables name them otherwise.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        max_new_tokens: the most tokens of a generated answer.
        texts: the texts under attack in ``answers``: for each question that of the variant with the worst value of the
            first metric (True), that of every variant ("all"), or none (False). Metrics that read no texts, such as
            extraction strength, cost about 1 + ln(n) further answers for each question of an attack with n variants,
            and one without an attack; False generates none.
        seed: of the bootstrap.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            original is, or else the model.
        output_dir: a folder for ``attack.json`` and ``answers.parquet``.
        overwrite: replace what the folder has of another model.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        log_to: trackers that get the results: wandb, tensorboard, trackio.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Returns:
        The outcomes of the model and of the control; an attack that failed or diverged is in ``failed``.

    Raises:
        UserError: a model, an attack, a metric or the data are not as they should be; found before a model is loaded
            where that can be.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(
        model, control, original
    )
    trackers = Trackers(log_to, folder=output_dir)
    AttackResults.prepare(output_dir, overwrite=overwrite, model=name_of(model))
    measured = _metric_names(metrics)
    leaks = _leak_settings(samples)
    require_read(leaks, measured)
    leaks.check(measured, {})
    require_no_judge(leaks, measured)
    chains = {name: make_chain(name, settings) for name in dict.fromkeys(map(attack_name, _listed(attacks)))}
    require_used(settings or {}, [s.entry.name for c in chains.values() for s in c.steps])
    invalid: LeftOut = [] if skip_invalid else None
    sets, owned = _attacked_sets(data, attacker, columns, invalid)
    warnings = _warned([*question_warnings(sets), *_on_rows(invalid)])
    _check_attacks(list(chains.values()), measured, owned, (model, control, original), original, loading)
    reading = None if own_tokenizer else loading.reading(model if original is None else original)
    reference = loading.load(original) if original is not None and "reference" in needs_of(measured) else None
    run = partial(
        attack_model,
        data=owned,
        sets=sets,
        chains=chains,
        names=measured,
        max_new_tokens=max_new_tokens,
        reference=reference,
        texts=texts,
        leaks=leaks,
        seed=seed,
    )
    theirs = None if control is None else run(loading.plain(control, reading), key=CONTROL)
    ours = run(
        loading.plain(model, reading, base=original),
        key=ModelKey(role="unlearned", run=name_of(model)),
        control=None if theirs is None else theirs.variants,
    )
    results = AttackResults(
        uwc_version=__version__,
        model=name_of(model),
        control="" if control is None else name_of(control),
        attacks=Attacks(
            attacks=tuple(describe(name, chain, measured) for name, chain in chains.items()),
            sets={name: len(examples) for name, examples in sets.items()},
            attacker=owned.owned,
            models=(ours.model,) if theirs is None else (ours.model, theirs.model),
        ),
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    named = [(ours, results.model)] if theirs is None else [(ours, results.model), (theirs, results.control)]
    results = results.with_answers(
        answers.joined(
            answer_rows(attack, variants, sets, key=found.model.model, name=name, condition=condition)
            for found, name in named
            for attack, condition, variants in (
                ("", answers.AS_DELIVERED, [found.before]),
                *((attack, answers.ATTACK, variants) for attack, variants in found.variants.items()),
            )
        )
    )
    _save_attacks(results, output_dir, measured[0])
    trackers.results(results)
    return results


@_long
def attack_curve(
    model: ModelLike,
    data: Questions,
    attack: Metric,
    efforts: Sequence[float],
    *,
    over: str | None = None,
    select: Sequence[Select] = (),
    attacker: Attacker | None = None,
    control: ModelLike | None = None,
    original: ModelLike | None = None,
    metric: Metric = "extraction_strength",
    settings: Mapping[str, Any] | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> AttackResults:
    """Score a model under one attack at several efforts.

    Args:
        model, attacker, control, columns, skip_invalid, max_new_tokens, own_tokenizer: as `attack` takes them.
        output_dir, overwrite, keep_paths, log_to: as `attack` takes them.
        data: the questions that are scored.
        attack: one attack, no chain.
        efforts: the values of its effort.
        over: another setting to vary; the attack's effort by default.
        select: rules by which the attack chooses its examples (random, likelihood, fisher), with a curve for each; that
            of `settings` by default.
        original: the model before unlearning; a curve then has the effort for half of the recovery.
        metric: a name, label or function.
        settings: the attack's other settings.
        seed: of the bootstrap.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Returns:
        A curve for each rule, of the model and of the control; ``answers`` has no row.

    Raises:
        UserError: as `attack`; also for an attack without an effort.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(
        model, control, original
    )
    trackers = Trackers(log_to, folder=output_dir)
    AttackResults.prepare(output_dir, overwrite=overwrite, model=name_of(model))
    name, measured = attack_name(attack), metric_name(metric)
    rules = _rules(name, select, settings or {})
    chains = [c for given in rules for c in curve_chains(name, efforts, settings=given, over=over)[1]]
    invalid: LeftOut = [] if skip_invalid else None
    sets, owned = _attacked_sets({"forget": data}, attacker, columns, invalid)
    warnings = _warned([*question_warnings(sets), *_on_rows(invalid)])
    _check_attacks(chains, [measured], owned, (model, control, original), original, loading)
    reading = None if own_tokenizer else loading.reading(model if original is None else original)
    reference, known_values = None, None
    if original is not None:
        known = loading.load(original)
        found = metric_values(known, owned.scored, [measured], max_new_tokens=max_new_tokens, reference=known)
        known_values = found[measured]
        reference = known if "reference" in needs_of([measured]) else None
        del known
    curves = [
        curve
        for key, which in ((ModelKey(role="unlearned", run=name_of(model)), model), (CONTROL, control))
        if which is not None
        for curve in budget_curves(
            loading.plain(which, reading),
            owned,
            name,
            efforts,
            key=key,
            settings=settings,
            over=over,
            select=select,
            metric=measured,
            original=known_values,
            max_new_tokens=max_new_tokens,
            reference=reference,
            seed=seed,
        )
    ]
    results = AttackResults(
        uwc_version=__version__,
        model=name_of(model),
        control="" if control is None else name_of(control),
        attacks=Attacks(
            attacks=(describe(name, chains[-1], [measured]),),
            sets={of_set: len(examples) for of_set, examples in sets.items()},
            attacker=owned.owned,
            models=(),
        ),
        curves=tuple(curves),
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    results = results.with_answers(answers.joined([]))
    _save_attacks(results, output_dir)
    trackers.results(results)
    return results


@_long
def strongest_attack(
    model: ModelLike,
    data: Questions,
    attacks: Metric | Sequence[Metric] = (),
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    budget: str | None = None,
    folds: int = 3,
    attacker: Attacker | None = None,
    control: ModelLike | None = None,
    original: ModelLike | None = None,
    metric: Metric = "extraction_strength",
    settings: Settings | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> StrongestResults:
    """Choose the strongest of many attacks on a part of the questions, and report it on the others.

    A maximum over attacks is biased on the questions that it is taken over. Here the attacker trains on a part of the
    subjects, chooses the attack by its score on a second part, and a third part is scored under what was chosen; with
    k folds every subject is scored once, so that averages and intervals hold for the choice (arXiv:2410.08827).

    Args:
        model: the model.
        data: the questions.
        attacks: attacks and chains of them; by default, with a budget, all that the data and the metric admit.
        vary: ``"attack.setting"``, or ``"setting"`` for every attack that has it -> values; all combinations are tried.
        budget: ``"minutes=10"`` or ``"runs=30"`` for the search, divided by successive halving (arXiv:1603.06560) over
            rounds: one attack in three goes on, with three times the steps and questions. A run is the effort of a
            complete attack; only a number of runs gives the same results again. None carries out all attacks in full.
        folds: parts of the subjects, at least 3; of no effect with ``attacker.train``.
        attacker: the attacker's data. With ``train`` half of its subjects are trained on and half are chosen on, and
            all questions of `data` are scored.
        control: a model that was never trained on the data, which is attacked in the same way.
        original: the model before unlearning, for the recovered share.
        metric: a name, label or function, by which attacks are chosen and reported.
        settings, columns, skip_invalid, max_new_tokens, seed, own_tokenizer: as `attack` takes them.
        output_dir: a folder for ``strongest.json`` and, of a grid over an effort, the figure ``surface.svg``.
        overwrite, keep_paths, log_to: as `attack` takes them.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        UserError: as `attack`; or every attack failed.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(
        model, control, original
    )
    trackers = Trackers(log_to, folder=output_dir)
    StrongestResults.prepare(output_dir, overwrite=overwrite, model=name_of(model))
    measured, names = metric_name(metric), list(map(attack_name, _listed(attacks)))
    bound = None if budget is None else read_budget(budget)
    if not names and (bound is None or vary or settings):
        raise ConfigError("name the attacks to try; without names, give a budget alone: all attacks are tried")
    named = candidates(names, settings=settings, vary=vary)
    require_used(settings or {}, [s.entry.name for c in named for s in c.chain.steps])
    invalid: LeftOut = [] if skip_invalid else None
    sets, owned = _attacked_sets({"forget": data}, attacker, columns, invalid)
    warnings = _warned([*question_warnings(sets), *_on_rows(invalid)])
    divided = own_part(owned.train, owned.scored, seed=seed) if owned.train else None
    divided = divided or cross_fitting(owned.scored, folds, seed=seed)
    first = replace(owned, train=divided[0].train, scored=divided[0].scored, forget=())
    tried = named or every_attack(first, measured)
    _check_attacks([c.chain for c in tried], [measured], first, (model, control, original), original, loading)
    reading = None if own_tokenizer else loading.reading(model if original is None else original)
    search = Search(loading.plain(model, reading), owned, divided, tried, measured, bound, max_new_tokens, seed)
    found = search.run(
        control=None if control is None else partial(loading.plain, control, reading),
        original=None if original is None else partial(loading.plain, original, reading),
    )
    results = StrongestResults(
        uwc_version=__version__,
        model=name_of(model),
        control="" if control is None else name_of(control),
        original="" if original is None else name_of(original),
        attacker=owned.owned,
        strongest=found,
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    with main_process_writes() as writes:
        if output_dir is not None and writes:
            with reporting_full_disk(Path(output_dir)), _written(StrongestResults, output_dir) as hidden:
                from uwc.reports.strongest import surface_figure  # matplotlib takes a while

                results.save(hidden)
                if figure := surface_figure(results):
                    (hidden / "surface.svg").write_bytes(figure.file("svg"))
    trackers.results(results)
    return results


def unlearn(
    model: ModelLike,
    method: str | Method | Term | Sequence[Term],
    *,
    forget: Questions,
    retain: Questions = (),
    training: TrainingSettings | Mapping[str, Any] | None = None,
    rule: Mapping[str, Any] | None = None,
    tricks: Mapping[str, float] | None = None,
    stop: Mapping[str, Any] | None = None,
    refusals: Sequence[str] = DEFAULT_REFUSALS,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    output_dir: str | Path,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> UnlearnResult:
    """Unlearn questions from a model, and write a checkpoint that plain transformers loads.

    Interrupted, a run with ``checkpoint_every`` resumes from its last checkpoint (in ``OUTPUT.checkpoints``) when it is
    called again. Of a run that diverges the weights of the last finite step are written, and a warning says so.

    Args:
        model: the model; of one in memory a copy is trained.
        method: a registered method; or a sum of terms, each a `WeightedTerm`, a function (see `uwc.loss`), or a
            mapping as in a study's ``terms:``, such as ``{"term": "nll", "weight": 0.5}``.
        forget: questions to forget.
        retain: questions to retain; needed by methods with a retain term.
        training: settings that differ from the defaults.
        rule: settings of the method's rule, as in ``{"share": 0.25}``; with ``"name"`` another rule.
        tricks: trick -> value.
        stop: early stopping: ``at_most``, the bound of the forget score, and further settings of `stop_at`.
        refusals: refusals, for methods that train on them.
        columns: field -> column, where files or tables name them otherwise.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        output_dir: the folder to write; ``training_log.json``, this result, lies beside the weights.
        overwrite: replace a model that the folder has.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        log_to: trackers that get the training's log as it goes: wandb, tensorboard, trackio.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        UserError: an argument cannot be used, or the disk is full.
    """
    output = Path(output_dir)
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize).used_by(model)
    trackers = Trackers(log_to, folder=output)
    invalid: LeftOut = [] if skip_invalid else None
    sets = sets_of({"forget": forget, "retain": retain}, columns, left_out=invalid)
    _warned(_on_rows(invalid))
    require_disjoint(sets["forget"], sets["retain"], names=("forget", "retain"))
    chosen = _method(method).with_rule(rule or {})
    settings = training
    if not isinstance(settings, TrainingSettings):
        settings = training_settings(settings or {}, where="training settings")
    data = TrainingData(sets["forget"], sets["retain"], refusals)
    check_rule(chosen, settings, where=f"the method {chosen.name!r}")
    stopping = stop_settings(stop, where="early stopping") if stop else None
    if stopping is not None:
        check_stop(chosen, where=f"early stopping of {chosen.name!r}")
        if stopping.tau is not None and not sets["retain"]:
            raise ConfigError("early stopping at a calibrated score (tau) measures retention; give retain questions")
    blocks_of = model.model if isinstance(model, Model) else depth_of(model, trust_remote_code=trust_remote_code)
    check_unlearning(chosen, data, settings, tricks=tricks, model=blocks_of, where=f"the method {chosen.name!r}")
    require_writable(output)
    require_output(output, model, settings, overwrite=overwrite)
    trained = trainable(loading.own(model))
    checkpoints = output.with_name(f"{output.name}.checkpoints")
    asked = {"model": name_of(model), **asdict(chosen), "tricks": dict(tricks or {}), "training": asdict(settings)}
    with trackers.run(f"unlearn {output.name}", asked) as run:
        done = unlearn_model(
            trained,
            chosen,
            data,
            settings,
            tricks=tricks,
            checkpoints=checkpoints,
            stop=None if stopping is None else _stop_rule(stopping, loading, model, data),
            on_step=run.step,
        )
        error = done.diverged
        diverged = None if error is None else error.step
        run.end(stopped=done.log.stopped, diverged=diverged, collapse=done.collapse)
    result = UnlearnResult(
        uwc_version=__version__,
        model=name_of(model),
        path=str(output_dir),
        method=chosen.name,
        formula=chosen.formula,
        rule=asdict(chosen)["rule"] or {},
        tricks=dict(tricks or {}),
        settings=asdict(settings),
        status="ok" if error is None else "diverged",
        message="" if error is None else str(error),
        term="" if error is None else error.term,
        diverged=diverged,
        stopped=done.log.stopped,
        collapse=done.collapse,
        invalid_rows=tuple(invalid or ()),
        **logged(done.log.steps, done.log.effects),
    ).without_paths(output_dir, keep=keep_paths)
    with main_process_writes() as writes:
        if writes:
            with reporting_full_disk(output), written_whole(output, names=KINDS, replaces=MODEL_FILES) as hidden:
                save_model(done.model, hidden)
                result.save(hidden)
            remove_checkpoint(checkpoints)
    _tell(result)
    return result


def run_study(
    study: str | Path | Mapping[str, Any] | StudyConfig,
    *,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    runs_dir: str | Path = studies.DEFAULT_RUNS,
    fresh: bool = False,
    verify: bool = False,
    workers: int = 1,
    runner: str = "local",
    address: str | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    log_to: str | Sequence[str] = (),
    trust_remote_code: bool = False,
    allow_plugins: bool = False,
) -> StudyResults:
    """Run the missing steps of a study, and write its results and report to ``RUNS_DIR/NAME/``.

    Interrupted at any moment, the next call resumes and ends with the same bits.

    Args:
        study: a YAML file, the name of a shipped study, the same keys as a mapping, or a configuration.
        overrides: changes to it, ``{"calibrate.tau": 0.9}`` or ``["calibrate.tau=0.9"]``.
        runs_dir: the folder where results are kept; studies that share it share their steps.
        fresh: compute every step of the study again.
        verify: compare the hashes of all stored models, and not only of those that are read.
        workers: the number of processes that compute independent steps at the same time.
        runner: "local", or "ray" to compute them as tasks of Ray.
        address: of a cluster of Ray; without one Ray is started on this machine.
        overwrite: replace the results of a study of another model or benchmark that has this name.
        keep_paths: keep absolute paths in the results, as the study's key of that name.
        log_to: trackers that get trainings as they go, and the results: wandb, tensorboard, trackio.
        trust_remote_code: run Python code that comes with a checkpoint; a file cannot ask for it by itself.
        allow_plugins: execute plug-ins that a file names outside of the current folder.

    Raises:
        UserError: the study, its data or its checkpoints are not as they should be, or the disk is full.
    """
    results = studies.run_study(
        study,
        overrides=overrides or (),
        runs=Path(runs_dir),
        fresh=fresh,
        verify=verify,
        runner=Runner(workers, runner, address),
        overwrite=overwrite,
        keep_paths=keep_paths,
        log_to=log_to,
        trust_remote_code=trust_remote_code,
        allow_plugins=allow_plugins,
    )
    progress.note(f"report: {Path(runs_dir) / results.study.name / studies.REPORT}")
    return results


def diff(first: StudyResults | str | Path, second: StudyResults | str | Path, *, rtol: float = study_diff.RTOL) -> Diff:
    """Compare two results of one study number by number.

    Args:
        first, second: the results, or the paths of their results.json.
        rtol: the relative difference ``|a - b| / max(|a|, |b|)`` up to which two numbers count as within it.

    Raises:
        UserError: a file holds no results.
    """
    names = [r.study.name if isinstance(r, StudyResults) else str(r) for r in (first, second)]
    one, other = (r if isinstance(r, StudyResults) else StudyResults.load(r) for r in (first, second))
    return study_diff.diff(one, other, rtol=rtol, names=(names[0], names[1]))


@_long
def audit_against(
    model: auditing.Audited,
    retrained: auditing.Audited,
    forget: Questions,
    *,
    control: auditing.Audited | None = None,
    samples: "Mapping[str, Any] | LeakSettings | None" = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    own_tokenizer: bool = False,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> AuditResults:
    """Measure how well an observer who sees only answers distinguishes a model from a retrained one.

    A discriminator is fitted to the answers of both to the questions about one half of the subjects, and applied to
    those about the other half. Of n observed answers the log-odds are added: the advantage is ``2 AUC - 1``, 0 if the
    observer cannot tell which of the two answers. Source: after arXiv:2104.00163.

    Args:
        model: the model, the `Outputs` of a system, or an `Endpoint`.
        retrained: a model that was never trained on the data, likewise.
        forget: the questions.
        control: a second retrained model of another seed, as far from the first as one model is from another.
        samples: count, temperature, top_p and seed of sampled answers, see `uwc.metrics.samples.LeakSettings`; by
            default each question has one greedy answer, which is always the same.
        columns: field -> column, where files or tables name them otherwise; of texts by ``"outputs:PART"``,
            ``"retrained:PART"`` and ``"control:PART"``.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        max_new_tokens: the most tokens of an answer of a model.
        seed: of the divisions of the subjects into halves, and of the bootstrap.
        own_tokenizer: read every model with its own tokenizer, chat template and ends; by default all are read as the
            model is.
        output_dir: a folder for ``audit.json``, ``audit.svg`` and the answers of an endpoint.
        overwrite: replace what the folder has of another model.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Returns:
        The advantage for n = 1, 2, 4, ... answers, each with its interval; with `control` also that of an observer of
        the two retrained models, and the difference.

    Raises:
        UserError: a model or the questions cannot be used, or the questions are about fewer than four subjects.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize)
    loading.used_by(*(m for m in (model, retrained, control) if isinstance(m, str | Path | Model)))
    systems = {auditing.SYSTEM: model, auditing.RETRAINED: retrained}
    systems |= {} if control is None else {auditing.CONTROL: control}
    name = auditing.audited_name(model)
    AuditResults.prepare(output_dir, overwrite=overwrite, model=name, audit="--against")
    leaks = None if samples is None else _leak_settings(samples)
    invalid: LeftOut = [] if skip_invalid else None
    examples, opened, warnings = _audited(systems, forget, columns, invalid)
    warnings += auditing.check_observed(systems, examples, leaks)
    _warned(warnings)
    _require_models(*systems.values())
    plain = isinstance(model, str | Path | Model) and not own_tokenizer
    how = auditing.Asking(
        loading,
        loading.reading(model) if plain else None,  # type: ignore[arg-type]
        max_new_tokens,
        folder=None if output_dir is None else Path(output_dir),
        samples=leaks,
    )
    results = AuditResults(
        uwc_version=__version__,
        model=name,
        kind=auditing.kind_of(model),
        observer=auditing.observe(systems, examples, opened, how, seed=seed),
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    _save_audit(results, output_dir)
    return results


@_long
def audit_leaks(
    model: auditing.Audited,
    forget: Questions,
    *,
    budget: int,
    metric: Metric = "rouge_l",
    at_least: float = 0.8,
    settings: "Mapping[str, Any] | AuditSettings | None" = None,
    refusal_labels: str | Path | None = None,
    columns: Columns | None = None,
    skip_invalid: bool = False,
    max_new_tokens: int = 64,
    seed: int = 0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    keep_paths: bool = False,
    dtype: Dtype = "float32",
    device: DeviceName = "auto",
    max_memory: MaxMemory | None = None,
    dequantize: bool = False,
    prompt: Prompt = None,
    trust_remote_code: bool = False,
) -> AuditResults:
    """Look for leaks with a budget of queries, and estimate the share of leaks among all questions.

    An optimistic model of leaks chooses most questions, and a share is drawn at random, from which alone the estimate
    is made (`uwc.metrics.one_sided`). Of a refusal the content is not seen: the share is bounded by that of leaks and
    that of leaks and refusals. Source: after arXiv:2006.04858.

    Args:
        model: the model, the `Outputs` of a system, or an `Endpoint`.
        forget: the questions, each of which is asked at most once.
        budget: the most queries.
        metric: the metric of a single text by which an answer leaks.
        at_least: its least value in an answer that leaks.
        settings: random_share, optimism and batch, see `uwc.metrics.one_sided.AuditSettings`.
        refusal_labels: a file with the columns question, answer, output and label (yes: the output is a refusal), by
            which the error of the classifier of refusals is measured; by default on the package's own texts.
        columns: field -> column, where files or tables name them otherwise; of texts by ``"outputs:PART"``.
        skip_invalid: leave out invalid rows, at most half of a file, with a warning; by default they are an error.
        max_new_tokens: the most tokens of an answer of a model.
        seed: of the random questions.
        output_dir: a folder for ``audit.json``, ``audit.svg`` and every answer, from which an interrupted audit
            resumes without asking a question again.
        overwrite: replace what the folder has of another model.
        keep_paths: keep absolute paths in the results, see `uwc.results.Result.without_paths`.
        dtype, device, max_memory, dequantize, prompt, trust_remote_code: see `uwc.models.model.Loading`.

    Raises:
        UserError: the model, the questions, the metric or a setting cannot be used.
    """
    loading = Loading(dtype, device, prompt, trust_remote_code, max_memory, dequantize)
    loading.used_by(model if isinstance(model, str | Path | Model) else None)
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 1:
        raise ConfigError(f"budget = {budget!r}: give the most queries, an integer of at least 1")
    leaks = _leak_settings({"count": 1, "leaks": metric_name(metric), "at_least": at_least})
    _ = leaks.metric
    chosen = _audit_settings(settings)
    name = auditing.audited_name(model)
    AuditResults.prepare(output_dir, overwrite=overwrite, model=name, audit="--budget")
    labels = None if refusal_labels is None else read_labels(refusal_labels)
    invalid: LeftOut = [] if skip_invalid else None
    examples, opened, warnings = _audited({auditing.SYSTEM: model}, forget, columns, invalid)
    asked = auditing.askable(examples, leaks)
    _warned(warnings)
    if budget > len(asked):
        progress.note(f"the budget of {budget} queries is more than the {len(asked)} questions: all are asked")
    folder = None if output_dir is None else Path(output_dir)
    found = auditing.find_leaks(
        model,
        asked,
        opened.get(auditing.SYSTEM),
        auditing.Asking(loading, None, max_new_tokens, folder=folder),
        budget=budget,
        leaks=leaks,
        settings=chosen,
        labels=labels,
        not_scored=len(examples) - len(asked),
        seed=seed,
    )
    results = AuditResults(
        uwc_version=__version__,
        model=name,
        kind=auditing.kind_of(model),
        leaks=found,
        invalid_rows=tuple(invalid or ()),
        warnings=tuple(warnings),
    ).without_paths(output_dir, keep=keep_paths)
    _save_audit(results, output_dir)
    return results


def _audit_settings(given: "Mapping[str, Any] | AuditSettings | None") -> AuditSettings:
    """Validated settings of an audit under a budget. Raises ConfigError, naming the key and the valid ones."""
    if isinstance(given, AuditSettings):
        return given
    try:
        return AuditSettings(**(given or {}))
    except ValidationError as error:
        raise ConfigError(f"audit: {first_problem(error, AuditSettings)}") from None


def _older_files(folder: Path, sets: Iterable[str], *, tasks: bool = False) -> list[str]:
    """The files of an earlier score in a folder. Raises ConfigError if those of the sets, or of tasks, would replace
    others."""
    older: list[str] = []
    with suppress(OSError, ValueError, KeyError, TypeError, ConfigError):
        found = json.loads((folder / Scores.FILE).read_text(encoding="utf-8"))
        of_tasks = {score["set"] for score in found["scores"] if score["metric"].startswith(TASK_METRIC)}
        names = [name for name in found["sets"] if name not in of_tasks]
        require_names("set", names)
        older = [*evaluate.set_files(names), *([TASKS_FILE] if of_tasks else [])]
    for file in (*evaluate.set_files(sets), *([TASKS_FILE] if tasks else [])):
        if file not in older and (folder / file).exists() and not (folder / PARTIAL).exists():
            raise ConfigError(
                f"{folder / file} was not written by an earlier score, and would be replaced; give another folder"
            )
    return older


def _written(result: type[Result], folder: str | Path, *, replaces: Sequence[str] = ()) -> AbstractContextManager[Path]:
    """A folder for a result and the files that belong to it; see `written_whole`."""
    return written_whole(Path(folder), names=(result.FILE,), replaces=(*replaces, PAGE, SIBLING))


def _write_answers_page(results: Answered, folder: Path, title: str, first: str = ES) -> None:
    """Write the answers of a result as a page; `first` is the metric that decides what counts as answered."""
    metrics = {name: metric_info(name) for name in answers.metrics_of(results.answers)}
    write_answers_page(results.answers, metrics, folder / PAGE, title=title, first=first)


def _save_attacks(results: AttackResults, folder: str | Path | None, metric: str = "") -> None:
    """Write attacks into a folder; with a metric also the page of answers."""
    with main_process_writes() as writes:
        if folder is None or not writes:
            return
        with reporting_full_disk(Path(folder)), _written(AttackResults, folder) as hidden:
            results.save(hidden)
            if metric:
                _write_answers_page(results, hidden, f"Answers of {results.model} under attack", metric)


def _listed(given: Any) -> list[Any]:
    """One or several values as a list."""
    return [given] if isinstance(given, str) or callable(given) else list(given)


def _metric_names(given: Metric | Sequence[Metric]) -> list[str]:
    return list(dict.fromkeys(map(metric_name, _listed(given))))


def _by_name(data: Sets, name: str = "forget") -> dict[str, Questions]:
    """Sets by name; questions alone are the set of that name."""
    if not isinstance(data, Mapping):
        return {name: data}
    for key in data:
        if not isinstance(key, str):
            raise ConfigError(
                f"sets of questions are given by name, as in {{'forget': ..., 'retain': ...}}; not {key!r}"
            )
    require_names("set", data)
    return dict(data)


def _constraint(given: CalibrateConfig | Mapping[str, Any] | None, sets: tuple[str, ...]) -> CalibrateConfig:
    """The retention constraint; where it names no sets, on all that are given."""
    config = given if isinstance(given, CalibrateConfig) else Retention(**(given or {}))
    if "sets" in config.model_fields_set or config.utility:
        return config
    return config.model_copy(update={"sets": sets})


def _warned(warnings: list[Warning]) -> list[Warning]:
    """The warnings, printed."""
    for warning in warnings:
        progress.warn(warning.text)
    return warnings


def _on_rows(invalid: LeftOut) -> list[Warning]:
    return [of_file.warning for of_file in invalid or ()]


def _mixing(original: ModelLike, unlearned: ModelLike, loading: Loading) -> Mixing:
    """Two checkpoints on disk are streamed into one model in memory; models in memory are mixed in a copy."""
    if not isinstance(original, Model) and not isinstance(unlearned, Model):
        return open_mixing(original, unlearned, **loading.options())
    return Mixer(loading.plain(original), loading.own(unlearned, loading.reading(original)))


def _save_calibrated(mixing: Mixing, results: CalibrationResults, folder: Path, command: str) -> None:
    card = model_card(results, command=command, adapter=isinstance(mixing, AdapterMixer))
    with reporting_full_disk(folder), written_whole(folder, names=KINDS, replaces=MODEL_FILES) as hidden:
        save_mixture(mixing, results.calibration.alpha, hidden)
        (hidden / "README.md").write_text(card, encoding="utf-8")


def _audited(
    systems: Mapping[str, auditing.Audited], forget: Questions, columns: Columns | None, invalid: LeftOut
) -> tuple[list[Example], dict[str, OpenedOutputs], list[Warning]]:
    """The questions of an audit without their other wordings, the files of texts, and the warnings."""
    examples, opened = auditing.read_audited(systems, forget, columns, invalid)
    warnings = [*question_warnings({"forget": examples}), *_on_rows(invalid)]
    return auditing.plain_questions(examples), opened, warnings


def _save_audit(results: AuditResults, folder: str | Path | None) -> None:
    """Write an audit into a folder."""
    with main_process_writes() as writes:
        if folder is not None and writes:
            with reporting_full_disk(Path(folder)):
                from uwc.reports import audit  # matplotlib takes a while

                results.save(folder)
                if (figure := audit.audit_figure(results)) is not None:
                    write_bytes(Path(folder) / audit.FILE, figure.file("svg"))


def _attacked_sets(
    data: Sets, attacker: Attacker | None, columns: Columns | None, invalid: LeftOut
) -> tuple[dict[str, list[Example]], AttackData]:
    """The scored sets, and the attacker's data."""
    scored, owned = _by_name(data), attacker or Attacker()
    parts = [f.name for f in fields(Attacker) if f.name not in ("translations", "questions")]
    given = {f"attacker.{part}": getattr(owned, part) for part in parts}
    read = sets_of({**scored, **given}, columns, left_out=invalid)
    sets = {name: read[name] for name in scored}
    theirs = {part: read[f"attacker.{part}"] for part in parts}
    asked = [e for examples in sets.values() for e in examples]
    forget = [*sets.get("forget", ()), *theirs["train"]]
    return sets, AttackData(asked, translations=owned.translations, questions=owned.questions, forget=forget, **theirs)


def _leak_settings(given: "Mapping[str, Any] | LeakSettings | None") -> LeakSettings:
    """Validated settings of sampling answers. Raises ConfigError, naming the key and the valid ones."""
    if isinstance(given, LeakSettings):
        return given
    try:
        return LeakSettings(**(given or {}))
    except ValidationError as error:
        raise ConfigError(f"samples: {first_problem(error, LeakSettings)}") from None


def require_used(settings: Settings, names: Sequence[str]) -> None:
    """Raise ConfigError if settings are given for an attack that is not carried out."""
    for name in settings:
        if name not in names:
            there = f"which is not among the attacks: {', '.join(names)}" if names else "and no attack is named"
            raise ConfigError(f"settings are given for {name!r}, {there}; name it as an attack, or leave them out")


def _rules(attack: str, select: Sequence[Select], settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The settings of an attack with each rule. Raises ConfigError if it chooses none, or a rule is named twice."""
    if not select:
        return [settings]
    if "select" not in attack_registry.get(attack).settings:
        choosing = [entry.name for entry in attack_registry if "select" in entry.settings]
        raise ConfigError(f"select: the attack {attack!r} chooses no examples; these do: {listed(choosing)}")
    if "select" in settings or len(set(select)) < len(select):
        raise ConfigError("select: name each rule once, and none in the settings of the attack")
    return [{**settings, "select": rule} for rule in select]


def _check_attacks(
    chains: Sequence[Chain],
    metrics: Sequence[str],
    data: AttackData,
    models: Sequence[ModelLike | None],
    original: ModelLike | None,
    loading: Loading,
) -> None:
    """Refuse what cannot be carried out, without loading weights: of a model on disk its configuration is read."""
    check_metrics(metrics, chains, examples=data.scored, reference=original is not None)
    for chain in chains:
        chain.check_data(data)
    if any(chain.names_layers for chain in chains):
        for model in models:
            if isinstance(model, str | Path):
                depth = depth_of(model, trust_remote_code=loading.trust_remote_code)
                for chain in chains:
                    chain.check_depth(depth)
    _require_models(*models)


def _require_models(*models: object) -> None:
    """Raise ModelError if there is no model of a path or hub name, before another one is loaded and scored."""
    for model in models:
        if isinstance(model, str | Path):
            contents(model)


def _method(given: str | Method | Term | Sequence[Term]) -> Method:
    """A method by name, or a sum of terms. Raises ConfigError for one that is unknown or impossible."""
    if isinstance(given, Method):
        return given
    if isinstance(given, str):
        return get_method(given)
    several: Sequence[Any] = given if isinstance(given, Sequence) else [given]
    terms = tuple(map(_term, several))
    for term in terms:
        check_term(term)
    return Method(" + ".join(t.label for t in terms), "composed of terms", "", terms)


def _term(given: Any) -> WeightedTerm:
    if isinstance(given, WeightedTerm):
        return given
    if callable(given):
        return WeightedTerm(term_name(given))
    if not isinstance(given, Mapping):
        raise ConfigError(f"{given!r} is not a term; give a WeightedTerm, a function or a mapping: {{'term': 'nll'}}")
    try:
        return TermConfig(**given).weighted()
    except ValidationError as error:
        raise ConfigError(f"terms: {first_problem(error, TermConfig)}") from None


def _stop_rule(rule: StopConfig, loading: Loading, model: ModelLike, data: TrainingData) -> StopRule:
    original = loading.plain(model) if rule.tau is not None else None
    return stop_at(forget=data.forget, retain=data.retain, original=original, **rule.model_dump())


def _tell(result: UnlearnResult) -> None:
    """Say that a run diverged or stopped early, or that the model collapsed."""
    if result.status == "diverged":
        progress.warn(result.message)
    if result.stopped is not None and result.scores is not None:
        progress.note(f"stopped after step {result.stopped}, at a score of {result.scores.score[-1]:.3g}")
    if result.collapse is not None and result.collapse.collapsed:
        progress.note(
            f"the model collapsed: its perplexity on the retain set rose from {result.collapse.before:.3g} to "
            f"{result.collapse.after:.3g}; lower the learning rate, train less, or calibrate it"
        )
