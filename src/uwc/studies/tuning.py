"""The search for the hyper-parameters of a run, by Optuna."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

from uwc import progress
from uwc.calibration.calibrate import Calibrated, calibrate
from uwc.metrics.registry import metrics
from uwc.models.adapters import merge_adapter
from uwc.models.mixing import Mixer
from uwc.models.model import Model
from uwc.objectives.objective import Objective
from uwc.objectives.spaces import Choices, Range, Value
from uwc.results import Trial, Tuning
from uwc.studies.search_space import own_value, require_optuna
from uwc.studies.sections import FORGET_SETS
from uwc.training.callbacks import StopRule
from uwc.training.data import Loader, TrainingData
from uwc.training.unlearn import unlearn

if TYPE_CHECKING:
    from uwc.studies.context import Context
    from uwc.studies.steps import Tune

JOURNAL, NAME = "optuna.journal", "tune"
EARLY, ALPHA, DIVERGED = "early", "alpha", "diverged"
RANDOM_TRIALS = 3
"""The trials before the first that is chosen by the scores of earlier ones, and before the first that may be pruned."""
LEAST_TRIALS = 8
"""The fewest finished trials that tell which hyper-parameters matter."""


def search(step: "Tune", context: "Context") -> Tuning:
    """Carry out the trials of a search that are not finished yet.

    Each run gets as many trials as any other, as arXiv:2406.09179 compares methods. A trial's values depend on the seed
    and on the finished trials alone, so that a search that was interrupted ends as one that was not.

    Raises:
        UserError: Optuna is not installed, or the original scores near 0.
    """
    optuna = require_optuna()
    states = optuna.trial.TrialState
    study = _open(optuna, step, context)
    for broken in study.get_trials(states=(states.RUNNING,)):
        study.tell(broken.number, state=states.FAIL)
    sign = 1.0 if _remembers_high(step) else -1.0
    done = len(_over(optuna, study))
    with progress.bar(f"tune {step.of[-1]}", total=step.search.trials) as advance:
        advance(done)
        for number in range(done, step.search.trials):
            if not number and not study.get_trials(states=(states.WAITING,)):
                study.enqueue_trial(_own_values(step))
            study.sampler = _sampler(optuna, step, number)
            trial = study.ask()
            found = _attempt(step, context, trial, sign, name=f"trial {number + 1} of {step.search.trials}")
            if found is None:
                study.tell(trial, state=states.PRUNED)
            else:
                study.tell(trial, sign * found)
            advance(1, f"best {sign * study.best_value:.3f}")
    return _tuning(optuna, step, study)


def _open(optuna: Any, step: "Tune", context: "Context") -> Any:
    """Optuna's study, kept in the step's folder of checkpoints."""
    kept = context.store.checkpoints(step)
    kept.mkdir(parents=True, exist_ok=True)
    backend = optuna.storages.journal.JournalFileBackend(str(kept / JOURNAL))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=NAME,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS),
    )


def _over(optuna: Any, study: Any) -> list[Any]:
    """The trials that ended, pruned ones included."""
    states = optuna.trial.TrialState
    return list(study.get_trials(states=(states.COMPLETE, states.PRUNED)))


def _sampler(optuna: Any, step: "Tune", number: int) -> Any:
    """The sampler of a trial, seeded by its number, so that its state need not be kept."""
    seed = (step.search.seed * 1_000_003 + number) % 2**32
    if step.search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)


def _own_values(step: "Tune") -> dict[str, Value]:
    """The run's own values that are in the space."""
    training = step.training(step.config, seed=step.seed)
    own = {key: own_value(step.config, training, key, where="tune") for key in step.space}
    return {key: value for key, value in own.items() if value is not None and value in step.space[key]}


def _suggested(trial: Any, key: str, parameter: Range | Choices) -> Value:
    if isinstance(parameter, Choices):
        value: Value = trial.suggest_categorical(key, parameter.choices)
    elif parameter.whole:
        value = trial.suggest_int(key, int(parameter.low), int(parameter.high), log=parameter.log)
    else:
        value = trial.suggest_float(key, parameter.low, parameter.high, log=parameter.log)
    return value


