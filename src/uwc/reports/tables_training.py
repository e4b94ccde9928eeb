"""How the models of a study were made, as plain tables: methods, settings, training, and the steps of the run."""

from collections.abc import Mapping

from pydantic import JsonValue

from uwc.progress import duration
from uwc.reports.format import MISSING, Table, known, number, setting, significant
from uwc.results import Collapse, RunRecord, StudyResults, TrainingRecord


def methods_table(results: StudyResults) -> Table:
    """By which method each unlearned model was made: in words, its loss and its source; of given models the path."""
    if all(run.checkpoint for run in results.unlearned):
        given = tuple((run.name, str(run.checkpoint)) for run in results.unlearned)
        return Table("Given models", ("model", "checkpoint"), given)
    rows = tuple(
        (run.name, run.summary or MISSING, run.formula or MISSING, run.source or MISSING) for run in results.unlearned
    )
    return Table("Methods", ("method", "summary", "loss", "source"), rows)


def settings_table(results: StudyResults) -> Table:
    """The settings that differ between the methods, a column each; the caption has those that are the same."""
    given = {
        run.name: {**run.settings, **_prefixed("rule", run.rule), **_prefixed("trick", run.tricks)}
        for run in results.unlearned
    }
    keys = dict.fromkeys(key for settings in given.values() for key in settings)
    values = {key: [setting(settings.get(key)) for settings in given.values()] for key in keys}
    varying = [key for key in keys if len(set(values[key])) > 1]
    rows = tuple((name, *(values[key][i] for key in varying)) for i, name in enumerate(given))
    first = next(iter(given.values()), {})
    plain = [k for k in keys if k not in varying and first.get(k) is not None and not isinstance(first[k], Mapping)]
    same = ", ".join(f"{key} = {values[key][0]}" for key in plain)
    caption = f"The same for all methods: {same}; the configuration below has the rest." if same else ""
    return Table("Training settings", ("method", *varying), rows if varying else (), caption)


def _prefixed(kind: str, settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {f"{kind}: {name}": value for name, value in settings.items()}


def trained(results: StudyResults) -> list[tuple[str, TrainingRecord]]:
    """Name and record of the models whose training left a log, by rank; those that diverged come last."""
    return [(run.name, run.training) for run in results.by_rank() if run.training and run.training.log.step]


def training_table(results: StudyResults) -> Table:
    """How each training went: its steps, loss, largest gradient, perplexity on the retain set, and how it ended."""
    rows, bounds = [], set()
    for name, training in trained(results):
        log, collapse = training.log, training.collapse
        norms = [value for value in log.gradient_norm if known(value)]
        rows.append(
            (
                name,
                str(training.steps),
                _short(log.loss[0] if log.loss else None),
                _short(log.loss[-1] if log.loss else None),
                _short(max(norms, default=None)),
                *_perplexities(collapse),
                _ending(training),
            )
        )
        bounds |= {collapse.bound} if collapse else set()
    remarks = ["PPL: perplexity per answer token on the retain set, of the original and as delivered."]
    remarks += [
        f"collapsed: the retain PPL rose to more than {bound:g} times the original's." for bound in sorted(bounds)
    ]
    columns = (
        "method",
        "steps",
        "loss, first step",
        "loss, last step",
        "largest gradient norm",
        "retain PPL before",
        "retain PPL after",
        "end",
    )
    return Table("Training", columns, tuple(rows), "\n".join(remarks))


def _perplexities(collapse: Collapse | None) -> tuple[str, str]:
    if collapse is None:
        return MISSING, MISSING
    before, after = (significant(v) if known(v) else "∞" for v in (collapse.before, collapse.after))
    return before, after


def _ending(training: TrainingRecord) -> str:
    endings = []
    if training.stopped is not None:
        score = training.scores.score[-1] if training.scores and training.scores.score else None
        endings.append(f"stopped early after step {training.stopped}, at a score of {number(score)}")
    if training.diverged is not None:
        endings.append(f"diverged at step {training.diverged}")
    if training.collapse and training.collapse.collapsed:
        endings.append("collapsed")
    return "; ".join(endings) or "complete"


def _short(value: float | None) -> str:
    return f"{value:.3g}" if known(value) else MISSING


def steps_table(run: RunRecord) -> Table:
    """The steps of the run, how long each took when it was computed, and which were reused from the cache."""
    rows = tuple(
        (
            step.name,
            duration(step.seconds) if known(step.seconds) else MISSING,
            "reused" if step.reused else "computed",
            step.key,
        )
        for step in run.steps
    )
    spent = sum(step.seconds for step in run.steps if not step.reused and known(step.seconds))
    caption = f"Computed in this run: {duration(spent)}. A reused step was taken from an earlier run with the same key."
    return Table("Steps", ("step", "time", "this run", "key"), rows, caption)
