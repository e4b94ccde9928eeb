"""Checks of a study: the preflight check before calibration, and the warnings on its results."""

from collections.abc import Iterator, Sequence

from uwc.calibration.calibrate import UNKNOWN
from uwc.calibration.measures import LITTLE, NEAR_ZERO, meaningless, ranking_metrics
from uwc.data.benchmark import FORGET, HOLDOUT
from uwc.errors import UserError
from uwc.metrics.registry import metrics
from uwc.metrics.scored import EXTRAS, NOT_FINITE, ScoredSet, needs_of
from uwc.metrics.stats import confidence_higher
from uwc.metrics.suites import FEW_CLUSTERS, clusters_of, few_clusters, question_warnings, rate_warnings, set_label
from uwc.results import (
    RETRAINED_KNOWS,
    SIGNIFICANT,
    ReferenceModel,
    Retention,
    Score,
    ServedModel,
    UnlearnedModel,
    Warning,
    collapse,
    find,
)
from uwc.studies.judging import unchecked
from uwc.studies.plan import Plan
from uwc.studies.steps import Checkpoint, Step, Unlearn
from uwc.studies.store import Store


def require_retention(plan: Plan, store: Store) -> None:
    """Refuse to calibrate if the scored original is near 0 on a set of the retention constraint, or if its logits are
    not finite.

    Measures that are not scored yet, such as benchmarks, are checked by the first calibration.

    Raises:
        UserError: it is; the retention ratio would be meaningless.
    """
    folder = store.folder(plan.original.score)
    for name in plan.sets:
        finite = ScoredSet.load(folder, name).finite
        if not finite.all():
            raise UserError(
                f"the original: {NOT_FINITE} on {(~finite).sum()} of {len(finite)} questions ({name}); load it in a "
                "higher precision, or leave these questions out"
            )
    for name, found, label in _retention_scores(plan, store):
        if not found >= NEAR_ZERO:
            raise meaningless(found, f"the {name} data ({label})", needed=NEAR_ZERO)


def study_warnings(
    plan: Plan,
    store: Store,
    references: Sequence[ReferenceModel],
    unlearned: Sequence[UnlearnedModel],
    retention: Retention | None,
) -> list[Warning]:
    """The warnings on a study's results."""
    return [
        *_coded(_on_original(plan, store)),
        *_coded(_on_retrained(plan, references)),
        *input_warnings(plan),
        *_coded(_on_readings(plan, store)),
        *_coded(_on_collapse(references, unlearned)),
        *_coded(_on_design(plan, retention)),
        *(warning for model in unlearned for warning in _coded(_on_model(model))),
    ]


def input_warnings(plan: Plan) -> list[Warning]:
    """The warnings on the questions and models that were given."""
    of_policies = {requirement.set for policy in plan.config.check for requirement in policy.requirements}
    asked = {"forget", *(plan.config.calibration.sets if plan.config.calibrate else ()), *of_policies}
    sets = {
        name: examples for name, examples in plan.sets.items() if name in asked and not name.endswith("_paraphrased")
    }
    several = len(plan.runs) > 1
    left_out = [of_file.warning for of_file in plan.benchmark.left_out]
    on_questions = [*question_warnings(sets, several=several), *rate_warnings(plan.sets, plan.scoring.of_sets)]
    on_judges = unchecked(plan.judges)
    return [*left_out, *on_questions, *on_judges, *_coded(_on_attacked(plan)), *_coded(_on_weights(plan))]


def on_servers(served: Sequence[ServedModel]) -> list[Warning]:
    """The models whose greedy answers come from servers."""
    return [
        Warning(
            code="answers_from_server",
            text=f"{of_model.in_words} Likelihoods, samples, attacks and calibrated mixtures are computed from the "
            "checkpoint.",
        )
        for of_model in served
    ]