@dataclass(frozen=True)
class _Prune(StopRule):
    """Ends a trial once, after `every` steps, if its measure is at most the bound."""

    def due(self, step: int) -> bool:
        return step == self.every


def _attempt(step: "Tune", context: "Context", trial: Any, sign: float, *, name: str) -> float | None:
    """Unlearn with a trial's values; the residual forget score, or None if the trial was pruned."""
    values = {key: _suggested(trial, key, parameter) for key, parameter in step.space.items()}
    run = step.config.changed(values)
    training = replace(step.training(run, seed=step.seed), gradient_effect_every=None, checkpoint_every=None)
    model, method = replace(context.model(step.original, step.loading), name=name), run.composition()
    objective = Objective(method, model.model, trick_settings=run.tricks)
    data = TrainingData(step.forget, step.retain, step.refusals)
    original = context.original(step.original, step.loading)
    stop = None
    if step.search.prune_at is not None and method.stops_early:
        steps = len(Loader(model, objective, data, training).plan)
        at = ceil(step.search.prune_at * steps)
        stop = _Prune(partial(_keep, step, original, trial, sign), 0.0, at) if at < steps else None
    frozen = context.frozen(step.original, step.loading, objective, training)
    done = unlearn(model, method, data, training, tricks=run.tricks, frozen=frozen, stop=stop, check_collapse=False)
    if done.diverged is not None:
        trial.set_user_attr(DIVERGED, done.diverged.step)
    if done.log.stopped is not None:
        return None
    found = _calibrated(step, original, done.model)
    trial.set_user_attr(ALPHA, found.alpha)
    return found.forget_score


def _keep(step: "Tune", original: Model, trial: Any, sign: float, model: Model) -> float:
    """Report the early score of a trial: positive if it is to be kept, negative if not."""
    working = merge_adapter(replace(model, model=copy.deepcopy(model.model)))
    score = _calibrated(step, original, working).forget_score
    trial.set_user_attr(EARLY, score)
    trial.report(sign * score, step=1)
    return -1.0 if trial.should_prune() else 1.0


def _calibrated(step: "Tune", original: Model, unlearned: Model) -> Calibrated:
    """The calibration on the trials' subjects; the unlearned model becomes the mixture."""
    config, forget = step.retention, FORGET_SETS[0]
    return calibrate(
        Mixer(original, unlearned),
        config.measures(step.sets, max_new_tokens=step.max_new_tokens, found=step.tasks),
        {forget: step.sets[forget]},
        tau=config.tau,
        metric=config.ranked_by,
        scan=config.scan,
        resolution=config.resolution,
        curve=False,
        max_new_tokens=step.max_new_tokens,
    )


def _remembers_high(step: "Tune") -> bool:
    return bool(metrics.get(step.retention.ranked_by).facts["higher_remembers"])


def _tuning(optuna: Any, step: "Tune", study: Any) -> Tuning:
    """The record of a search, with trials numbered without those that were interrupted."""
    over = _over(optuna, study)
    numbers = {trial.number: number for number, trial in enumerate(over)}
    high = _remembers_high(step)
    forget = step.sets[FORGET_SETS[0]]
    return Tuning(
        run=step.of[-1],
        metric=step.retention.ranked_by,
        higher_remembers=high,
        subjects=len({e.subject or e.id for e in forget}),
        questions=len(forget),
        space={key: str(parameter) for key, parameter in step.space.items()},
        trials=tuple(_trial(trial, numbers[trial.number], high) for trial in over),
        best=numbers[study.best_trial.number],
        importance=_importance(optuna, study),
    )


def _trial(trial: Any, number: int, high: bool) -> Trial:
    score = None if trial.value is None or trial.state.name == "PRUNED" else trial.value * (1.0 if high else -1.0)
    noted: Mapping[str, Any] = trial.user_attrs
    return Trial(
        number=number,
        values=dict(sorted(trial.params.items())),
        early=noted.get(EARLY),
        score=score,
        alpha=noted.get(ALPHA),
        diverged=noted.get(DIVERGED),
    )


def _importance(optuna: Any, study: Any) -> dict[str, float]:
    """Key -> its importance, which is not known for few trials or equal scores."""
    scores = {trial.value for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))}
    if len(scores) < LEAST_TRIALS:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return {
        key: float(value) for key, value in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }
