"""The search space of a run: what its method declares, with the study's changes, checked against the run itself."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from uwc.errors import ConfigError, UserError, listed
from uwc.objectives.methods import check_term
from uwc.objectives.registry import tricks
from uwc.objectives.spaces import Choices, Parameter, Range, Value
from uwc.registry import unknown_name
from uwc.studies.config import RunConfig, UnlearnConfig
from uwc.studies.sections import TuneConfig, first_problem
from uwc.training.settings import TrainingSettings

SEARCHED = ("training", "weights", "settings", "rule", "tricks")
"""The keys of a run that a search may change."""


def require_optuna() -> Any:
    """The package. Raises UserError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError("tune: the search needs Optuna; install it with: pip install 'uwc[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def tuned_runs(tune: TuneConfig, unlearn: UnlearnConfig) -> list[RunConfig]:
    """The runs that are tuned. Raises ConfigError if a name is unknown, or the run is a given checkpoint."""
    named = {name for run in unlearn.runs for name in (run.label, run.group) if name}
    for key, names in (("runs", tune.runs), ("space", tuple(tune.space))):
        for name in names:
            if name not in named:
                raise ConfigError(f"tune.{key}: {unknown_name('run', name, sorted(named))}")
    chosen = [r for r in unlearn.runs if {r.label, r.group} & set(tune.runs) or (not tune.runs and not r.given)]
    for run in chosen:
        if run.given:
            raise ConfigError(f"tune.runs: {run.label!r} is a given checkpoint, which trains nothing; leave it out")
        if unlearn.stop_of(run) is not None:
            raise ConfigError(
                f"tune: {run.label!r} stops early, and trials do not; leave 'stop' out, or search training.epochs"
            )
    if not chosen:
        raise ConfigError("tune: no run trains anything, so that there is nothing to search; leave it out")
    idle = [name for name in tune.space if not any(name in (run.label, run.group) for run in chosen)]
    if idle:
        raise ConfigError(f"tune.space: {idle[0]!r} is not tuned; add it to tune.runs")
    return chosen


def search_space(tune: TuneConfig, unlearn: UnlearnConfig, run: RunConfig) -> dict[str, Range | Choices]:
    """Key of the run -> the values to try, those around its own value as ranges.

    Raises:
        ConfigError: a key is unknown or has no value to search around, or a bound is not valid for the run.
    """
    changed: dict[str, Parameter | None] = {}
    for name in (run.group, run.label):
        changed |= tune.space.get(name, {})
    given = {**run.composition().space, **changed}
    settings, found = unlearn.settings_of(run, seed=0), dict[str, Range | Choices]()
    for key, parameter in given.items():
        where = f"tune.space: {run.label!r}: {key}"
        own = own_value(run, settings, key, where=where)
        if parameter is None:
            if key not in run.composition().space:
                raise ConfigError(f"{where} is not searched, so that null has no effect; leave it out")
            continue
        try:
            found[key] = parameter.around(own)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        for value in found[key].ends:
            _check(unlearn, run, key, value, where=where)
    if not found:
        raise ConfigError(f"tune.space: nothing is searched for {run.label!r}; leave it out of tune.runs")
    return dict(sorted(found.items()))


def own_value(run: RunConfig, settings: TrainingSettings, key: str, *, where: str) -> Value | None:
    """The value that a run has at a key by itself. Raises ConfigError if there is no such key."""
    section, *path = key.split(".")
    method = run.composition()
    by_section: dict[str, Mapping[str, Any]] = {
        "training": {name: getattr(settings, name) for name in TrainingSettings.__dataclass_fields__},
        "weights": {t.term: t.weight for t in method.terms},
        "settings": {f"{t.term}.{name}": value for t in method.terms for name, value in check_term(t).items()},
        "rule": {} if method.rule is None else vars(method.rule),
        "tricks": {e.name: run.tricks.get(e.name, e.facts["neutral"]) for e in tricks},
    }
    if section not in by_section:
        raise ConfigError(f"{where}: a search changes only {listed(SEARCHED)}; not {section!r}")
    valid = {name: value for name, value in by_section[section].items() if value is None or isinstance(value, Value)}
    if (name := ".".join(path)) not in valid:
        raise ConfigError(f"{where}: {unknown_name(f'key of {section}', name, list(valid))}")
    return valid[name]


def _check(unlearn: UnlearnConfig, run: RunConfig, key: str, value: Value, *, where: str) -> None:
    """Raise ConfigError if the run cannot have the value at the key."""
    try:
        changed = run.changed({key: value})
        unlearn.settings_of(changed, seed=0)
    except ValidationError as error:
        raise ConfigError(f"{where} = {value}: {first_problem(error, RunConfig)}") from None
    except ConfigError as error:
        raise ConfigError(f"{where} = {value}: {error}") from None