def _on_attacked(plan: Plan) -> "Coded":
    """Fewer than five clusters among the questions that are scored under attack, where the whole set has more."""
    for name, examples in (plan.setup.sets if plan.setup else {}).items():
        if clusters_of(plan.sets[name]) >= FEW_CLUSTERS:
            yield from few_clusters(f"The attacked {set_label(name)} questions", clusters_of(examples))


def _coded(found: "Coded") -> list[Warning]:
    return [Warning(code=code, text=text) for code, text in found]


Coded = Iterator[tuple[str, str]]


def _on_original(plan: Plan, store: Store) -> Coded:
    """Data on which the original scores low."""
    found, label = _score_of(FORGET, plan.config.calibration.ranked_by, plan.original.score, store)
    if not found >= UNKNOWN:
        yield (
            "forget_unknown",
            f"The original model scores only {found:.3g} ({label}) on the forget data, so there is little to be "
            "forgotten; check the file and the prompt.",
        )
    for name, found, label in _retention_scores(plan, store):
        if not found >= LITTLE:
            yield (
                "retain_unknown",
                f"The original model scores only {found:.3g} ({label}) on the {name} data, so that the retention ratio "
                f"is unreliable; give {name} data that it knows, or another retention metric.",
            )


def retrained_knows(plan: Plan, references: Sequence[ReferenceModel]) -> str:
    """Why the given retrained model seems to know the forget data; empty if it does not, or the study trained it."""
    if plan.retrained is None or not isinstance(plan.retrained.model, Checkpoint):
        return ""
    scores = {model.role: model.scores for model in references}
    return knows_forget(scores["retrained"], scores["original"], plan.config.calibration.ranked_by)


def _on_retrained(plan: Plan, references: Sequence[ReferenceModel]) -> Coded:
    if reason := retrained_knows(plan, references):
        yield (
            RETRAINED_KNOWS,
            f"The retrained model scores {reason}: it seems to have been trained on the forget data, so that it is "
            "neither a reference nor a control, and no difference from it is shown; give a model that never was.",
        )


def knows_forget(retrained: Sequence[Score], original: Sequence[Score], metric: str) -> str:
    """Why a retrained model seems to know the forget data; empty if it does not.

    It scores half of what the original does or more; or significantly more than on the holdout data, by a tenth of the
    original's score or more.
    """
    theirs, forget, holdout = find(original, FORGET, metric), *(find(retrained, s, metric) for s in (FORGET, HOLDOUT))
    if theirs is None or forget is None or not theirs.mean >= UNKNOWN:
        return ""
    found = f"{forget.mean:.3g} ({metrics.get(metric).facts['label']}) on the forget data, and"
    if forget.mean >= theirs.mean / 2:
        return f"{found} the original {theirs.mean:.3g}"
    if holdout is None or not forget.mean - holdout.mean >= UNKNOWN * theirs.mean:
        return ""
    sure = confidence_higher(forget, holdout) >= SIGNIFICANT
    return f"{found} only {holdout.mean:.3g} on the holdout data" if sure else ""


def _on_weights(plan: Plan) -> Coded:
    """Given models with equal weights."""
    models = [*((m.key.label, m.model) for m in plan.references), *((r.config.label, r.model) for r in plan.runs)]
    same: dict[tuple[str, ...], list[str]] = {}
    for name, step in models:
        if isinstance(step, Checkpoint):
            same.setdefault(_weights(step), []).append(name)
    for names in same.values():
        if len(names) < 2:
            continue
        if names[0] == plan.original.key.label:
            yield (
                "weights_of_original",
                f"{' and '.join(names[1:])}: the weights are those of the original, so nothing is unlearned in them.",
            )
        else:
            yield (
                "same_weights",
                f"{' and '.join(names)} have the same weights: they are one model.",
            )


def _weights(step: Step) -> tuple[str, ...]:
    """Hashes of a given model's files of weights, with those of its base, or the hub's revision."""
    assert isinstance(step, Checkpoint)
    base = _weights(step.base) if isinstance(step.base, Checkpoint) else ()
    files = step.files
    return (*base, *sorted(value for name, value in files.items() if name.endswith(".safetensors") or "hub" in files))


def _on_readings(plan: Plan, store: Store) -> Coded:
    """Given models whose own tokenizer or prompt differs from the original's."""
    for key, step in [*((m.key, m.score) for m in plan.references), *((r.delivered.key, r.score) for r in plan.runs)]:
        if otherwise := store.outcome(step).read_otherwise:
            yield (
                "read_as_original",
                f"{key.label} has {'; '.join(otherwise)}; it is read with the original's tokenizer and prompt, "
                "as all models are.",
            )


def _on_collapse(references: Sequence[ReferenceModel], unlearned: Sequence[UnlearnedModel]) -> Coded:
    original = next((model.scores for model in references if model.role == "original"), ())
    if found := [f"{model.name} ({reason})" for model in unlearned if (reason := collapse(model, original))]:
        yield "collapsed", f"Collapsed as delivered, judged on the retain data: {', '.join(found)}."


def _on_design(plan: Plan, retention: Retention | None) -> Coded:
    untuned = [run.config.label for run in plan.runs if not (isinstance(run.model, Unlearn) and run.model.tuned)]
    if plan.config.unlearn.chosen_on == "reported" and untuned:
        yield (
            "chosen_on_reported",
            "The settings of the runs were chosen on the questions that are reported here: methods can look better "
            "than on other questions, some more than others, which the intervals do not include.",
        )
    if "forget_paraphrased" not in plan.sets:
        yield (
            "no_paraphrases",
            "The questions have no paraphrases, so extraction strength is measured on the original wording only.",
        )
    if plan.benchmark.retention == "retain" and any(run.config.given for run in plan.runs):
        yield (
            "retain_maybe_trained_on",
            "If a given model was trained on the questions on which retention is measured, it looks better than one "
            "that was not; if possible, use questions that none of them was trained on.",
        )
    elif plan.benchmark.retention == "retain":
        yield (
            "retain_trained_on",
            "Retention is measured on questions that the unlearning methods trained on; if possible, hold some back.",
        )
    if retention is not None and (silent := retention.without_interval):
        some = len(silent) < len(retention.measures)
        yield (
            "retention_without_interval",
            f"Retention by {' and '.join(silent)} is one number a model, without values by example. The intervals have "
            f"{'only a part' if some else 'nothing'} of the uncertainty of alpha in them, and are too narrow by that.",
        )
    if retention is not None and (normal := retention.by_standard_error):
        yield (
            "retention_by_standard_error",
            f"Retention by {' and '.join(normal)} has no values by question. The intervals have its standard error in "
            "them, without the correlation of the models' errors on the same questions, and are too wide by that.",
        )


def _on_model(model: UnlearnedModel) -> Coded:
    if model.status != "ok":
        yield model.status, f"{model.name}: {model.message}."
    elif model.calibration is None:
        return
    elif not model.calibration.monotone:
        yield (
            "not_monotone",
            f"{model.name}: retention is not monotone in alpha; a mixture below alpha has a ratio below tau.",
        )
    elif model.calibration.alpha == 0:
        yield (
            "alpha_zero",
            f"{model.name}: no mixture satisfies the retention constraint; alpha is 0, the original.",
        )


def _retention_scores(plan: Plan, store: Store) -> list[tuple[str, float, str]]:
    """(set, the original's score, the metric's label) for each set of the retention constraint that is scored by a
    metric for which low means 'forgotten'."""
    config = plan.config.calibration
    if config.metric not in ranking_metrics():
        return []
    if needs_of([config.metric]) & EXTRAS and config.metric not in plan.scoring.metrics:
        return []
    return [(name, *_score_of(name, config.metric, plan.original.score, store)) for name in config.sets]


def _score_of(name: str, metric: str, score: Step, store: Store) -> tuple[float, str]:
    scored = ScoredSet.load(store.folder(score), name)
    return scored.aggregate(metric).mean, str(metrics.get(metric).facts["label"])
