"""The scores of a study as plain tables: the main comparison, every metric, and published results beside ours."""

from collections.abc import Iterable, Sequence

from uwc.published import PublishedTable, published, published_names
from uwc.reports.format import MISSING, RETRAINED_MEANING, Table, intervals, number, setting, with_error, with_interval
from uwc.results import ES, FORGET, MetricInfo, ModelKey, Score, StudyResults, UnlearnedModel, find

PARAPHRASED = "forget_paraphrased"
RETAIN = "retain"
AT_TAU = "at exactly tau, interpolated between the two mixtures on either side"
STATUS = {"ok": "", "diverged": " (diverged)", "not_finite": " (logits not finite)"}
"""Follows the name of a model without a rank."""


def split_sizes(results: StudyResults) -> list[str]:
    """The size of each split of the benchmark, ``forget: 100 examples of 10 subjects``."""
    return [
        f"{name}: {split.examples} examples" + (f" of {split.subjects} subjects" if split.subjects else "")
        for name, split in results.benchmark.splits.items()
    ]


def model_label(key: ModelKey) -> str:
    """What tables of all scores call a model."""
    return f"{key.run}, as delivered" if key.role == "unlearned" else key.label


def result_table(results: StudyResults) -> Table:
    """The main comparison: a row for each reference model, then one a method by rank, those without a rank last."""
    if results.retention is None:
        return _uncalibrated_table(results)
    metric, label = results.rank_by, results.metric_label(results.rank_by)
    info = results.metrics.get(metric)
    rows: list[tuple[str, ...]] = []
    for model in results.references:
        forget, paraphrased, retain = (find(model.scores, name, metric) for name in (FORGET, PARAPHRASED, RETAIN))
        cells = with_interval(forget, info), _mean(paraphrased, info), ""
        rows.append((model.role, "", "", "", *cells, _mean(retain, info)))
    for run in results.by_rank():
        at_tau = run.calibration.at_tau if run.calibration else None
        rows.append(
            (
                f"{run.name}{STATUS[run.status]}",
                _mean(find(run.scores, FORGET, metric), info),
                _mean(find(run.scores, RETAIN, metric), info),
                number(at_tau.alpha.value if at_tau else None),
                with_interval(run.residual(FORGET, metric), info),
                _mean(run.residual(PARAPHRASED, metric), info),
                number(at_tau.retention if at_tau else None),
                _mean(find(run.calibrated_scores, RETAIN, metric), info),
            )
        )
    columns = (
        "model" if results.study.kind == "comparison" else "method",
        f"forget {label}, as delivered",
        f"retain {label}, as delivered",
        "alpha at tau",
        f"residual forget {label} [95% interval]",
        f"residual forget {label}, paraphrased",
        "retention at tau",
        f"retain {label}, calibrated",
    )
    title = f"Forget {label} as delivered and at equal retention, best first (lower is better)"
    return Table(title, columns, tuple(rows), "\n".join(_result_remarks(results)))


def _uncalibrated_table(results: StudyResults) -> Table:
    """The scores of every model as it is, where nothing was calibrated."""
    metric, label = results.rank_by, results.metric_label(results.rank_by)
    info = results.metrics.get(metric)
    columns = ("model", f"forget {label} [95% interval]", f"forget {label}, paraphrased", f"retain {label}")
    rows = []
    for key, scores in results.scored():
        forget, paraphrased, retain = (find(scores, name, metric) for name in (FORGET, PARAPHRASED, RETAIN))
        name = key.label + (STATUS[results.run(key.run).status] if key.run else "")
        rows.append((name, with_interval(forget, info), _mean(paraphrased, info), _mean(retain, info)))
    rows += [(f"{m.name}{STATUS[m.status]}", MISSING, MISSING, MISSING) for m in results.unlearned if not m.scores]
    remarks = ["Nothing was calibrated. Intervals: 95%, bootstrap over clusters.", *_reference_remarks(results)]
    return Table(f"{label} of every model", columns, tuple(rows), "\n".join(remarks))


def _mean(score: Score | None, metric: MetricInfo | None) -> str:
    return number(score.mean if score else None, metric)


def _result_remarks(results: StudyResults) -> Iterable[str]:
    sizes = [f"{info.label} n = {info.examples}" for info in results.sets.values()]
    yield f"Questions scored: {'; '.join(sizes)}. Every score has its n and interval under all scores."
    yield (
        "alpha: weight of the unlearned model in its mixture with the original (0 = original, 1 = unlearned). Residual "
        f"scores, alpha and retention are {AT_TAU}. Retention: ratio to the original's value, the least of all "
        "measures. Calibrated: the mixture that calibration gives, as measured."
    )
    yield f"Intervals of residual scores: {intervals(results)}."
    yield from _reference_remarks(results)
    if not any(find(scores, PARAPHRASED, results.rank_by) for _, scores in results.scored()):
        reason = "were not scored" if PARAPHRASED in results.sets else "are not part of this benchmark"
        yield f"{MISSING} under paraphrased: paraphrased forget questions {reason}."
    for run in results.unlearned:
        if run.status != "ok":
            yield f"{run.name}: {run.message or 'training diverged'}."


def _reference_remarks(results: StudyResults) -> Iterable[str]:
    if results.reference("retrained"):
        yield f"retrained: {RETRAINED_MEANING}."


def metrics_table(results: StudyResults, metric: str) -> Table:
    """One metric for every model and set: mean ± standard error, with n in the column or, where it differs, the cell.

    Raises:
        KeyError: the results have no such metric.
    """
    info = results.metrics[metric]
    models = [(model_label(key), scores) for key, scores in results.scored()]
    measured = dict.fromkeys(s.set for _, scores in models for s in scores if s.metric == metric)
    sets = sorted(measured, key=lambda name: list(results.sets).index(name) if name in results.sets else len(measured))
    columns, cells = ["model"], []
    for name in sets:
        label, found = results.set_label(name), [find(scores, name, metric) for _, scores in models]
        counts = {score.n for score in found if score and score.n}
        counted = info.average != "set"
        same = counted and len(counts) == 1
        columns.append(f"{label}\nn = {counts.pop()}" if same else label)
        cells.append([_details_cell(score, info, with_count=counted and not same) for score in found])
    rows = tuple((model, *(column[i] for column in cells)) for i, (model, _) in enumerate(models))
    what = {
        "arithmetic": "Mean ± standard error",
        "geometric": "Geometric mean ± standard error",
        "set": "One number for whole sets",
    }[info.average]
    return Table(info.label, tuple(columns), rows, f"{what}; below it the 95% interval.")


def _details_cell(score: Score | None, metric: MetricInfo, *, with_count: bool) -> str:
    if score is None:
        return MISSING
    interval = with_interval(score, metric).partition(" ")[2]
    count = f"n = {score.n}" if with_count else ""
    return "\n".join(filter(None, [with_error(score, metric), interval, count]))


_PUBLISHED = (FORGET, RETAIN, PARAPHRASED, "retain_paraphrased")


def published_table(results: StudyResults) -> Table | None:
    """ES of each method as delivered and calibrated, here and as published on the same benchmark.

    None where nothing was published on the benchmark that the study has or names, or of none of its methods.
    """
    benchmark = results.study.config.get("published") or results.benchmark.name
    tables = [t for t in map(published, published_names()) if t.benchmark == benchmark and "method" in t.rows[0]]
    tables.sort(key=lambda table: not table.name.endswith("before"))
    found = {row["method"] for table in tables for row in table.rows}
    runs = [run for run in results.by_rank() if _published_name(run) in found]
    if not runs:
        return None
    models = list(dict.fromkeys(row["model"] for table in tables for row in table.rows))
    rows: list[tuple[str, ...]] = []
    for run in runs:
        delivered, calibrated = _published_cells(run.scores), _published_cells(run.calibrated_scores)
        rows.append((run.name, "this study", *delivered[:2], *calibrated))
        for model in models:
            before, after = (_published_row(table, _published_name(run), model) for table in tables)
            rows.append(("", model, *before[:2], *after))
    tau = results.retention.tau if results.retention else None
    remarks = [f"{table.title}: {table.source}. {table.setting}" for table in tables]
    remarks.append("Calibrated, here: the mixture itself, as measured, which is what was published.")
    remarks.append(f"This study: tau {setting(tau)}, one model of its own.")
    columns = (
        "method",
        "from",
        "forget ES, as delivered",
        "retain ES, as delivered",
        "forget ES, calibrated",
        "retain ES, calibrated",
        "forget ES, paraphrased, calibrated",
        "retain ES, paraphrased, calibrated",
    )
    return Table("Published results", columns, tuple(rows), "\n".join(remarks))


def _published_name(run: UnlearnedModel) -> str:
    """The method of an unlearned model; of a given one, what the user calls it."""
    return (run.method or run.group or run.name).lower()


def _published_cells(scores: Sequence[Score]) -> list[str]:
    return [_mean(find(scores, name, ES), None) for name in _PUBLISHED]


def _published_row(table: PublishedTable, method: str, model: str) -> list[str]:
    row = next(r for r in table.rows if (r["method"], r["model"]) == (method, model))
    return [number(row[name]) for name in _PUBLISHED]
